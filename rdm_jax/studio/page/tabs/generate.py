"""The tab that generates: prompts, databases, the neighbors found for them, and the images."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.studio.choice import CONTENT, STYLE
from rdm_jax.studio.page import controls
from rdm_jax.studio.page.results import Results, follow
from rdm_jax.studio.page.shared import QUEUED, Page, add_databases, control_class, followed, guarded
from rdm_jax.studio.page.tabs.neighbors import Chosen, Request, add_neighbors
from rdm_jax.studio.wanted import Wanted, lines, weighted
from rdm_jax.studio.workshop import Workshop

SIZES = ["", "24", "48", "64", "256", "512"]
RANDOM = 2**32


@dataclasses.dataclass(frozen=True)
class Form:
    """The controls of a request; `read` takes their values in this order."""

    model: gr.Dropdown
    prompts: gr.Textbox
    negative: gr.Textbox
    image: gr.Image
    databases: gr.Dropdown
    content: gr.Dropdown
    weights: gr.State
    count: gr.Number
    neighbors: gr.Textbox
    candidates: gr.Textbox
    seed: gr.Textbox
    options: gr.State
    svg: gr.Checkbox
    transparent: gr.Checkbox
    size: gr.Dropdown

    @property
    def inputs(self) -> list[Any]:
        """The controls."""
        return [getattr(self, name) for name in NAMES]


NAMES = [field.name for field in dataclasses.fields(Form)]


def read(workshop: Workshop, values: tuple[Any, ...]) -> tuple[str, Wanted]:
    """Returns the model and the request of a form's values.

    Raises:
      UserError: a database is not in the list.
    """
    given = dict(zip(NAMES, values, strict=True))
    style, content = given["databases"] or [], given["content"] or []
    opened = {name: workshop.places.database(name) for name in [*style, *content]}
    weights = {opened[name]: weight for name, weight in given["weights"].items() if name in opened}
    counts = {"num_images": "count", "neighbors": "neighbors", "candidates": "candidates", "seed": "seed"}
    options = {**given["options"], **{name: given[control] for name, control in counts.items()}}
    wanted = Wanted(
        lines(given["prompts"]),
        image=given["image"] or "",
        negative=(given["negative"] or "").strip(),
        databases=weighted([opened[name] for name in style], weights),
        content_databases=tuple(opened[name] for name in content),
        options=options,
        rendition={"svg": given["svg"], "transparent": given["transparent"], "size": given["size"]},
    )
    return given["model"], wanted


def add_tab(page: Page) -> tuple[Form, Results]:
    """Adds the tab's controls, and what they do."""
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=3, min_width=300):
            prompts = gr.Textbox(
                label="Prompts, one on each line",
                lines=2,
                max_lines=8,
                placeholder="a red boat",
                autofocus=True,
                elem_classes=control_class("prompts"),
            )
            with gr.Row():
                find = gr.Button("Neighbors", min_width=90)
                go = gr.Button("Generate", variant="primary", min_width=90)
                stop = gr.Button("Cancel", variant="stop", min_width=70)
            form, lock = _form(page, prompts)
            command = gr.Textbox(label="The same on the command line", buttons=["copy"], interactive=False, lines=1)
        with gr.Column(scale=3, min_width=280):
            by_role = {STYLE: form.databases, CONTENT: form.content}
            chosen = add_neighbors(page, Request(form.model, by_role, form.inputs, read))
        with gr.Column(scale=4, min_width=320):
            results = Results.add(page)
    for trigger in (find.click, form.prompts.submit):
        trigger(chosen.find, [chosen.choices, *form.inputs], chosen.found, api_visibility="private", **QUEUED)
    _add_generate(page, form, lock, go, chosen, results, command)
    stop.click(page.cancel, None, None, queue=False, api_visibility="private")
    return form, results


