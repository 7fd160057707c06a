"""What compiles when a request changes: another weight, prompt, mask, reference, database or seed compiles nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from rdm_jax import conditioning, guidance
from sampling_tables.job import Job

COMPILED = "/jax/core/compile/backend_compile_duration"
STEPS = 10

Options = Mapping[str, Any]


class Compilations:
    """Counts what JAX compiles from now on, however small."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == COMPILED


def guided(
    job: Job,
    *,
    text: str = "a red boat",
    reference: str = "one",
    weight: float | list[float] = 5.0,
    label: str = "",
    mask: str = "left",
    bound: float = 3.0,
) -> Options:
    """Returns the options of a run under guides of every kind."""
    attribute, labels = _classes(job)
    image, white = job.file(reference), job.file(mask)
    methods = [
        guidance.SDG(text=text, content=image, structure=image, weight=weight),
        guidance.ClassifierGuidance(attribute=attribute, label=label or labels[0], weight=weight),
        guidance.CLIPGuidance(text=text, weight=weight),
        guidance.ILVR(image=image),
        guidance.Inpaint(image=image, mask=white),
        guidance.Project(image=image, mask=white),
        guidance.DynamicThreshold(bound=bound),
    ]
    return {"guides": methods}


def conditioned(
    job: Job, *, text: str = "a blue cat", weight: float = 2.0, mask: str = "left", database: str = ""
) -> Options:
    """Returns the options of a run under conditioners of every form."""
    database = database or job.other.databases[0].name
    conditioners = [
        conditioning.Switch(prompt=text),
        conditioning.Also(prompt=text, scale=weight),
        conditioning.Negative(prompt=text),
        conditioning.Weights(of_query=weight),
        conditioning.Region(mask=job.file(mask), prompt=text, database=database),
    ]
    return {"conditions": conditioners}


def _classes(job: Job) -> tuple[str, list[str]]:
    """Returns the first attribute of the noised classifier and its classes."""
    return next(iter(job.generator.bundle.config["noised_classifier"]["classes"].items()))


def changes(job: Job) -> Iterator[tuple[str, Options, Options]]:
    """Yields (what changes, the options before, the options after)."""
    plain: Options = {}
    yield "prompt", plain, {"prompt": "a blue cat on a hill"}
    yield "database", plain, {"database": job.other}
    yield "seed", plain, {"seed": 7}
    yield "guidance scale", plain, {"guidance_scale": 3.5}
    yield "guidance interval", plain, {"guidance_interval": (0.2, 0.8)}
    yield "steps", plain, {"steps": 2 * STEPS}
    before = guided(job)
    yield "guides: prompt", before, {**before, "prompt": "a blue cat on a hill"}
    yield "guides: database", before, {**before, "database": job.other}
    yield "guides: seed", before, {**before, "seed": 7}
    yield "guides: text", before, guided(job, text="a painting of a tree")
    yield "guides: weight", before, guided(job, weight=2.5)
    yield "guides: one weight per image", guided(job, weight=[1.0, 2.0]), guided(job, weight=[3.0, 2.0, 1.0])
    yield "guides: reference", before, guided(job, reference="two")
    yield "guides: class", before, guided(job, label=_classes(job)[1][1])
    yield "guides: mask", before, guided(job, mask="top")
    yield "guides: threshold", before, guided(job, bound=2.0)
    before = conditioned(job)
    yield "conditions: prompt", before, {**before, "prompt": "a blue cat on a hill"}
    yield "conditions: text", before, conditioned(job, text="a storm at sea")
    yield "conditions: weight", before, conditioned(job, weight=0.5)
    yield "conditions: mask", before, conditioned(job, mask="top")
    yield "conditions: database", before, conditioned(job, database=job.retriever.databases[0].name)


def lines(job: Job) -> Iterator[str]:
    """Yields the lines of the table."""
    compilations = Compilations()

    def compiled(options: Options) -> tuple[int, int]:
        """Generates, and returns how many programs and functions have been compiled until then."""
        list(job.generator.generate(job.plan(**{"steps": STEPS, **options})))
        return job.generator.compilations, compilations.count

    yield "| what changes | programs compiled | functions compiled |"
    yield "|---|---|---|"
    for what, before, after in changes(job):
        first, second = compiled(before), compiled(after)
        yield f"| {what} | {second[0] - first[0]} | {second[1] - first[1]} |"
