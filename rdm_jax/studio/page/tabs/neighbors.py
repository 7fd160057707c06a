"""The neighbors of a request, before anything is generated: pin one, drop one, weigh it, search for others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.errors import UserError
from rdm_jax.studio import catalog
from rdm_jax.studio.choice import CONTENT, STYLE, Choice, Choices
from rdm_jax.studio.page.shared import QUEUED, Page, gallery, guarded, message, neighbor_items, remark
from rdm_jax.studio.workshop import Shown

FOUND = 12  # images that a search shows


@dataclasses.dataclass(frozen=True)
class Request:
    """The form of the request whose neighbors are shown.

    Attributes:
      model: the dropdown of models.
      databases: {role: the dropdown of its databases}.
      inputs: all of its controls.
      read: from the workshop and the values of `inputs` to (model, request).
    """

    model: gr.Dropdown
    databases: Mapping[str, gr.Dropdown]
    inputs: list[Any]
    read: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The neighbors and what the user chose among them.

    Attributes:
      page: what the tabs know.
      request: whose neighbors they are.
      line: a message.
      images: the gallery.
      shown: what it shows, a list of `Shown`.
      choices: a `Choices`.
      about: what the neighbor is that was clicked.
    """

    page: Page
    request: Request
    line: gr.HTML
    images: gr.Gallery
    shown: gr.State
    choices: gr.State
    about: gr.Markdown

    @property
    def found(self) -> list[Any]:
        """The outputs of `find`."""
        return [self.line, self.images, self.shown]

    def find(self, choices: Choices, *values: Any) -> tuple[Any, ...]:
        """Returns what the request retrieves, for `found`; what is invalid is the message."""
        return self._find(choices, values)

    @guarded(3)
    def _find(self, choices: Choices, values: tuple[Any, ...]) -> tuple[Any, ...]:
        name, wanted = self.request.read(self.page.workshop, values)
        rows = self.page.workshop.neighbors(name, wanted, choices)
        return remark("" if rows else "this condition uses no neighbors"), neighbor_items(rows, _marks(choices)), rows

    def on(self, trigger: Any, handler: Callable[..., Any], inputs: list[Any], *outputs: Any) -> None:
        """Connects a handler that finds the neighbors again; the form's values come last."""
        trigger(handler, [*inputs, *self.request.inputs], [*self.found, *outputs], api_visibility="private", **QUEUED)


def add_neighbors(page: Page, request: Request) -> Chosen:
    """Adds the gallery of neighbors and its controls."""
    gr.Markdown("### Neighbors: what the model will see")
    line = gr.HTML()
    images = gallery("Neighbors", columns=3, height=330, elem_id="neighbors")
    about = gr.Markdown("Choose an image to pin, drop or weigh it.")
    chosen = Chosen(page, request, line, images, gr.State([]), gr.State(Choices()), about)
    _add_changes(chosen)
    with gr.Accordion("Search for others", open=False):
        _add_search(chosen, _add_role(page))
    with gr.Accordion("Your own images as neighbors", open=False):
        _add_own(chosen, _add_role(page))
    return chosen


def _add_role(page: Page) -> gr.Radio:
    """Adds the choice of a role, which is there for models with two of them."""
    has_roles = page.workshop.has_roles
    shown = [("Style: how it looks", STYLE), ("Content: what it shows", CONTENT)]
    role = gr.Radio(shown, value=STYLE, label="Role", visible=has_roles(page.workshop.default_model))

    def of_model(model: str) -> Any:
        """Returns the choice for a model."""
        return gr.update(value=STYLE, visible=has_roles(model))

    page.model.change(of_model, page.model, role, queue=False, api_visibility="private")
    return role


def _add_changes(chosen: Chosen) -> None:
    """Adds what changes the choice by the neighbor that was clicked."""
    place = gr.State(-1)
    with gr.Row():
        pin = gr.Button("Pin", size="sm", min_width=60)
        drop = gr.Button("Drop", size="sm", min_width=60)
        reset = gr.Button("Forget all", size="sm", min_width=60)
    weight = gr.Slider(0, 4, 1, step=0.1, label="Weight of the chosen neighbor")

    def select(event: gr.SelectData, rows: list[Shown], choices: Choices) -> tuple[Any, ...]:
        """Returns the place of the image that was clicked, what it is, and its weight."""
        one = rows[event.index]
        return event.index, _about(one), choices.of(one.role).weights.get(one.row, 1.0)

    outputs = [place, chosen.about, weight]
    chosen.images.select(select, [chosen.shown, chosen.choices], outputs, queue=False, api_visibility="private")

    def change(what: Callable[[Choice, Shown, float], Choice]) -> Callable[..., Any]:
        """Returns the handler that changes the choice of a role, and finds the neighbors again."""

        @guarded(4)
        def handler(choices: Choices, rows: list[Shown], at: int, weight: float, *values: Any) -> tuple[Any, ...]:
            """Returns the neighbors after the change, and the choices."""
            if not 0 <= at < len(rows):
                raise UserError("no neighbor is chosen; click one in the gallery first")
            one = rows[at]
            changed = choices.replaced(one.role, what(choices.of(one.role), one, weight))
            return (*chosen.find(changed, *values), changed)

        return handler

    def weigh(choice: Choice, one: Shown, weight: float) -> Choice:
        """Returns the choice with the weight of a style neighbor."""
        if one.role == CONTENT:
            raise UserError("content neighbors have no weight; pin or drop one, or choose a style neighbor")
        return choice.weigh(one.row, weight)

    acts: dict[Any, Callable[[Choice, Shown, float], Choice]] = {
        pin.click: lambda choice, one, _: choice.pin(one.row),
        drop.click: lambda choice, one, _: choice.drop(one.row),
        weight.release: weigh,
    }
    for trigger, what in acts.items():
        chosen.on(trigger, change(what), [chosen.choices, chosen.shown, place, weight], chosen.choices)
    nothing = Choices()
    chosen.on(reset.click, lambda *values: (*chosen.find(nothing, *values), nothing, 1.0), [], chosen.choices, weight)


