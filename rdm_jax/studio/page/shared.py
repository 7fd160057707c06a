"""What all tabs of the page share: running jobs, showing their status, messages, galleries."""

from __future__ import annotations

import dataclasses
import functools
import html
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.errors import UserError
from rdm_jax.studio.history import Made
from rdm_jax.studio.jobs import Job, Status
from rdm_jax.studio.wanted import blamed
from rdm_jax.studio.workshop import Shown, Workshop

ONE_AT_A_TIME = "generator"
"""The queue of everything that uses a model."""
MOST_WAITING = 256  # requests in the queue; one more is refused in a line
PAUSE = 0.2  # seconds between two updates of the page
QUEUED = {"concurrency_id": ONE_AT_A_TIME, "concurrency_limit": 1}


@dataclasses.dataclass(frozen=True)
class Page:
    """What the tabs know.

    Attributes:
      workshop: the studio.
      jobs: the job of each session that has one.
      model: the dropdown of models.
      ready: the event that the page is loaded.
    """

    workshop: Workshop
    jobs: dict[str, Job]
    model: gr.Dropdown
    ready: Any

    def follow(self, job: Job, request: gr.Request) -> Iterator[Status]:
        """Runs a job and yields its status a few times a second; the last one has its result or its error."""
        session = str(request.session_hash)
        self.jobs[session] = job
        shown, status = 0.0, Status("")
        try:
            for status in job.statuses():
                if time.monotonic() - shown > PAUSE:
                    shown = time.monotonic()
                    yield status
            yield status
        finally:
            self.jobs.pop(session, None)

    def cancel(self, request: gr.Request) -> None:
        """Cancels the job of a session, if it has one."""
        job = self.jobs.get(str(request.session_hash))
        if job is not None:
            job.cancel()


def followed(status: gr.HTML) -> dict[str, Any]:
    """Returns the options of events that run a job: its place in the queue is shown beside the status.

    Args:
      status: where the job reports.
    """
    return {"show_progress": "minimal", "show_progress_on": status, "api_visibility": "private", **QUEUED}


def bar(status: Status) -> str:
    """Returns the status of a job as HTML: a bar and a line, or the error."""
    if status.error:
        return message(status.error)
    done = round(100 * status.done)
    return (
        f'<div class="job" role="status"><progress max="100" value="{done}" aria-label="progress">{done} %</progress>'
        f"<span>{html.escape(status.text)}</span></div>"
    )


def message(text: str) -> str:
    """Returns an error as HTML, which screen readers say at once; it outlines its control. "" for none."""
    if not text:
        return ""
    name, line = blamed(text), f'<p class="error" role="alert">{html.escape(text)}</p>'
    rule = f".{control_class(name)} {{outline: 2px solid #b91c1c; outline-offset: -2px}}"
    return f"{line}<style>{rule}</style>" if name else line


def control_class(name: str) -> str:
    """Returns the CSS class of the controls of an option, by which an error marks them."""
    return f"control-{name.replace('_', '-')}"


def remark(text: str) -> str:
    """Returns a line that is no error as HTML; "" for none."""
    return f'<p class="remark" role="status">{html.escape(text)}</p>' if text else ""


def guarded(outputs: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator of handlers: what is invalid becomes a line in the first output, and the others stay.

    Args:
      outputs: of the handler, the first of which is a message.
    """

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the handler with its errors shown."""

        @functools.wraps(handler)
        def wrapped(*values: Any) -> Any:
            """Returns what the handler returns, or the message."""
            try:
                return handler(*values)
            except UserError as error:
                line = message(" ".join(str(error).split()))
                return (line, *[gr.skip()] * (outputs - 1)) if outputs > 1 else line

        return wrapped

    return decorate


def gallery(label: str, columns: int, height: int, **options: Any) -> gr.Gallery:
    """Returns a gallery of images to click; as PNG, since WebP would lose what is inside a file."""
    fixed = {"format": "png", "allow_preview": False, "buttons": [], "interactive": False}
    return gr.Gallery(label=label, columns=columns, height=height, **{**fixed, **options})


def add_databases(page: Page) -> gr.Dropdown:
    """Adds the choice of databases; at first, and for another model, it has one that the model's encoder made."""
    fitting = page.workshop.fitting
    known, first = list(page.workshop.places.known_databases()), fitting(page.workshop.default_model)[:1]
    marked = control_class("databases")
    databases = gr.Dropdown(known, value=first, multiselect=True, label="Databases", elem_classes=marked)

    def of_model(model: str, names: list[str] | None) -> list[str]:
        """Returns those that fit the model, or one that does."""
        fit = fitting(model)
        return [name for name in names or [] if name in fit] or fit[:1]

    page.model.change(of_model, [page.model, databases], databases, queue=False, api_visibility="private")
    return databases


def neighbor_items(shown: list[Shown], marks: Callable[[Shown], str] = lambda _: "") -> list[tuple[Any, str]]:
    """Returns neighbors as items of a gallery.

    Args:
      shown: the neighbors.
      marks: what is written before the caption of each.
    """
    items = []
    for one in shown:
        score = f"{one.score:.2f}" if one.score else ""
        words = [marks(one), one.role, one.caption or one.source, score, one.row[0]]
        items.append((one.image, " · ".join(word for word in words if word)))
    return items


def made_items(made: list[Made]) -> list[tuple[str, str]]:
    """Returns generated images as items of a gallery: the very files of the run."""
    return [(str(one.file), one.label) for one in made]


def details(made: Made | None) -> str:
    """Returns what made an image, as Markdown."""
    if made is None:
        return ""
    request, options = made.run.get("request", {}), made.run.get("options", {})
    lines = [
        f"**{_plain(made.prompt)}**",
        f"model {_plain(made.run['model']['name'])}, seed {made.entry['seed']}, "
        f"{request.get('condition')}, {request.get('neighbors')} neighbors",
        ", ".join(f"{name} {_plain(value)}" for name, value in options.items() if value not in ("", [], None)),
        "neighbors: "
        + "; ".join(
            f"{_plain(one['path'])} ({_plain(one['database'])}, {one['score']:.2f})"
            for one in made.entry.get("neighbors") or []
        ),
    ]
    return "  \n".join(line for line in lines if line)


def _plain(value: Any) -> str:
    """Returns a text without the letters that Markdown and HTML interpret; names come from files."""
    escaped = html.escape(str(value))
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]#|~" else letter for letter in escaped)
