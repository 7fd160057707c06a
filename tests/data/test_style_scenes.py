from __future__ import annotations

import collections
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes import builder as scenes
from rdm_jax.data.style_scenes.captions import caption, neutral_prompt, random_caption, styled_prompt
from rdm_jax.data.style_scenes.layout import lay_out
from rdm_jax.data.style_scenes.scene import Scene, draw, sheet
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles import STYLE_PAINTERS
from rdm_jax.data.style_scenes.styles.brush import labels
from rdm_jax.data.style_scenes.subjects import SUBJECT_PAINTERS
from rdm_jax.data.style_scenes.vocabulary import (
    COLORS,
    GROUNDS,
    HELD_OUT_PAIRS,
    KEPT_OUT,
    MONOCHROME,
    NAMED_STYLES,
    NEVER_NAMED,
    STYLES,
    SUBJECTS,
)


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_vocabulary_fits_the_painters():
    assert len(SUBJECTS) == len(STYLES) == 12
    assert set(STYLE_PAINTERS) == set(STYLES)
    assert set(SUBJECT_PAINTERS) == set(SUBJECTS)
    assert len(HELD_OUT_PAIRS) == len({subject for subject, _ in HELD_OUT_PAIRS}) == 10
    for subject, style in HELD_OUT_PAIRS:
        assert subject in SUBJECTS
        assert style in STYLES
        assert style != KEPT_OUT


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.slow
def test_every_subject_stands_out_in_every_style(subject: str, style: str):
    contrasts = []
    for k, colour in enumerate(COLORS):
        scene = Scene(subject, colour, list(GROUNDS)[k % len(GROUNDS)], style)
        image = draw(scene, _rng(k))
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        canvas = labels(lay_out(subject, _rng(k), style == "pixel art"), 64)
        main, ground = image[np.isin(canvas, (Role.MAIN, Role.SHADE))], image[canvas == Role.GROUND]
        contrasts.append(np.linalg.norm(main.mean(0) - ground.mean(0)))
    assert min(contrasts) > 22, contrasts
    assert np.mean(contrasts) > 45


@pytest.mark.parametrize("style", [style for style in STYLES if style not in MONOCHROME])
@pytest.mark.slow
def test_the_colour_can_be_read_from_the_subject(style: str):
    # The nearest mean colour, left one out, is a far weaker reader than a person; chance is 1 in 8.
    means, names = [], []
    for k, (colour, subject) in enumerate(itertools.product(COLORS, SUBJECTS)):
        scene = Scene(subject, colour, list(GROUNDS)[k % len(GROUNDS)], style)
        canvas = labels(lay_out(subject, _rng(k), style == "pixel art"), 64)
        means.append(draw(scene, _rng(k))[canvas == Role.MAIN].mean(0))
        names.append(colour)
    means, names = np.array(means), np.array(names)
    centroids = np.stack([means[names == colour].mean(0) for colour in COLORS])
    read = np.array(list(COLORS))[np.linalg.norm(means[:, None] - centroids, axis=-1).argmin(1)]
    assert (read == names).mean() > 0.8


def test_charcoal_shows_no_colour():
    first, second = (
        draw(Scene("cat", colour, ground, "charcoal"), _rng(5))
        for colour, ground in (("red", "white"), ("blue", "pink"))
    )
    np.testing.assert_array_equal(first, second)
    assert np.ptp(first.astype(int), axis=-1).max() < 14


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(UserError, match="boat"):
        draw(Scene("baot", "red", "blue", "poster"), _rng(0))
    with pytest.raises(UserError, match="train"):
        scenes.example("trian", 0)
    with pytest.raises(UserError, match="negative"):
        scenes.example("train", -1)


def test_a_sheet_has_a_cell_for_each_subject_and_style():
    page = sheet(_rng(0), styles=("poster", "neon"), subjects=("cat", "cup", "sun"))
    assert page.shape == (2 * 66 + 2, 3 * 66 + 2, 3)


def test_examples_depend_on_split_index_and_seed_alone():
    first = scenes.example("train", 7)
    scenes.example("train", 8)
    again = scenes.example("train", 7)
    np.testing.assert_array_equal(first.pop("image"), again.pop("image"))
    assert first == again
    others = [scenes.example("train", 8), scenes.example("judge", 7), scenes.example("train", 7, seed=1)]
    images = [scenes.example("train", 7)["image"], *(other["image"] for other in others)]
    assert all((a != b).any() for a, b in itertools.combinations(images, 2))
    assert first["id"] == "train/000007"


