"""What is painted in the editor: one mask for each color of the brush, within the image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError

pytest.importorskip("gradio", reason="the page needs the extra studio")

# Of Gradio, and of what it stands on.
pytestmark = pytest.mark.filterwarnings("default")

SIZE = 40
PLACES = {"top": (slice(10, 20), slice(10, 30)), "bottom": (slice(20, 30), slice(0, 40))}


@pytest.fixture
def edit():
    from rdm_jax.studio.page.tabs import edit

    return edit


@pytest.fixture
def page(workshop):
    import gradio as gr  # pyright: ignore[reportMissingImports]

    from rdm_jax.studio.page.shared import Page

    return Page(workshop, {}, gr.Dropdown(), None)


def given(edit, strokes, **values):
    """Returns the form with an image of 20x20 pixels in the middle of the canvas, and strokes {place: color}."""
    background, layer = np.zeros((SIZE, SIZE, 4), np.uint8), np.zeros((SIZE, SIZE, 4), np.uint8)
    background[10:30, 10:30] = 255
    for place, color in strokes.items():
        layer[PLACES[place]] = [*(int(color[at : at + 2], 16) for at in (1, 3, 5)), 255]
    form = dict.fromkeys(edit.EditValues.__annotations__)
    form |= {"model": "tiny", "action": edit.REGION, "prompt": "a red boat", "databases": ["others"]}
    form |= {"strength": 0.5, "count": 1, "seed": "1", "orange_prompt": "", "blue_prompt": ""}
    form |= dict.fromkeys(edit.SIDES, 0)
    form["image"] = {"background": background, "layers": [layer]}
    return edit.EditValues(**{**form, **values})


def test_each_color_has_a_mask_of_its_own_within_the_image(edit):
    painted = edit._painted(given(edit, {"top": "#ff5a36", "bottom": "#2563eb"}))
    assert painted["orange"].shape == (20, 20)
    assert painted["orange"][:10].all() and not painted["orange"][10:].any()
    assert painted["blue"][10:].all() and not painted["blue"][:10].any()


def test_the_edge_of_a_stroke_has_the_nearest_color_and_faint_paint_counts_as_none(edit):
    form = given(edit, {"top": "#e8603f"})
    assert edit._painted(form)["orange"][:10].all()
    form.image["layers"][0][..., 3] = 100
    assert not any(mask.any() for mask in edit._painted(form).values())


def test_two_regions_have_databases_of_their_own(edit, page, workshop):
    form = given(edit, {"top": "#ff5a36", "bottom": "#2563eb"}, orange_database="squares", blue_prompt="a blue tree")
    *_, last = edit._regions(page, form).statuses()
    assert not last.error, last.error
    from rdm_jax.studio.history import images_of

    (made,) = images_of(last.result)
    first, second = made.run["request"]["conditions"]
    assert "squares" in first and "a blue tree" in second
    for text, rows in ((first, slice(0, 8)), (second, slice(8, 16))):
        name = text.partition("mask='")[2].partition("'")[0]
        mask = np.asarray(Image.open(name).convert("L")) > 127
        assert mask.shape == (16, 16) and mask[rows].all() and mask.sum() == 128


@pytest.mark.parametrize(
    ("strokes", "values", "message"),
    [
        ({}, {}, "nothing is painted"),
        ({"top": "#ff5a36"}, {}, "the orange region has neither a prompt nor a database"),
        ({"bottom": "#2563eb"}, {"prompt": ""}, "there is no prompt"),
        ({"bottom": "#2563eb"}, {"image": None}, "there is no image"),
    ],
)
def test_what_is_missing_is_one_line(edit, page, strokes, values, message):
    with pytest.raises(UserError, match=message):
        edit._regions(page, given(edit, strokes, **values))
