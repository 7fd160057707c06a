"""The neighbors of a request, before anything is generated: pin one, drop one, weigh it, search for others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.errors import UserError
from rdm_jax.studio import catalog
from rdm_jax.studio.choice import Choice
from rdm_jax.studio.page.shared import QUEUED, Page, guarded, message, neighbor_items, remark
from rdm_jax.studio.workshop import Shown

FOUND = 12  # images that a search shows


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What the rest of the page needs of the neighbors.

    Attributes:
      choice: a `Choice`.
      find: the handler that finds the neighbors of a request, with the inputs (choice, *form).
      found: its outputs.
    """

    choice: gr.State
    find: Callable[..., Any]
    found: list[Any]


def add_neighbors(
    page: Page, model: gr.Dropdown, databases: gr.Dropdown, inputs: list[Any], read: Callable[..., Any]
) -> Chosen:
    """Adds the gallery of neighbors and its controls.

    Args:
      page: what the tabs know.
      model: the dropdown of models.
      databases: the dropdown of databases.
      inputs: the form of the request.
      read: from the workshop and the form's values to (model, request).
    """
    choice, shown, place = gr.State(Choice()), gr.State([]), gr.State(-1)
    gr.Markdown("### Neighbors: what the model will see")
    line = gr.HTML()
    gallery = gr.Gallery(
        label="Neighbors",
        format="png",
        columns=3,
        height=330,
        allow_preview=False,
        buttons=[],
        interactive=False,
        elem_id="neighbors",
    )
    about = gr.Markdown("Choose an image to pin, drop or weigh it.")
    with gr.Row():
        pin = gr.Button("Pin", size="sm", min_width=60)
        drop = gr.Button("Drop", size="sm", min_width=60)
        reset = gr.Button("Forget all", size="sm", min_width=60)
    weight = gr.Slider(0, 4, 1, step=0.1, label="Weight of the chosen neighbor")
    with gr.Accordion("Search for others", open=False):
        text = gr.Textbox(label="Search the databases", placeholder="words, then Enter")
        others = gr.Gallery(
            label="Found; choose one to pin it",
            format="png",
            columns=4,
            height=220,
            allow_preview=False,
            buttons=[],
            interactive=False,
        )
        results = gr.State([])
    with gr.Accordion("Your own images as neighbors", open=False):
        files = gr.File(label="Images: a database of them is built and pinned", file_count="multiple")
        use = gr.Button("Use them", size="sm")
    found = [line, gallery, shown]

    @guarded(3)
    def find(choice: Choice, *values: Any) -> tuple[Any, ...]:
        """Returns what a request would retrieve."""
        name, wanted = read(page.workshop, values)
        rows = page.workshop.neighbors(name, wanted, choice)
        return remark("" if rows else "this condition uses no neighbors"), neighbor_items(rows, _marks(choice)), rows

    def select(event: gr.SelectData, rows: list[Shown], choice: Choice) -> tuple[Any, ...]:
        """Returns the place of the image that was clicked, what it is, and its weight."""
        one = rows[event.index]
        return event.index, _about(one), choice.weights.get(one.row, 1.0)

    gallery.select(select, [shown, choice], [place, about, weight], queue=False, api_visibility="private")

    def change(what: Callable[[Choice, Shown, float], Choice]) -> Callable[..., Any]:
        """Returns the handler that changes the choice by the image that was clicked, and finds the neighbors again."""

        @guarded(4)
        def handler(choice: Choice, rows: list[Shown], at: int, weight: float, *values: Any) -> tuple[Any, ...]:
            """Returns the neighbors after the change."""
            if not 0 <= at < len(rows):
                raise UserError("no neighbor is chosen; click one in the gallery first")
            if rows[at].role == "content":
                raise UserError("only style neighbors are pinned, dropped or weighed; choose one of those")
            changed = what(choice, rows[at], weight)
            return (*find(changed, *values), changed)

        return handler

    acts = {
        pin.click: lambda choice, one, _: choice.pin(one.row),
        drop.click: lambda choice, one, _: choice.drop(one.row),
        weight.release: lambda choice, one, value: choice.weigh(one.row, value),
    }
    for trigger, what in acts.items():
        trigger(
            change(what), [choice, shown, place, weight, *inputs], [*found, choice], api_visibility="private", **QUEUED
        )
    reset.click(
        lambda *values: (*find(Choice(), *values), Choice(), 1.0),
        inputs,
        [*found, choice, weight],
        api_visibility="private",
        **QUEUED,
    )

    @guarded(3)
    def search(text: str, name: str, names: list[str]) -> tuple[Any, ...]:
        """Returns the rows that are nearest to a text."""
        if not (text or "").strip():
            raise UserError("there is nothing to search for; write some words")
        places = [page.workshop.places.database(one) for one in names or []]
        rows = page.workshop.search(name, places, text, FOUND)
        return "", neighbor_items(rows), rows

    text.submit(search, [text, model, databases], [line, others, results], api_visibility="private", **QUEUED)

    @guarded(4)
    def pin_found(event: gr.SelectData, choice: Choice, rows: list[Shown], *values: Any) -> tuple[Any, ...]:
        """Returns the neighbors with one more that is pinned."""
        changed = choice if rows[event.index].row in choice.pinned else choice.pin(rows[event.index].row)
        return (*find(changed, *values), changed)

    others.select(pin_found, [choice, results, *inputs], [*found, choice], api_visibility="private", **QUEUED)

    @guarded(4)
    def use_own(name: str, names: list[str], choice: Choice, given: list[str] | None) -> tuple[Any, ...]:
        """Returns the databases with one of the user's images, all of them pinned."""
        job = catalog.build(page.workshop, name, "my images", [(Path(one), Path(one).name) for one in given or []])
        status = list(job.statuses())[-1]
        if status.error:
            raise UserError(status.error)
        rows = catalog.page(page.workshop.places, status.result, 0, FOUND)
        for one in rows:
            choice = choice.pin(one.row)
        known = list(page.workshop.places.known_databases())
        return (
            message(""),
            gr.update(choices=known, value=[*(names or []), status.result]),
            choice,
            f"{len(rows)} images are pinned as {status.result}; find the neighbors again.",
        )

    use.click(
        use_own, [model, databases, choice, files], [line, databases, choice, about], api_visibility="private", **QUEUED
    )
    return Chosen(choice, find, found)


def _marks(choice: Choice) -> Callable[[Shown], str]:
    """Returns what is written before a neighbor's caption: that it is pinned, and its weight."""

    def mark(one: Shown) -> str:
        """Returns the marks of one."""
        weight = choice.weights.get(one.row)
        words = ["pinned"] * (one.row in choice.pinned) + ([f"x{weight:g}"] if weight is not None else [])
        return " ".join(words)

    return mark


def _about(one: Shown) -> str:
    return f"**{one.caption or 'no caption'}** — {one.row[0]}, row {one.row[1]}, cosine {one.score:.3f}  \n{one.source}"
