"""What a run is conditioned on: the query, its neighbors, and conditioners such as "region(mask='left.png')"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rdm_jax.conditioning.alignment import align, align_images
from rdm_jax.conditioning.attention import Paint, Region, Weights
from rdm_jax.conditioning.base import (
    ConditionBuilder,
    Conditioner,
    Context,
    OtherCondition,
    ScheduledCondition,
    StepSchedule,
)
from rdm_jax.conditioning.composed import Also, Interleave, Negative
from rdm_jax.conditioning.embeddings import Add, Interpolate
from rdm_jax.conditioning.inpainting import Fill, with_blank_channels
from rdm_jax.conditioning.over_time import Mix, Switch
from rdm_jax.core.calls import describe

__all__ = [
    "CONDITIONERS",
    "Add",
    "Also",
    "ConditionBuilder",
    "Conditioner",
    "Context",
    "Fill",
    "Interleave",
    "Interpolate",
    "Mix",
    "Negative",
    "OtherCondition",
    "Paint",
    "Region",
    "ScheduledCondition",
    "StepSchedule",
    "Switch",
    "Weights",
    "align",
    "apply_conditioners",
    "change_queries",
    "describe_conditioners",
    "schedule_steps",
]

CONDITIONERS: dict[str, type[Conditioner]] = {
    "also": Also,
    "negative": Negative,
    "interleave": Interleave,
    "weights": Weights,
    "region": Region,
    "paint": Paint,
    "interpolate": Interpolate,
    "add": Add,
    "fill": Fill,
    "switch": Switch,
    "mix": Mix,
}


def change_queries(conditioners: Sequence[Conditioner], builder: ConditionBuilder) -> ConditionBuilder:
    """Returns the builder with the run's queries and texts after all conditioners."""
    for conditioner in conditioners:
        builder = conditioner.change_queries(builder)
    return builder


def apply_conditioners(
    conditioners: Sequence[Conditioner], builder: ConditionBuilder, neighbors: Float[np.ndarray, "q n c"] | None
) -> Context:
    """Returns the context of a run's queries and their neighbors after all conditioners, applied in order.

    Args:
      conditioners: of the run; `builder.queries` is the result of `change_queries`.
      builder: of the run.
      neighbors: the tokens of what the queries retrieved; None where the condition has none.

    Raises:
      UserError: a file or a database cannot be read, or a value is out of range.
    """
    given, also = builder.build(builder.queries, neighbors, builder.text), builder.build_also()
    context = Context(given=given, null=builder.build_null(), also=also)
    for conditioner in conditioners:
        context = conditioner.change_context(context, builder)
    return align_images(align(with_blank_channels(context, builder)), builder.adapter)


def schedule_steps(conditioners: Sequence[Conditioner], schedule: StepSchedule) -> StepSchedule:
    """Returns the schedule of a run's steps after all conditioners."""
    for conditioner in conditioners:
        schedule = conditioner.change_schedule(schedule)
    return schedule


def describe_conditioners() -> str:
    """Returns the conditioners with their options and sources, as text."""
    return "\n".join(describe(name, kind, kind.source) for name, kind in CONDITIONERS.items())