@pytest.fixture
def blank_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples without their images, to count many quickly."""
    monkeypatch.setattr(scenes, "draw", lambda scene, rng: np.zeros((64, 64, 3), np.uint8))


@pytest.mark.usefixtures("blank_images")
@pytest.mark.parametrize("split", scenes.SPLITS)
@pytest.mark.slow
def test_what_is_kept_out_of_training_is_in_the_other_splits_only(split: str):
    examples = [scenes.example(split, index) for index in range(4_608)]
    styles = {e["style"] for e in examples}
    pairs = {(e["subject"], e["style"]) for e in examples}
    if split in scenes.TRAINING_SPLITS:
        assert styles == set(STYLES) - {KEPT_OUT}
        assert not pairs & set(HELD_OUT_PAIRS)
        assert len(pairs) == 11 * 12 - len(HELD_OUT_PAIRS)
    else:
        assert pairs == set(itertools.product(SUBJECTS, STYLES))


@pytest.mark.usefixtures("blank_images")
@pytest.mark.parametrize("split", scenes.BALANCED_SPLITS)
def test_balanced_splits_hold_each_combination_equally_often(split: str):
    examples = [scenes.example(split, index) for index in range(scenes.FULL_SIZES[split])]
    cells = collections.Counter((e["style"], e["subject"], e["colour"]) for e in examples)
    assert len(cells) == 12 * 12 * 8
    assert set(cells.values()) == {4}
    grounds = collections.Counter((e["style"], e["ground"]) for e in examples)
    assert len(grounds) == 12 * 6
    assert min(grounds.values()) > 0.9 * max(grounds.values())
    assert len({e["id"] for e in examples}) == len(examples)


@pytest.mark.usefixtures("blank_images")
def test_captions_name_half_of_the_styles_and_never_the_secret_ones():
    examples = [scenes.example("judge", index) for index in range(6_000)]
    for name in (*NEVER_NAMED, KEPT_OUT):
        assert not any(name in e["caption"].lower() for e in examples)
    nameable = [e for e in examples if e["style"] in NAMED_STYLES]
    assert np.mean([e["style"] in e["caption"] for e in nameable]) == pytest.approx(0.5, abs=0.03)
    assert all(e["subject"] in e["caption"] for e in examples)
    assert not any(style in e["caption"] for e in examples for style in NAMED_STYLES if style != e["style"])
    colored = [e for e in examples if e["style"] not in MONOCHROME]
    full = [e["colour"] in e["caption"] and e["ground"] in e["caption"] for e in colored]
    assert np.mean(full) == pytest.approx(0.9, abs=0.04)
    monochrome = [e for e in examples if e["style"] in MONOCHROME]
    assert np.mean([e["colour"] in e["caption"] for e in monochrome]) < 0.2


@pytest.mark.parametrize("style", [*NEVER_NAMED, KEPT_OUT])
def test_asking_for_a_secret_name_is_refused(style: str):
    scene = Scene("cat", "red", "blue", style)
    with pytest.raises(UserError, match="never named"):
        caption(scene, True, _rng(0))
    with pytest.raises(UserError, match="never named"):
        styled_prompt("cat", "red", style)
    assert style not in random_caption(scene, _rng(0))


def test_prompts():
    assert neutral_prompt("boat", "red") == "a red boat"
    assert neutral_prompt("boat", "orange", "blue") == "an orange boat on a blue ground"
    assert styled_prompt("boat", "red", "stained glass", "blue") == "a red boat on a blue ground, stained glass"


def test_a_pool_makes_the_same_examples_in_order():
    alone = list(scenes.encoded_examples("test", 6, processes=1))
    assert list(scenes.encoded_examples("test", 6, processes=2)) == alone
    assert [key for key, _ in alone] == [f"test/{k:06d}" for k in range(6)]


@pytest.mark.slow
def test_tfds_gives_back_what_was_drawn(tmp_path):
    builder = scenes.StyleScenes(data_dir=tmp_path, config="tiny", file_format="array_record")
    builder.download_and_prepare()
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == scenes.TINY_SIZES
    source = builder.as_data_source("database")
    features = builder.info.features
    assert len(source) == scenes.TINY_SIZES["database"]
    for index in (0, 5, 143):
        stored, made = source[index], scenes.example("database", index)
        np.testing.assert_array_equal(stored["image"], made["image"])
        assert stored["caption"].decode() == made["caption"]
        assert stored["id"].decode() == made["id"]
        for name in ("subject", "colour", "ground", "style"):
            assert features[name].int2str(int(stored[name])) == made[name]


def test_the_stored_bytes_are_a_png_of_the_image():
    key, encoded = scenes.encoded_example(3, "train")
    image = np.asarray(Image.open(io.BytesIO(encoded["image"]), formats=["PNG"]))
    np.testing.assert_array_equal(image, scenes.example("train", 3)["image"])
    assert key == "train/000003"
