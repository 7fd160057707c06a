"""Conditions that turn into others in the course of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from rdm_jax.conditioning.base import Context, Course, Finder, Other, resampled
from rdm_jax.core.checks import required, share
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Turning(Other):
    """The run's own condition turns into another one."""

    def change(self, context: Context, finder: Finder) -> Context:
        """Notes the tokens of the other condition."""
        tokens = self.tokens(finder)
        if context.given.tokens.shape[1] != tokens.shape[1]:
            raise UserError("a condition that turns into another must come before any region")
        return dataclasses.replace(context, given=dataclasses.replace(context.given, later=tokens))


@dataclasses.dataclass(frozen=True)
class Switch(_Turning):
    """Turns to another prompt, picture or database after a share of the steps."""

    after: float = 0.5
    source: ClassVar[str] = "arXiv 2212.08698, section 3.1 (part of the steps)"

    def schedule(self, course: Course) -> Course:
        """The run's own until then, the other from then on."""
        own = np.arange(course.steps) < round(share("after", self.after) * course.steps)
        return dataclasses.replace(course, share=own.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Mix(_Turning):
    """Mixes the condition with another one by the weights of a file, one for each step, as `rdm edit mix` learns."""

    weights: str = ""
    source: ClassVar[str] = "arXiv 2212.08698, eq. 3 (disentangled editing)"

    def schedule(self, course: Course) -> Course:
        """The file's weights of the run's own condition; for another number of steps they are interpolated."""
        shares = read_weights(required("weights", self.weights, "a file of weights"))
        return dataclasses.replace(course, share=resampled(course.steps, shares))


def read_weights(file: str) -> list[float]:
    """Returns the weights that a JSON file holds, a list or under "weights"; raises UserError where it has none."""
    try:
        told = json.loads(Path(file).expanduser().read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read weights from {file}: {error}") from error
    values = told.get("weights") if isinstance(told, dict) else told
    if not isinstance(values, list) or not values or not all(isinstance(one, int | float) for one in values):
        raise UserError(f"{file} holds no weights; give a JSON list of numbers, one for each step")
    return [float(one) for one in values]
