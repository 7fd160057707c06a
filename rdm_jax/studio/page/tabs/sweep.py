"""The tab of sweeps: a grid over the values of one option or two, the code of `rdm sample --sweep`."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.errors import UserError
from rdm_jax.studio.choice import Choices
from rdm_jax.studio.page.results import follow
from rdm_jax.studio.page.shared import Page, followed
from rdm_jax.studio.page.tabs.generate import RANDOM, Form, read
from rdm_jax.studio.wanted import option_declarations

GRID = "grid.png"


def add_tab(page: Page, form: Form) -> None:
    """Adds the tab; everything but the axes is the request of the tab that generates."""
    head = page.workshop.config(page.workshop.default_model)["head"]
    keys = ["database", "prompt", "seed", "neighbors", *option_declarations(head)]
    gr.Markdown(
        "A grid over one option or two. Prompts, databases and all other options are those of the tab *Generate*."
    )
    with gr.Row():
        across = gr.Dropdown(keys, value="guidance_scale", label="Columns", allow_custom_value=True)
        across_values = gr.Textbox("1,2,4", label="Values of the columns", placeholder="1,2,4")
        down = gr.Dropdown(["", *keys], value="", label="Rows", allow_custom_value=True)
        down_values = gr.Textbox(label="Values of the rows", placeholder="neon,mosaic")
    with gr.Row():
        go = gr.Button("Generate the grid", variant="primary")
        stop = gr.Button("Cancel", variant="stop")
    status, grid = gr.HTML(), gr.Image(label="Grid", format="png", type="filepath", interactive=False, elem_id="grid")
    previews, gallery, made = (
        gr.Gallery(visible=False, format="png"),
        gr.Gallery(visible=False, format="png"),
        gr.State([]),
    )

    def sweep(request: gr.Request, x: str, xs: str, y: str, ys: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yields the status, and the grid at the end."""

        def start() -> Any:
            """Returns the job."""
            model, wanted = read(page.workshop, values)
            axes = [_axis(page, key, given) for key, given in ((x, xs), (y, ys)) if key]
            swept = {axis.partition("=")[0] for axis in axes}
            options = {name: value for name, value in wanted.options.items() if name not in swept}
            options.setdefault("seed", secrets.randbelow(RANDOM))
            options.update({} if "seed" not in swept else {"seed": None})
            databases = () if "database" in swept else wanted.databases
            request_ = dataclasses.replace(wanted, sweep=tuple(axes), options=options, databases=databases)
            return page.workshop.generate(model, request_, Choices())

        for shown in follow(page, start, request):
            images = shown[3]
            done = isinstance(images, list) and images
            folder = images[0].file.parent.parent if done else None
            yield (*shown, str(folder / GRID) if folder else gr.skip())

    inputs = [across, across_values, down, down_values, *form.inputs]
    go.click(
        sweep,
        inputs,
        [status, previews, gallery, made, grid],
        **followed(status),
    )
    stop.click(page.cancel, None, None, queue=False, api_visibility="private")


def _axis(page: Page, key: str, values: str) -> str:
    """Returns an axis as `--sweep` takes it; databases are those of the list."""
    if not (values or "").strip():
        raise UserError(f"{key} has no values; write them with commas between")
    if key == "database":
        values = ",".join(page.workshop.places.database(name.strip()) for name in values.split(","))
    return f"{key}={values}"
