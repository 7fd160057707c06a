"""What compiles when a run changes: another weight, prompt, mask, reference, database or seed shall compile nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from draws.job import Job
from rdm_jax.conditioning import Also, Negative, Region, Switch, Weights
from rdm_jax.guidance import ILVR, SDG, ClassifierGuidance, CLIPGuidance, DynamicThreshold, Inpaint, Project

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


def guided(job: Job, **changed: Any) -> Options:
    """Returns a run under all guides that there are."""
    classes = job.generator.bundle.config["noised_classifier"]["classes"]
    attribute = next(iter(classes))
    told = {
        "text": "a red boat",
        "reference": "one",
        "weight": 5.0,
        "label": classes[attribute][0],
        "mask": "left",
        "bound": 3.0,
        **changed,
    }
    picture, mask = job.file(told["reference"]), job.file(told["mask"])
    made = [
        SDG(text=told["text"], content=picture, structure=picture, weight=told["weight"]),
        ClassifierGuidance(attribute=attribute, label=told["label"], weight=told["weight"]),
        CLIPGuidance(text=told["text"], weight=told["weight"]),
        ILVR(image=picture),
        Inpaint(image=picture, mask=mask),
        Project(image=picture, mask=mask),
        DynamicThreshold(bound=told["bound"]),
    ]
    return {"guides": made}


def conditioned(job: Job, **changed: Any) -> Options:
    """Returns a run under further conditions of every form."""
    told = {"text": "a blue cat", "weight": 2.0, "mask": "left", "database": job.other.databases[0].name, **changed}
    made = [
        Switch(prompt=told["text"]),
        Also(prompt=told["text"], scale=told["weight"]),
        Negative(prompt=told["text"]),
        Weights(of_query=told["weight"]),
        Region(mask=job.file(told["mask"]), prompt=told["text"], database=told["database"]),
    ]
    return {"conditions": made}


def changes(job: Job) -> Iterator[tuple[str, Options, Options]]:
    """Yields what changes, the run before and the run after."""
    classes = job.generator.bundle.config["noised_classifier"]["classes"]
    plain: Options = {}
    yield "prompt", plain, {"prompt": "a blue cat on a hill"}
    yield "database", plain, {"database": job.other}
    yield "seed", plain, {"seed": 7}
    yield "guidance scale", plain, {"guidance_scale": 3.5}
    yield "guidance interval", plain, {"guidance_from": 0.2, "guidance_to": 0.8}
    yield "steps", plain, {"steps": 2 * STEPS}
    before = guided(job)
    yield "guides: prompt", before, {**before, "prompt": "a blue cat on a hill"}
    yield "guides: database", before, {**before, "database": job.other}
    yield "guides: seed", before, {**before, "seed": 7}
    yield "guides: text", before, guided(job, text="a painting of a tree")
    yield "guides: weight", before, guided(job, weight=2.5)
    yield "guides: weights of each picture", guided(job, weight=[1.0, 2.0]), guided(job, weight=[3.0, 2.0, 1.0])
    yield "guides: reference", before, guided(job, reference="two")
    yield "guides: class", before, guided(job, label=next(iter(classes.values()))[1])
    yield "guides: mask", before, guided(job, mask="top")
    yield "guides: threshold", before, guided(job, bound=2.0)
    before = conditioned(job)
    yield "conditions: prompt", before, {**before, "prompt": "a blue cat on a hill"}
    yield "conditions: text", before, conditioned(job, text="a storm at sea")
    yield "conditions: weight", before, conditioned(job, weight=0.5)
    yield "conditions: mask", before, conditioned(job, mask="top")
    yield "conditions: database", before, conditioned(job, database=job.retriever.databases[0].name)


def lines(job: Job) -> Iterator[str]:
    """Yields the table."""
    compilations = Compilations()

    def drawn(options: Options) -> tuple[int, int]:
        """Draws, and returns how many programs and functions have been compiled by then."""
        list(job.generator.draw(job.plan(**{"steps": STEPS, **options})))
        return job.generator.compilations, compilations.count

    yield "| what changes | programs compiled | functions compiled |"
    yield "|---|---|---|"
    for what, before, after in changes(job):
        first, second = drawn(before), drawn(after)
        yield f"| {what} | {second[0] - first[0]} | {second[1] - first[1]} |"
