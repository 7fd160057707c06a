"""The tab of databases: build one of images, look through it, remove images, merge, export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.errors import UserError
from rdm_jax.studio import catalog
from rdm_jax.studio.page.shared import QUEUED, Page, bar, followed, gallery, guarded, neighbor_items, remark
from rdm_jax.studio.places import Places
from rdm_jax.studio.workshop import Shown

ROWS = 24  # images on a page


@dataclasses.dataclass(frozen=True)
class Lists:
    """The dropdowns that list the databases; the first one chooses which is looked through.

    Attributes:
      places: of the studio.
      dropdowns: the lists.
    """

    places: Places
    dropdowns: list[gr.Dropdown]

    def updates(self, chosen: str) -> list[Any]:
        """Returns the lists with a new database, which is looked through."""
        names = list(self.places.known_databases())
        others = len(self.dropdowns) - 1
        return [gr.update(choices=names, value=chosen), *[gr.update(choices=names)] * others]


def add_tab(page: Page, dropdowns: list[gr.Dropdown]) -> None:
    """Adds the tab.

    Args:
      page: what the tabs know.
      dropdowns: of other tabs, which list the databases.
    """
    known = list(page.workshop.places.known_databases())
    name = gr.Dropdown(known, value=known[0] if known else None, label="Look through", render=False)
    several = gr.Dropdown(known, multiselect=True, label="Databases to merge", render=False)
    lists, status = Lists(page.workshop.places, [name, several, *dropdowns]), gr.HTML(render=False)
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=3, min_width=280):
            _add_build(page, lists, status)
            _add_merge(page, lists, several, status)
        with gr.Column(scale=6, min_width=320):
            status.render()
            _add_rows(page, name, status)


def _add_build(page: Page, lists: Lists, status: gr.HTML) -> None:
    """Adds what builds a database of uploads."""
    gr.Markdown("### Build one of your images")
    title = gr.Textbox(label="Name", placeholder="my art")
    files = gr.File(label="Images, SVG files or a zip", file_count="multiple", height=150, elem_id="upload")
    with gr.Row():
        build = gr.Button("Build", variant="primary")
        stop = gr.Button("Cancel", variant="stop")

    def build_one(request: gr.Request, model: str, title: str, files: list[str] | None) -> Iterator[Any]:
        """Yields the status of a build, and the lists at its end."""
        given = [(Path(one), Path(one).name) for one in files or []]
        for one in page.follow(catalog.build(page.workshop, model, title or "images", given), request):
            same = [gr.skip()] * len(lists.dropdowns)
            yield [bar(one), *(same if one.result is None else lists.updates(one.result))]

    inputs, outputs = [page.model, title, files], [status, *lists.dropdowns]
    build.click(build_one, inputs, outputs, **followed(status))
    stop.click(page.cancel, None, None, queue=False, api_visibility="private")


def _add_merge(page: Page, lists: Lists, several: gr.Dropdown, status: gr.HTML) -> None:
    """Adds what builds one database of several."""
    gr.Markdown("### Merge")
    several.render()
    weights = gr.Textbox(label="Weights", info="of each, in this order; empty takes all images", placeholder="2, 1")
    title = gr.Textbox(label="Name of the new one")
    merge = gr.Button("Merge")

    @guarded(1 + len(lists.dropdowns))
    def merge_them(names: list[str], weights: str, title: str) -> tuple[Any, ...]:
        """Merges the chosen databases."""
        made = catalog.merge(page.workshop.places, names or [], title or "", weights or "")
        return (remark(f"{made} is ready"), *lists.updates(made))

    merge.click(merge_them, [several, weights, title], [status, *lists.dropdowns], api_visibility="private", **QUEUED)


def _add_rows(page: Page, name: gr.Dropdown, status: gr.HTML) -> None:
    """Adds what shows, searches, removes and exports the rows of a database."""
    places = page.workshop.places
    with gr.Row(equal_height=True):
        name.render()
        text = gr.Textbox(label="Search it", placeholder="words, then Enter")
        number = gr.Number(1, label="Page", precision=0, minimum=1, min_width=70)
        _add_export(page, name, status)
    images, shown = gallery("Images of the database", columns=8, height=480, elem_id="rows"), gr.State([])
    seen = [status, images, shown]

    @guarded(3)
    def look(name: str, number: float) -> tuple[Any, ...]:
        """Returns a page of a database."""
        rows = catalog.page(places, name, (max(1, int(number or 1)) - 1) * ROWS, ROWS)
        return gr.skip() if rows else remark("no images on this page"), neighbor_items(rows), rows

    for trigger in (page.ready, name.change, number.change):
        trigger(look, [name, number], seen, queue=False, api_visibility="private")

    @guarded(3)
    def search(model: str, name: str, text: str) -> tuple[Any, ...]:
        """Returns the rows that are nearest to a text."""
        if not (text or "").strip():
            return look(name, 1)
        rows = page.workshop.search(model, [places.database(name)], text, ROWS)
        return "", neighbor_items(rows), rows

    text.submit(search, [page.model, name, text], seen, api_visibility="private", **QUEUED)
    _add_map(page, name, text, status)
    _add_removal(page, name, seen, look)


def _add_export(page: Page, name: gr.Dropdown, status: gr.HTML) -> None:
    """Adds what packs a database as a zip."""
    zipped = gr.Button("Make a zip", min_width=80)
    file = gr.DownloadButton("Download the zip", interactive=False, min_width=80)

    @guarded(2)
    def export(name: str) -> tuple[Any, ...]:
        """Makes a zip of a database."""
        return "", gr.update(value=str(catalog.export(page.workshop.places, name)), interactive=True)

    zipped.click(export, name, [status, file], api_visibility="private", **QUEUED)


def _add_map(page: Page, name: gr.Dropdown, text: gr.Textbox, status: gr.HTML) -> None:
    """Adds the map of a database: alike images are near each other."""
    with gr.Accordion("Map: alike images are near each other", open=False):
        plot = gr.Button("Plot the map, with what is searched for", size="sm")
        chart = gr.Image(label="Map", show_label=False, format="png", interactive=False, elem_id="map")

    @guarded(2)
    def show(model: str, name: str, text: str) -> tuple[Any, ...]:
        """Returns the map."""
        return "", catalog.plot(page.workshop, model, name, (text or "").strip())

    plot.click(show, [page.model, name, text], [status, chart], api_visibility="private", **QUEUED)


def _add_removal(page: Page, name: gr.Dropdown, seen: list[Any], look: Any) -> None:
    """Adds what removes the row that was clicked.

    Args:
      page: what the tabs know.
      name: of the database.
      seen: the status, the gallery of rows, and their list.
      look: from a name and a page to the values of `seen`.
    """
    _, images, shown = seen
    place, about = gr.State(-1), gr.Markdown("Choose an image to remove it.")
    with gr.Row():
        sure = gr.Checkbox(False, label="Remove it from the database for ever")
        remove = gr.Button("Remove the chosen image", variant="stop")

    def select(event: gr.SelectData, rows: list[Shown]) -> tuple[Any, ...]:
        """Returns the place of the image that was clicked, and what it is."""
        one = rows[event.index]
        return event.index, f"**{one.caption or 'no caption'}** — row {one.row[1]} of {one.row[0]}  \n{one.source}"

    images.select(select, shown, [place, about], queue=False, api_visibility="private")

    @guarded(4)
    def remove_row(name: str, rows: list[Shown], at: int, confirmed: bool) -> tuple[Any, ...]:
        """Removes the image that was clicked."""
        if not 0 <= at < len(rows):
            raise UserError("no image is chosen; click one first")
        if not confirmed:
            raise UserError("tick the box beside the button: a removed image does not come back")
        left = catalog.remove(page.workshop.places, name, rows[at].row)
        return (remark(f"removed; {left} images are left"), *look(name, 1)[1:], False)

    remove.click(remove_row, [name, shown, place, sure], [*seen, sure], api_visibility="private", **QUEUED)
