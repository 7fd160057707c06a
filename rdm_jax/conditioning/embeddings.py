"""Arithmetic with the vectors of prompts, images and neighbors."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from rdm_jax.conditioning.base import ConditionBuilder, Context, OtherCondition
from rdm_jax.core.checks import share
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit


@dataclasses.dataclass(frozen=True)
class Interpolate(OtherCondition):
    """Moves the query along the sphere towards another prompt or image before anything is retrieved, and the neighbors
    towards those of another database afterwards."""

    share: float = 0.5
    source: ClassVar[str] = "arXiv 2204.06125, section 3.2 (slerp of CLIP vectors), for retrieved tokens too"

    def change_queries(self, builder: ConditionBuilder) -> Float[np.ndarray, "q d"]:
        """Returns the interpolated queries."""
        return slerp(builder.queries, self.query_vectors(builder), share("share", self.share))

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Moves the neighbors towards those of the other database; `builder` has the moved queries."""
        if not self.database:
            return context
        other = builder.build(builder.queries, builder.retrieve(builder.queries, self.database)).tokens
        tokens = slerp(context.given.tokens, other, self.share)
        return dataclasses.replace(context, given=dataclasses.replace(context.given, tokens=tokens))


@dataclasses.dataclass(frozen=True)
class Add(OtherCondition):
    """Adds the direction of a prompt or an image to the queries, times a weight that may be negative."""

    weight: float = 0.5
    source: ClassVar[str] = "arXiv 2204.06125, section 3.3 (text differences), as a sum"

    def change_queries(self, builder: ConditionBuilder) -> Float[np.ndarray, "q d"]:
        """Returns the sums, each of the length of its query."""
        if not self.prompt and not self.image:
            raise UserError("add has nothing to add; give it prompt='...' or image='FILE'")
        lengths = np.linalg.norm(builder.queries, axis=-1, keepdims=True)
        total = unit(builder.queries) + self.weight * unit(self.query_vectors(builder))
        return unit(total) * lengths


def slerp(
    one: Float[np.ndarray, "... d"], other: Float[np.ndarray, "... d"], part: float
) -> Float[np.ndarray, "... d"]:
    """Returns the vector at a fraction of the way from one to another: on the great circle, lengths interpolated.

    Vectors of one direction, or of opposite ones, have no circle of their own and are interpolated along the line.
    """
    a, b = unit(one.astype(np.float64)), unit(other.astype(np.float64))
    angle = np.arccos(np.clip(np.sum(a * b, axis=-1, keepdims=True), -1.0, 1.0))
    straight = (angle < 1e-4) | (angle > np.pi - 1e-4)
    sine = np.where(straight, 1.0, np.sin(angle))
    first = np.where(straight, 1.0 - part, np.sin((1.0 - part) * angle) / sine)
    second = np.where(straight, part, np.sin(part * angle) / sine)
    lengths = [np.linalg.norm(each, axis=-1, keepdims=True) for each in (one, other)]
    return ((first * a + second * b) * ((1.0 - part) * lengths[0] + part * lengths[1])).astype(np.float32)