def _add_search(chosen: Chosen, role: gr.Radio) -> None:
    """Adds a search of the databases of a role; a click on what it finds pins it."""
    page, request = chosen.page, chosen.request
    text = gr.Textbox(label="Search the databases", placeholder="words, then Enter")
    others, results = gallery("Found; choose one to pin it", columns=4, height=220), gr.State([])

    @guarded(3)
    def search(text: str, name: str, role: str, style: list[str], content: list[str]) -> tuple[Any, ...]:
        """Returns the rows that are nearest to a text."""
        if not (text or "").strip():
            raise UserError("there is nothing to search for; write some words")
        names = (content if role == CONTENT else style) or []
        places = [page.workshop.places.database(one) for one in names]
        rows = page.workshop.search(name, places, text, FOUND, role)
        return "", neighbor_items(rows), rows

    inputs = [text, request.model, role, request.databases[STYLE], request.databases[CONTENT]]
    text.submit(search, inputs, [chosen.line, others, results], api_visibility="private", **QUEUED)

    @guarded(4)
    def pin(event: gr.SelectData, choices: Choices, rows: list[Shown], *values: Any) -> tuple[Any, ...]:
        """Returns the neighbors with one more that is pinned, and the choices."""
        one = rows[event.index]
        choice = choices.of(one.role)
        changed = choices if one.row in choice.pinned else choices.replaced(one.role, choice.pin(one.row))
        return (*chosen.find(changed, *values), changed)

    chosen.on(others.select, pin, [chosen.choices, results], chosen.choices)


def _add_own(chosen: Chosen, role: gr.Radio) -> None:
    """Adds an upload of images, which become a database of their own whose rows are pinned."""
    page, request = chosen.page, chosen.request
    files = gr.File(label="Images: a database of them is built and pinned", file_count="multiple")
    use = gr.Button("Use them", size="sm")

    @guarded(5)
    def use_own(
        name: str, role: str, style: list[str], content: list[str], choices: Choices, given: list[str] | None
    ) -> tuple[Any, ...]:
        """Returns the databases with one of the user's images, all of them pinned."""
        job = catalog.build(page.workshop, name, "my images", [(Path(one), Path(one).name) for one in given or []])
        *_, status = job.statuses()
        if status.error:
            raise UserError(status.error)
        rows, choice = catalog.page(page.workshop.places, status.result, 0, FOUND), choices.of(role)
        for one in rows:
            choice = choice.pin(one.row)
        known = list(page.workshop.places.known_databases())
        used = {STYLE: list(style or []), CONTENT: list(content or [])}
        used[role].append(status.result)
        lists = [gr.update(choices=known, value=used[one]) for one in (STYLE, CONTENT)]
        pinned = f"{len(rows)} images are pinned as {status.result}; find the neighbors again."
        return message(""), *lists, choices.replaced(role, choice), pinned

    lists = [request.databases[STYLE], request.databases[CONTENT]]
    inputs = [request.model, role, *lists, chosen.choices, files]
    use.click(use_own, inputs, [chosen.line, *lists, chosen.choices, chosen.about], api_visibility="private", **QUEUED)


def _marks(choices: Choices) -> Callable[[Shown], str]:
    """Returns what is written before a neighbor's caption: that it is pinned, and its weight."""

    def mark(one: Shown) -> str:
        """Returns the marks of one."""
        choice = choices.of(one.role)
        weight = choice.weights.get(one.row)
        words = ["pinned"] * (one.row in choice.pinned) + ([f"x{weight:g}"] if weight is not None else [])
        return " ".join(words)

    return mark


def _about(one: Shown) -> str:
    return f"**{one.caption or 'no caption'}** — {one.row[0]}, row {one.row[1]}, cosine {one.score:.3f}  \n{one.source}"
