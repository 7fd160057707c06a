"""Conditions that classifier-free guidance leads to, or away from."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from rdm_jax.conditioning.base import (
    ConditionBuilder,
    Conditioner,
    Context,
    OtherCondition,
    StepSchedule,
)
from rdm_jax.core.checks import share
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Also(OtherCondition):
    """Leads to a further condition as well, by a scale of its own: eps + scale (eps_also - eps_null)."""

    scale: float = 2.0
    source: ClassVar[str] = "arXiv 2206.01714, eq. 11 (composed conditions)"
    requires: ClassVar[tuple[str, ...]] = ("composition",)

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Adds the condition."""
        return dataclasses.replace(context, also=(*context.also, self.build(builder)))

    def change_schedule(self, schedule: StepSchedule) -> StepSchedule:
        """Adds its scale."""
        return dataclasses.replace(schedule, also=(*schedule.also, np.full(schedule.steps, self.scale, np.float32)))


@dataclasses.dataclass(frozen=True)
class Negative(OtherCondition):
    """Replaces the null condition of classifier-free guidance by a prompt, an image or a database."""

    source: ClassVar[str] = "arXiv 2207.12598, with another condition for none"

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Replaces the null condition."""
        if not (self.prompt or self.image or self.database):
            raise UserError(
                "negative has nothing to guide away from; give it prompt='...', image='...' or database='...'"
            )
        # An adapter's neighbors are beside the text: a negative prompt alone leaves the null condition without images.
        adapter = builder.adapter if self.database else None
        encoders = builder.encoders and dataclasses.replace(builder.encoders, reference=None)  # as content
        alone = dataclasses.replace(builder, content=None, adapter=adapter, encoders=encoders)
        return dataclasses.replace(context, null=self.build(alone))


@dataclasses.dataclass(frozen=True)
class Interleave(Conditioner):
    """Leads some steps away from the neighbors alone, which makes them follow the query, and the others away from the
    query alone."""

    query_scale: float = 3.0
    neighbor_scale: float = 3.0
    query_share: float = 0.5
    source: ClassVar[str] = "arXiv 2209.14491, section 3.2 (Re-Imagen)"
    requires: ClassVar[tuple[str, ...]] = ("step_schedule",)

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Makes the null condition one of the two, step by step."""
        given, none = context.given, context.null
        if builder.encoders is not None:
            raise UserError("interleave is not for models with several encoders; use leave_out for one of them")
        if given.images is not None and builder.adapter is not None:
            null = dataclasses.replace(given, tokens=none.tokens, weights=none.weights, target=given.tokens)
            nothing = builder.adapter.null(given.images).tokens
            return dataclasses.replace(context, null=dataclasses.replace(null, image_target=nothing))
        count, tokens = builder.query_tokens, given.tokens
        if not 0 < count < tokens.shape[1]:
            raise UserError("interleave needs a query and neighbors; use --condition text+neighbors")
        neighbors, query = np.array(tokens), np.array(tokens)
        neighbors[:, :count], query[:, count:] = builder.null, builder.null
        return dataclasses.replace(context, null=dataclasses.replace(given, tokens=neighbors, target=query))

    def change_schedule(self, schedule: StepSchedule) -> StepSchedule:
        """Sets which null condition each step has, and its guidance scale."""
        by_query = spread_evenly(schedule.steps, share("query_share", self.query_share))
        scale = np.where(by_query, self.query_scale, self.neighbor_scale).astype(np.float32)
        return dataclasses.replace(schedule, null_weight=by_query.astype(np.float32), guidance=scale)


def spread_evenly(steps: int, part: float) -> Any:
    """Returns which of the steps belong to a fraction of them, as evenly spread as possible, [steps] of bool."""
    numbers = np.arange(steps)
    # A little more than the product, which may fall short of a whole number by its rounding.
    return np.floor((numbers + 1) * part + 1e-9) > np.floor(numbers * part + 1e-9)
