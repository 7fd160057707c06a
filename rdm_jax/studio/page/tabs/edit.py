"""The tab that edits: from an image, within or beyond it, variations, and regions with a database of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
from jaxtyping import Bool
from PIL import Image

from rdm_jax.cli.edit import ACTIONS
from rdm_jax.conditioning import CONDITIONERS, Region
from rdm_jax.core.calls import format_call
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit
from rdm_jax.studio.choice import Choices
from rdm_jax.studio.page.results import Results, follow
from rdm_jax.studio.page.shared import Page, add_databases, followed
from rdm_jax.studio.wanted import Wanted, lines

REGION = "regions"
OFFERED = {name: ACTIONS[name] for name in ("img2img", "inpaint", "outpaint", "vary")} | {
    REGION: "generate with another database or prompt where a color is painted"
}
SIDES = ("left", "right", "up", "down")
PAINTED = 128  # of the alpha of a stroke
CANVAS = (512, 512)
COLORS = {"orange": "#ff5a36", "blue": "#2563eb"}
"""Of the brush: each one is a region of its own; the other actions take all that is painted."""


@dataclasses.dataclass(frozen=True)
class EditValues:
    """The values of the tab's form, in the order of its controls."""

    model: str
    action: str
    image: dict[str, Any] | None
    prompt: str
    databases: list[str] | None
    strength: float
    left: int
    right: int
    up: int
    down: int
    orange_prompt: str
    orange_database: str | None
    blue_prompt: str
    blue_database: str | None
    count: int
    seed: str

    def region(self, color: str) -> tuple[str, str | None]:
        """Returns the prompt and the database of a color's region."""
        return getattr(self, f"{color}_prompt") or "", getattr(self, f"{color}_database")


