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
from rdm_jax.models.condition import Condition


@dataclasses.dataclass(frozen=True)
class Interpolate(OtherCondition):
    """Moves the query along the sphere towards another prompt or image before anything is retrieved, and the neighbors
    towards those of another database afterwards."""

    share: float = 0.5
    source: ClassVar[str] = "arXiv 2204.06125, section 3.2 (slerp of CLIP vectors), for retrieved tokens too"

    def change_queries(self, builder: ConditionBuilder) -> ConditionBuilder:
        """Returns the builder with the interpolated queries and texts."""
        part = share("share", self.share)
        queries = slerp(builder.queries, self.query_vectors(builder), part)
        return dataclasses.replace(builder, queries=queries, text=self.text_towards(builder, part))

    def text_towards(self, builder: ConditionBuilder, part: float) -> Condition | None:
        """Returns the run's texts with each token at a fraction of the way to the other text's; None without texts."""
        text, other = builder.text, self.text(builder)
        if text is None or other is None:
            return None
        vector = None if text.vector is None else slerp(text.vector, other.vector, part)
        return dataclasses.replace(text, tokens=slerp(text.tokens, _of_length(text, other), part), vector=vector)

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Moves the neighbors towards those of the other database; `builder` has the moved queries."""
        if not self.database:
            return context
        other = builder.build(builder.queries, builder.retrieve(builder.queries, self.database), builder.text)
        given = context.given
        given = dataclasses.replace(given, tokens=slerp(given.tokens, other.tokens, self.share))
        if given.images is not None and other.images is not None:
            tokens = slerp(given.images.tokens, other.images.tokens, self.share)
            given = dataclasses.replace(given, images=dataclasses.replace(given.images, tokens=tokens))
        return dataclasses.replace(context, given=given)


@dataclasses.dataclass(frozen=True)
class Add(OtherCondition):
    """Adds the direction of a prompt or an image to the queries, times a weight that may be negative."""

    weight: float = 0.5
    source: ClassVar[str] = "arXiv 2204.06125, section 3.3 (text differences), as a sum"

    def change_queries(self, builder: ConditionBuilder) -> ConditionBuilder:
        """Returns the builder with the sums, each of the length of its query, and of each token of its text."""
        if not self.prompt and not self.image:
            raise UserError("add has nothing to add; give it prompt='...' or image='FILE'")
        queries = self._sum(builder.queries, self.query_vectors(builder))
        text, other = builder.text, self.text(builder)
        if text is not None and other is not None:
            vector = None if text.vector is None else self._sum(text.vector, other.vector)
            text = dataclasses.replace(text, tokens=self._sum(text.tokens, _of_length(text, other)), vector=vector)
        return dataclasses.replace(builder, queries=queries, text=text)

    def _sum(self, own: Float[np.ndarray, "*q d"], other: Float[np.ndarray, "*q d"]) -> Float[np.ndarray, "*q d"]:
        lengths = np.linalg.norm(own, axis=-1, keepdims=True)
        return unit(unit(own) + self.weight * unit(other)) * lengths


def _of_length(text: Condition, other: Condition) -> Float[np.ndarray, "q n d"]:
    """Returns the tokens of another text, as many as a text has.

    Raises:
      UserError: they are read in different numbers of windows.
    """
    if text.tokens.shape != other.tokens.shape:
        raise UserError("the two prompts are read in different numbers of windows; give prompts of similar length")
    return other.tokens


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
