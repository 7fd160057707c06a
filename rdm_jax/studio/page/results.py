"""What was generated: live previews, the images with their neighbors and parameters, and what to do with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.studio.history import Made, images_of, pack
from rdm_jax.studio.jobs import Job, Status
from rdm_jax.studio.page.shared import Page, bar, details, gallery, made_items, neighbor_items
from rdm_jax.studio.workshop import Workshop, rows_of

OUTPUTS = 4  # of `follow`


@dataclasses.dataclass(frozen=True)
class Results:
    """The images of a run or of the history.

    Attributes:
      status: of the job, or its error.
      previews: estimates of the finished images.
      images: the images.
      made: a list of `Made`.
      selected: the `Made` that was clicked; None before.
      reuse: takes its request into the form.
      vary: generates variations of it.
      edit: opens it in the tab that edits.
      upscale: generates it at a higher resolution; it is there if a model does that.
    """

    status: gr.HTML
    previews: gr.Gallery
    images: gr.Gallery
    made: gr.State
    selected: gr.State
    reuse: gr.Button
    vary: gr.Button
    edit: gr.Button
    upscale: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """What `follow` yields for."""
        return [self.status, self.previews, self.images, self.made]

    @staticmethod
    def add(page: Page, title: str = "### Images") -> Results:
        """Adds the controls."""
        gr.Markdown(title)
        status = gr.HTML()
        previews = gallery("Previews", columns=4, height=150, visible=False)
        shown = {"allow_preview": True, "buttons": ["download", "fullscreen"], "object_fit": "contain"}
        images = gallery("Images", columns=2, height=505, elem_id="images", **shown)
        made, selected = gr.State([]), gr.State(None)
        with gr.Row():
            download = gr.DownloadButton("PNG", size="sm", min_width=48, interactive=False)
            vector = gr.DownloadButton("SVG", size="sm", min_width=48, interactive=False)
            archive = gr.DownloadButton("All (zip)", size="sm", min_width=48, interactive=False)
            reuse = gr.Button("Reuse", size="sm", min_width=48, interactive=False)
            vary = gr.Button("Vary", size="sm", min_width=48, interactive=False)
            edit = gr.Button("Edit", size="sm", min_width=48, interactive=False)
            can = bool(page.workshop.upscaler(page.workshop.default_model))
            upscale = gr.Button("Upscale", size="sm", min_width=48, interactive=False, visible=can)
        about = gr.Markdown("Choose an image for its neighbors and parameters.")
        seen = gallery("Its neighbors", columns=6, height=130)
        outputs = [selected, about, seen, download, vector, reuse, vary, edit, upscale]

        def select(event: gr.SelectData, generated: list[Made]) -> tuple[Any, ...]:
            """Returns what belongs to the image that was clicked."""
            one = generated[event.index]
            on = gr.update(interactive=True)
            vectors = gr.update(value=str(one.svg) if one.svg else None, interactive=one.svg is not None)
            files = gr.update(value=str(one.file), interactive=True)
            return one, details(one), neighbor_items(neighbors_of(page.workshop, one)), files, vectors, on, on, on, on

        def archived(generated: list[Made]) -> Any:
            """Returns the zip of all images, where they are of one run."""
            file = pack(generated, page.workshop.places.new_upload(".zip"))
            return gr.update(value=str(file) if file else None, interactive=file is not None)

        images.select(select, made, outputs, queue=False, api_visibility="private")
        # Not the change of `made`: Gradio would hash it, and records hold dictionaries.
        images.change(archived, made, archive, queue=False, api_visibility="private")
        return Results(status, previews, images, made, selected, reuse, vary, edit, upscale)


def neighbors_of(workshop: Workshop, made: Made) -> list[Any]:
    """Returns the neighbors of a generated image, those whose databases are still there."""
    known = workshop.places.known_databases()
    found = []
    for one in made.entry.get("neighbors") or []:
        name = str(one["database"])
        if name in known:
            try:
                found += rows_of(Mixture.open([known[name]]), [name], [int(one["id"])], [float(one["score"])])
            except UserError:  # rows were removed since
                continue
    return found


def follow(page: Page, start: Callable[[], Job], request: gr.Request) -> Iterator[tuple[Any, ...]]:
    """Runs a job whose result is a run's folder; yields status, previews, images and their list.

    Args:
      page: what the tabs know.
      start: makes the job; what is invalid in the request is shown in the status.
      request: of the session.
    """
    try:
        job = start()
    except UserError as error:
        yield bar(Status("", error=" ".join(str(error).split()))), gr.skip(), gr.skip(), gr.skip()
        return
    yield bar(Status("waiting")), gr.update(value=[], visible=False), gr.skip(), gr.skip()
    before = None
    for status in page.follow(job, request):
        previews = gr.skip()
        if status.previews and status.previews is not before:
            before = status.previews
            previews = gr.update(value=[image for _, image in sorted(before.items())], visible=True)
        if status.result is None:
            yield bar(status), previews, gr.skip(), gr.skip()
            continue
        images = images_of(status.result)
        yield bar(status), gr.update(value=[], visible=False), made_items(images), images
