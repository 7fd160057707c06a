"""Arithmetic with the vectors of prompts, pictures and neighbours."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from rdm_jax.conditioning.base import Context, Finder, Other
from rdm_jax.core.checks import share
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit


@dataclasses.dataclass(frozen=True)
class Interpolate(Other):
    """Goes a share of the way along the sphere to another prompt or picture before anything is retrieved, and to the
    neighbours of another database afterwards."""

    share: float = 0.5
    source: ClassVar[str] = "arXiv 2204.06125, section 3.2 (slerp of CLIP vectors), for retrieved tokens too"

    def query(self, finder: Finder) -> Float[np.ndarray, "q d"]:
        """Returns the run's queries on their way to the other."""
        return slerp(finder.queries, self.query_vectors(finder), share("share", self.share))

    def change(self, context: Context, finder: Finder) -> Context:
        """Moves the neighbours to those of the other database; `finder` has the moved queries."""
        if not self.database:
            return context
        other = finder.tokens(finder.queries, finder.retrieve(finder.queries, self.database))
        tokens = slerp(context.given.tokens, other, self.share)
        return dataclasses.replace(context, given=dataclasses.replace(context.given, tokens=tokens))


@dataclasses.dataclass(frozen=True)
class Add(Other):
    """Adds the direction of a prompt or a picture to the queries, times a weight that may be negative."""

    weight: float = 0.5
    source: ClassVar[str] = "arXiv 2204.06125, section 3.3 (text differences), as a sum"

    def query(self, finder: Finder) -> Float[np.ndarray, "q d"]:
        """Returns the sum, as long as the run's own queries."""
        if not self.prompt and not self.image:
            raise UserError("add lacks what to add; give it prompt='...' or image='FILE'")
        lengths = np.linalg.norm(finder.queries, axis=-1, keepdims=True)
        total = unit(finder.queries) + self.weight * unit(self.query_vectors(finder))
        return unit(total) * lengths


def slerp(
    one: Float[np.ndarray, "... d"], other: Float[np.ndarray, "... d"], part: float
) -> Float[np.ndarray, "... d"]:
    """Returns what lies a part of the way from one vector to the other: on the great circle, lengths interpolated.

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
