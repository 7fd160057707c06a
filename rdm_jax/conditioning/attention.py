"""How much each token counts in attention: everywhere, or in a painted region."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from rdm_jax.conditioning.base import Condition, Context, Finder, Kind, Other, weights_of
from rdm_jax.core.checks import required
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Weights(Kind):
    """Turns the query and the neighbours up or down in every attention: 0 leaves one out, 2 counts it twice."""

    of_query: float = 1.0
    of_neighbors: float | list[float] = 1.0
    source: ClassVar[str] = "arXiv 2212.02936 (M-VADER)"

    def change(self, context: Context, finder: Finder) -> Context:
        """Weighs the tokens of what is asked for."""
        given, count = context.given, finder.query_tokens
        neighbors = np.atleast_1d(np.asarray(self.of_neighbors, np.float32))
        there = given.tokens.shape[1] - count
        if len(neighbors) not in (1, there):
            raise UserError(f"weights of {len(neighbors)} neighbors, and there are {there}; give one, or {there}")
        told = np.concatenate([np.full(count, self.of_query, np.float32), np.resize(neighbors, there)])
        if not (told >= 0).all() or not told.any() or not np.isfinite(told).all():
            raise UserError(f"weights {told.tolist()} are out of range; give 0 or more, and not 0 for all")
        return dataclasses.replace(
            context, given=dataclasses.replace(given, weights=np.tile(told, (len(given.tokens), 1)))
        )


@dataclasses.dataclass(frozen=True)
class Region(Other):
    """Shows another prompt's or database's tokens where a mask is white, and the run's own where it is black."""

    mask: str = ""
    weight: float = 1.0
    source: ClassVar[str] = "arXiv 2211.01324, section 4.3 (paint with words), for retrieved tokens too"

    def change(self, context: Context, finder: Finder) -> Context:
        """Adds the region's tokens, and says where they and the others act."""
        mask = finder.mask(required("mask", self.mask, "a mask's file"))[None, :, :, None]
        tokens, given = self.tokens(finder), context.given
        own = weights_of(given, finder.latent) * (1.0 - mask)
        theirs = np.broadcast_to(self.weight * mask, (len(tokens), *finder.latent, tokens.shape[1]))
        both = np.concatenate([given.tokens, tokens], axis=1)
        later = None if given.later is None else np.concatenate([given.later, tokens], axis=1)
        weights = np.concatenate([own, theirs], axis=-1).astype(np.float32)
        return dataclasses.replace(context, given=Condition(both, weights, later))
