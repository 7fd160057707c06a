"""The tab that edits: from an image, within or beyond it, variations, and regions with a database of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np
from PIL import Image

from rdm_jax.cli.edit import ACTIONS
from rdm_jax.conditioning import CONDITIONERS, Region
from rdm_jax.core.calls import format_call
from rdm_jax.core.errors import UserError
from rdm_jax.studio.choice import Choice
from rdm_jax.studio.page.results import Results, follow
from rdm_jax.studio.page.shared import QUEUED, Page
from rdm_jax.studio.wanted import Wanted, lines

REGION = "regions"
OFFERED = {name: ACTIONS[name] for name in ("img2img", "inpaint", "outpaint", "vary")} | {
    REGION: "generate with another database or prompt where the mask is painted"
}
SIDES = ("left", "right", "up", "down")
PAINTED = 128  # of the alpha of a stroke
CANVAS = (512, 512)


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
    other_prompt: str
    other_database: str | None
    count: int
    seed: str


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
                brush=gr.Brush(default_size=40, colors=["#ff5a36"], color_mode="fixed"),
                elem_id="mask",
            )
        with gr.Column(scale=3, min_width=280):
            action = gr.Radio(
                [(f"{name}: {about}", name) for name, about in OFFERED.items()], value="inpaint", label="Edit"
            )
            prompt = gr.Textbox(label="Prompt", placeholder="the image itself, if empty")
            databases = gr.Dropdown(known, value=known[:1], multiselect=True, label="Databases")
            strength = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength (img2img, vary): how much is new")
            with gr.Accordion("Outpaint: pixels on each side", open=False), gr.Row():
                sides = [gr.Number(0, label=side, precision=0, minimum=0, min_width=60) for side in SIDES]
            with gr.Accordion("Regions: what acts where the mask is painted", open=False):
                other_prompt = gr.Textbox(label="Prompt of the region", placeholder="the same, if empty")
                other = gr.Dropdown(["", *known], value="", label="Database of the region")
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
            return _region(page, given) if given.action == REGION else _edit(page, given)

        yield from follow(page, start, request)

    inputs = [page.model, action, editor, prompt, databases, strength, *sides, other_prompt, other, count, seed]
    go.click(edit, inputs, results.outputs, show_progress="hidden", api_visibility="private", **QUEUED)
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


def _region(page: Page, given: EditValues) -> Any:
    """Returns the job that generates with another condition where the mask is painted."""
    other: dict[str, Any] = {
        "mask": str(_saved(page, given, "mask")),
        "prompt": given.other_prompt or "",
        "database": page.workshop.places.database(given.other_database) if given.other_database else "",
    }
    if not other["prompt"] and not other["database"]:
        raise UserError("the region has neither a prompt nor a database of its own; give one of them")
    if not lines(given.prompt):
        raise UserError("there is no prompt; write what to generate outside the region")
    region = Region(**{name: value for name, value in other.items() if value})
    wanted = Wanted(
        lines(given.prompt)[:1],
        databases=tuple(page.workshop.places.database(name) for name in given.databases or []),
        options={"conditions": (format_call(CONDITIONERS, region),), "num_images": given.count, "seed": given.seed},
    )
    return page.workshop.generate(given.model, wanted, Choice())


def _saved(page: Page, given: EditValues, part: str) -> Path:
    """Writes the image or its mask to a file of uploads, and returns that.

    Raises:
      UserError: there is no image, or nothing is painted.
    """
    value = given.image or {}
    background = value.get("background")
    if background is None or not (placed := np.asarray(background)[..., 3] > 0).any():
        raise UserError("there is no image; drop one, or open one of the history by its button Edit")
    # The canvas is larger than the image, and transparent around it.
    rows, columns = (np.flatnonzero(placed.any(axis=axis)) for axis in (1, 0))
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pixels = np.asarray(background)[inside][..., :3]
    if part == "mask":
        painted = [np.asarray(layer)[inside][..., 3] >= PAINTED for layer in value.get("layers") or []]
        if not np.any(painted):
            raise UserError("nothing is painted; paint with the brush where to generate")
        pixels = np.repeat(np.any(painted, axis=0)[..., None] * np.uint8(255), 3, axis=-1)
    path = page.workshop.places.new_upload(".png")
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path