def add_tab(page: Page) -> tuple[Any, Results]:
    """Adds the tab; returns the editor, which others open images in, and the results."""
    known = list(page.workshop.places.known_databases())
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            editor = gr.ImageMask(
                label="Image; paint where to generate",
                type="numpy",
                format="png",
                layers=False,
                canvas_size=CANVAS,
                fixed_canvas=True,
                sources=["upload", "clipboard"],
                height=460,
                transforms=(),
                buttons=[],
                brush=gr.Brush(default_size=40, colors=[*COLORS.values()], color_mode="fixed"),
                elem_id="mask",
            )
        with gr.Column(scale=3, min_width=280):
            action = gr.Radio(
                [(f"{name}: {about}", name) for name, about in OFFERED.items()], value="inpaint", label="Edit"
            )
            prompt = gr.Textbox(label="Prompt", placeholder="the image itself, if empty")
            databases = add_databases(page)
            strength = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength (img2img, vary): how much is new")
            with gr.Accordion("Outpaint: pixels on each side", open=False), gr.Row():
                sides = [gr.Number(0, label=side, precision=0, minimum=0, min_width=60) for side in SIDES]
            with gr.Accordion("Regions: what acts where a color is painted", open=False):
                regions = [
                    control
                    for color in COLORS
                    for control in (
                        gr.Textbox(label=f"Prompt of the {color} region", placeholder="the same, if empty"),
                        gr.Dropdown(["", *known], value="", label=f"Database of the {color} region"),
                    )
                ]
            with gr.Row():
                count = gr.Number(2, label="Images", precision=0, minimum=1, min_width=70)
                seed = gr.Textbox(label="Seed", placeholder="random", min_width=90)
            with gr.Row():
                go = gr.Button("Edit", variant="primary")
                stop = gr.Button("Cancel", variant="stop")
        with gr.Column(scale=4, min_width=320):
            results = Results.add(page)

    def edit(request: gr.Request, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yields status, previews and images of an edit."""
        given = EditValues(*values)

        def start() -> Any:
            """Returns the job."""
            return _regions(page, given) if given.action == REGION else _edit(page, given)

        yield from follow(page, start, request)

    inputs = [page.model, action, editor, prompt, databases, strength, *sides, *regions, count, seed]
    go.click(edit, inputs, results.outputs, **followed(results.status))
    stop.click(page.cancel, None, None, queue=False, api_visibility="private")
    return editor, results


def _edit(page: Page, given: EditValues) -> Any:
    """Returns the job of an action of `rdm edit`."""
    # The canvas has enlarged the image: it is edited at the model's size.
    arguments = [given.action, f"--image={_saved(page, given, 'background')}"]
    arguments += ["--fit=shrink"] if given.action != "vary" or given.strength < 1 else []
    if given.action == "inpaint":
        arguments.append(f"--mask={_saved(page, given, 'mask')}")
    if given.action in ("img2img", "vary"):
        arguments.append(f"--strength={given.strength:g}")
    if given.action == "outpaint":
        arguments += [f"--{side}={int(getattr(given, side) or 0)}" for side in SIDES]
    if given.prompt and given.action != "vary":
        arguments.append(f"--prompt={given.prompt}")
    arguments += [f"--database={page.workshop.places.database(name)}" for name in given.databases or []]
    arguments += [f"--num-images={given.count}"] if given.count else []
    arguments += [f"--seed={given.seed}"] if given.seed else []
    return page.workshop.edit(given.model, arguments)


def _regions(page: Page, given: EditValues) -> Any:
    """Returns the job that generates with other conditions where the colors are painted."""
    if not lines(given.prompt):
        raise UserError("there is no prompt; write what to generate outside the regions")
    painted = _painted(given)
    regions = [_region(page, given, color, painted[color]) for color in COLORS if painted[color].any()]
    if not regions:
        raise UserError("nothing is painted; paint with the brush where a region is")
    wanted = Wanted(
        lines(given.prompt)[:1],
        databases=tuple(page.workshop.places.database(name) for name in given.databases or []),
        options={
            "conditions": tuple(format_call(CONDITIONERS, region) for region in regions),
            "num_images": given.count,
            "seed": given.seed,
        },
    )
    return page.workshop.generate(given.model, wanted, Choices())


def _region(page: Page, given: EditValues, color: str, mask: np.ndarray) -> Region:
    """Returns the condition of a color's region; raises UserError if it has neither a prompt nor a database."""
    prompt, name = given.region(color)
    database = page.workshop.places.database(name) if name else ""
    if not prompt and not database:
        raise UserError(f"the {color} region has neither a prompt nor a database of its own; give one of them")
    sampling = page.workshop.config(given.model)["sampling"]  # the new image has the model's size
    pixels = fit(_as_image(mask), sampling["height"], sampling["width"])
    return Region(mask=str(_write(page, pixels)), prompt=prompt, database=database)


def _saved(page: Page, given: EditValues, part: str) -> Path:
    """Writes the image or the mask of all that is painted to a file of uploads, and returns that.

    Raises:
      UserError: there is no image, or nothing is painted.
    """
    inside = _inside(given)
    if part != "mask":
        return _write(page, np.asarray((given.image or {})["background"])[inside][..., :3])
    painted = np.any([*_painted(given).values()], axis=0)
    if not painted.any():
        raise UserError("nothing is painted; paint with the brush where to generate")
    return _write(page, _as_image(painted))


def _inside(given: EditValues) -> tuple[slice, slice]:
    """Returns the rows and columns of the image; the canvas is larger, and transparent around it.

    Raises:
      UserError: there is no image.
    """
    background = (given.image or {}).get("background")
    if background is None or not (placed := np.asarray(background)[..., 3] > 0).any():
        raise UserError("there is no image; drop one, or open one of the history by its button Edit")
    rows, columns = (np.flatnonzero(placed.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _painted(given: EditValues) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Returns where each color is painted on the image; a pixel of a stroke's edge has the nearest color."""
    inside = _inside(given)
    layers = [np.asarray(layer)[inside] for layer in (given.image or {}).get("layers") or []]
    colors = np.array([[int(code[at : at + 2], 16) for at in (1, 3, 5)] for code in COLORS.values()], np.int64)
    size = tuple(part.stop - part.start for part in inside)
    painted = {color: np.zeros(size, bool) for color in COLORS}
    for layer in layers:
        nearest = np.abs(layer[..., None, :3] - colors).sum(axis=-1).argmin(axis=-1)
        for place, color in enumerate(COLORS):
            painted[color] |= (layer[..., 3] >= PAINTED) & (nearest == place)
    return painted


def _as_image(mask: Bool[np.ndarray, "h w"]) -> np.ndarray:
    """Returns a mask as an image, white where it is painted."""
    return np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1)


def _write(page: Page, pixels: np.ndarray) -> Path:
    """Writes an image to a file of uploads, and returns that."""
    path = page.workshop.places.new_upload(".png")
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path
