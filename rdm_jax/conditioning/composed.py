"""Conditions that classifier-free guidance leads to, or away from."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from rdm_jax.conditioning.base import Condition, Context, Course, Finder, Kind, Other
from rdm_jax.core.checks import share
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Also(Other):
    """Leads to a further condition as well, by a scale of its own: eps + scale (eps_also - eps_null)."""

    scale: float = 2.0
    source: ClassVar[str] = "arXiv 2206.01714, eq. 11 (composed conditions)"

    def change(self, context: Context, finder: Finder) -> Context:
        """Adds the condition."""
        return dataclasses.replace(context, also=(*context.also, Condition(self.tokens(finder))))

    def schedule(self, course: Course) -> Course:
        """Adds its scale."""
        return dataclasses.replace(course, also=(*course.also, self.scale))


@dataclasses.dataclass(frozen=True)
class Negative(Other):
    """Leads away from a prompt, a picture or a database in place of no condition."""

    source: ClassVar[str] = "arXiv 2207.12598, with another condition for none"

    def change(self, context: Context, finder: Finder) -> Context:
        """Puts the condition in the null condition's place."""
        return dataclasses.replace(context, null=Condition(self.tokens(finder)))


@dataclasses.dataclass(frozen=True)
class Interleave(Kind):
    """Leads some steps away from the neighbours alone, which makes them follow the query, and the others away from
    the query alone."""

    query_scale: float = 3.0
    neighbor_scale: float = 3.0
    query_share: float = 0.5
    source: ClassVar[str] = "arXiv 2209.14491, section 3.2 (Re-Imagen)"

    def change(self, context: Context, finder: Finder) -> Context:
        """Makes the null condition one of the two, step by step."""
        count, tokens = finder.query_tokens, context.given.tokens
        if not 0 < count < tokens.shape[1]:
            raise UserError("interleave needs a query and neighbors; draw with --condition text+neighbors")
        neighbors, query = np.array(tokens), np.array(tokens)
        neighbors[:, :count], query[:, count:] = finder.null, finder.null
        return dataclasses.replace(context, null=Condition(neighbors, later=query))

    def schedule(self, course: Course) -> Course:
        """Says which steps are which, and by what they are led."""
        by_query = spread_evenly(course.steps, share("query_share", self.query_share))
        scale = np.where(by_query, self.query_scale, self.neighbor_scale).astype(np.float32)
        return dataclasses.replace(course, null_share=by_query.astype(np.float32), guidance=scale)


def spread_evenly(steps: int, part: float) -> Any:
    """Returns which of the steps are of a kind that takes a part of them, as evenly as can be, [steps] of bool."""
    numbers = np.arange(steps)
    # A little more than the product, which may fall short of a whole number by its rounding.
    return np.floor((numbers + 1) * part + 1e-9) > np.floor(numbers * part + 1e-9)
