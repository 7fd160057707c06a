"""Conditions that turn into others over the steps of a run."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from rdm_jax.conditioning.base import (
    ConditionBuilder,
    Context,
    OtherCondition,
    ScheduledCondition,
    StepSchedule,
    resample,
)
from rdm_jax.core import paths, text
from rdm_jax.core.calls import File
from rdm_jax.core.checks import required, share
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Turning(OtherCondition):
    """The run's own condition turns into another one."""

    requires: ClassVar[tuple[str, ...]] = ("step_schedule",)

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Sets the tokens of the other condition as the target."""
        other = self.build(builder)
        tokens = other.tokens
        if context.given.tokens.shape[1] != tokens.shape[1]:
            raise UserError(
                "the condition and the one that it turns into have different numbers of tokens; give it before any "
                "region, and prompts of one length where they are read in windows"
            )
        if builder.encoders is not None:
            _check_encoders(context.given, other)
        images = None if other.images is None else other.images.tokens
        given = dataclasses.replace(context.given, target=tokens, image_target=images)
        return dataclasses.replace(context, given=given)


def _check_encoders(given: ScheduledCondition, other: ScheduledCondition) -> None:
    """Raises UserError if a condition turns into another one in more than its tokens.

    Args:
      given: a condition by several encoders.
      other: what it turns into.
    """
    if other.vector is not None:
        raise UserError(
            "this model has vectors beside the time, which do not turn into others; leave switch and mix out"
        )
    if not np.array_equal(given.weights > 0, other.weights > 0):
        raise UserError(
            "the condition and the one that it turns into have other tokens; give a prompt of as many tokens, where an "
            "encoder reads it"
        )


@dataclasses.dataclass(frozen=True)
class Switch(_Turning):
    """Switches to another prompt, image or database after a fraction of the steps."""

    after: float = 0.5
    source: ClassVar[str] = "arXiv 2212.08698, section 3.1 (part of the steps)"

    def change_schedule(self, schedule: StepSchedule) -> StepSchedule:
        """Returns weight 1 before the switch and 0 after it."""
        own = np.arange(schedule.steps) < round(share("after", self.after) * schedule.steps)
        return dataclasses.replace(schedule, weight=own.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Mix(_Turning):
    """Mixes the condition with another one by the weights of a file, one for each step, as `rdm edit mix` learns."""

    weights: File = ""
    source: ClassVar[str] = "arXiv 2212.08698, eq. 3 (disentangled editing)"

    def change_schedule(self, schedule: StepSchedule) -> StepSchedule:
        """Returns the file's weights of the run's own condition, interpolated for another number of steps."""
        weights = read_weights(required("weights", self.weights, "a file of weights"))
        return dataclasses.replace(schedule, weight=resample(schedule.steps, weights))


def read_weights(file: str) -> list[float]:
    """Returns the weights that a JSON file holds, a list or under "weights"; raises UserError where it has none."""
    try:
        content = text.read_json(paths.local(file))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read weights from {file}: {error}") from error
    values = content.get("weights") if isinstance(content, dict) else content
    if not isinstance(values, list) or not values or not all(isinstance(one, int | float) for one in values):
        raise UserError(f"{file} holds no weights; give a JSON list of numbers, one for each step")
    return [float(one) for one in values]
