"""Conditions beside the prompt, as they are asked for by name: "region(mask='left.png', database='neon')"."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rdm_jax.conditioning.attention import Region, Weights
from rdm_jax.conditioning.base import Condition, Context, Course, Finder, Kind, aligned
from rdm_jax.conditioning.composed import Also, Interleave, Negative
from rdm_jax.conditioning.embeddings import Add, Interpolate
from rdm_jax.conditioning.over_time import Mix, Switch
from rdm_jax.core.calls import describe

__all__ = [
    "KINDS",
    "Condition",
    "Context",
    "Course",
    "Finder",
    "Kind",
    "aligned",
    "context_of",
    "course_of",
    "listed",
    "queries_of",
]

KINDS: dict[str, type[Kind]] = {
    "also": Also,
    "negative": Negative,
    "interleave": Interleave,
    "weights": Weights,
    "region": Region,
    "interpolate": Interpolate,
    "add": Add,
    "switch": Switch,
    "mix": Mix,
}


def context_of(kinds: Sequence[Kind], finder: Finder, neighbors: Float[np.ndarray, "q k d"] | None) -> Context:
    """Returns the context of a run's queries and their neighbours under all conditions, applied in order.

    Args:
      kinds: the conditions; `finder.queries` has been through their `query`.
      finder: what makes tokens.
      neighbors: the vectors that the queries retrieved; None where the condition has none.

    Raises:
      UserError: a file, a database or a value cannot be.
    """
    tokens = finder.tokens(finder.queries, neighbors)
    context = Context(given=Condition(tokens), null=Condition(np.broadcast_to(finder.null, tokens.shape)))
    for kind in kinds:
        context = kind.change(context, finder)
    return aligned(context)


def course_of(kinds: Sequence[Kind], course: Course) -> Course:
    """Returns the course of a run under all conditions."""
    for kind in kinds:
        course = kind.schedule(course)
    return course


def queries_of(kinds: Sequence[Kind], finder: Finder) -> Finder:
    """Returns the finder with the run's queries as the conditions leave them."""
    for kind in kinds:
        finder = dataclasses.replace(finder, queries=kind.query(finder))
    return finder


def listed() -> str:
    """Returns what conditions there are, with their options and sources, as text."""
    return "\n".join(describe(name, kind, kind.source) for name, kind in KINDS.items())
