"""The interface for programs: what the page does, a script can do by `gradio_client`."""

from __future__ import annotations

from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.errors import UserError
from rdm_jax.studio.choice import Choices
from rdm_jax.studio.history import Made, images_of
from rdm_jax.studio.jobs import Job
from rdm_jax.studio.page.shared import QUEUED, Page
from rdm_jax.studio.wanted import Wanted


def add(page: Page) -> None:
    """Adds the functions `models`, `databases`, `neighbors` and `sample`."""
    workshop = page.workshop

    def models() -> list[str]:
        """Returns the names of the models; the first one is the default."""
        return [workshop.default_model, *(name for name in workshop.models if name != workshop.default_model)]

    def databases() -> list[str]:
        """Returns the names of the databases."""
        return list(workshop.places.known_databases())

    def wanted(prompts: list[str], names: list[str], options: dict[str, Any]) -> Wanted:
        """Returns a request."""
        negative = str(options.get("negative_prompt", ""))
        rest = {name: value for name, value in options.items() if name != "negative_prompt"}
        opened = tuple(workshop.places.database(name) for name in names)
        return Wanted(tuple(prompts), negative=negative, databases=opened, options=rest)

    def neighbors(
        prompts: list[str], databases: list[str], model: str, options: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Returns what a request would retrieve: prompt, database, id, score, caption and source of each neighbor."""
        with _errors():
            rows = workshop.neighbors(model, wanted(prompts, databases, options), Choices())
        return [
            {"prompt": one.prompt, "database": one.row[0], "id": one.row[1], "score": one.score}
            | {"caption": one.caption, "source": one.source, "role": one.role}
            for one in rows
        ]

    def sample(prompts: list[str], databases: list[str], model: str, options: dict[str, Any]) -> list[dict[str, Any]]:
        """Generates images; returns the file, the prompt, the seed and the neighbors of each one."""
        with _errors():
            job = workshop.generate(model, wanted(prompts, databases, options), Choices())
            folder = finished(job)
        return [_image(made) for made in images_of(folder)]

    for function in (models, databases):
        gr.api(function, api_name=function.__name__, queue=False)
    for function in (neighbors, sample):
        gr.api(function, api_name=function.__name__, **QUEUED)


def _image(made: Made) -> dict[str, Any]:
    """Returns an image's entry of run.json, and the place of its file.

    The client takes anything with a "path" for a file to fetch: that of a neighbor is its "source".
    """
    found = made.entry.get("neighbors") or []
    neighbors = [{"source" if key == "path" else key: value for key, value in one.items()} for one in found]
    return {**made.entry, "neighbors": neighbors, "file": str(made.file)}


def finished(job: Job) -> Any:
    """Returns the result of a job; raises UserError with its line if it failed."""
    *_, last = job.statuses()
    if last.error:
        raise UserError(last.error)
    return last.result


class _errors:
    """Shows what is invalid to the program as the error's text."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UserError):
            raise gr.Error(" ".join(str(error).split()), print_exception=False) from error