def _add_generate(
    page: Page, form: Form, lock: Any, go: gr.Button, chosen: Chosen, results: Results, command: gr.Textbox
) -> None:
    """Connects the button that generates."""
    number = NAMES.index("seed")

    def generate(request: gr.Request, locked: bool, choices: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Yields status, previews and images of a request, its seed and its command line."""
        seed = values[number] if locked and values[number] else str(secrets.randbelow(RANDOM))
        values = (*values[:number], seed, *values[number + 1 :])

        def job() -> Any:
            """Returns the job of the request."""
            return page.workshop.generate(*read(page.workshop, values), choices)

        for shown in follow(page, job, request):
            yield (*shown, seed, gr.skip())
        yield (*[gr.skip()] * len(results.outputs), gr.skip(), _command(page, values))

    go.click(
        generate,
        [lock, chosen.choices, *form.inputs],
        [*results.outputs, form.seed, command],
        **followed(results.status),
    )


@guarded(1)
def _command(page: Page, values: tuple[Any, ...]) -> Any:
    model, wanted = read(page.workshop, values)
    return page.workshop.command(model, wanted)


def _form(page: Page, prompts: gr.Textbox) -> tuple[Form, gr.Checkbox]:
    """Adds the controls of a request; returns them, and whether the seed is kept."""
    workshop, known = page.workshop, list(page.workshop.places.known_databases())
    databases = add_databases(page)
    roles = workshop.has_roles(workshop.default_model)
    content = gr.Dropdown(known, value=[], multiselect=True, label="Content databases", visible=roles)
    weights, options = gr.State({}), gr.State({})
    _add_weights(databases, weights)
    with gr.Row():
        classes = [control_class(name) for name in ("num_images", "neighbors", "candidates")]
        count = gr.Number(4, label="Images", precision=0, minimum=1, min_width=70, elem_classes=classes[0])
        neighbors = gr.Textbox(label="Neighbors", placeholder="model's", min_width=70, elem_classes=classes[1])
        candidates = gr.Textbox(label="Candidates", placeholder="1", min_width=70, elem_classes=classes[2])
    with gr.Row(elem_id="seed"):
        seed = gr.Textbox(
            label="Seed", placeholder="random", max_lines=1, min_width=110, elem_classes=control_class("seed")
        )
        lock = gr.Checkbox(False, label="Keep it", min_width=60)
        dice = gr.Button("New seed", min_width=60, size="sm")
    dice.click(lambda: str(secrets.randbelow(RANDOM)), None, seed, queue=False, api_visibility="private")
    with gr.Accordion("Negative prompt, image prompt", open=False):
        negative = gr.Textbox(label="Negative prompt", placeholder="what to guide away from")
        image = gr.Image(label="Image as a query", type="filepath", format="png", sources=["upload", "clipboard"])
    with gr.Accordion("Options of the model", open=False):

        @gr.render(inputs=page.model, triggers=[page.ready, page.model.change])
        def show_options(model: str) -> None:
            """Adds the controls of the model's head."""
            with gr.Row():
                controls.add(workshop.config(model), options)

        controls.add_files(workshop.places)

    with gr.Accordion("For designers", open=False), gr.Row():
        svg = gr.Checkbox(False, label="SVG", min_width=70)
        transparent = gr.Checkbox(False, label="Transparent", min_width=70)
        size = gr.Dropdown(SIZES, value="", label="Size in pixels", min_width=70)

    def of_model(model: str) -> tuple[Any, Any]:
        """Returns the options, emptied, and the content databases, where the model has that role."""
        return {}, gr.update(visible=workshop.has_roles(model))

    page.model.change(of_model, page.model, [options, content], queue=False, api_visibility="private")
    controls_ = (databases, content, weights, count, neighbors, candidates, seed, options, svg, transparent, size)
    return Form(page.model, prompts, negative, image, *controls_), lock


def _add_weights(databases: gr.Dropdown, weights: gr.State) -> None:
    """Adds a slider for each database, where there are several."""

    @gr.render(inputs=[databases, weights], triggers=[databases.change])
    def show(names: list[str], values: dict[str, float]) -> None:
        """Adds the sliders."""
        if len(names or []) < 2:
            return
        for name in names:
            slider = gr.Slider(0, 4, values.get(name, 1.0), step=0.1, label=f"Weight of {name}")

            def keep(value: float, given: dict[str, float], name: str = name) -> dict[str, float]:
                """Returns the weights with that of one database."""
                return {**given, name: float(value)}

            slider.release(keep, [slider, weights], weights, queue=False, api_visibility="private")
