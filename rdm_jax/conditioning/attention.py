"""How much each token counts in attention: everywhere, or in a painted region."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from rdm_jax.conditioning.base import (
    ConditionBuilder,
    Conditioner,
    Context,
    OtherCondition,
    spatial_weights,
)
from rdm_jax.core.calls import File
from rdm_jax.core.checks import required
from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Weights(Conditioner):
    """Weighs the query and the neighbors in every attention: 0 leaves one out, 2 counts it twice."""

    of_query: float = 1.0
    of_neighbors: float | list[float] = 1.0
    source: ClassVar[str] = "arXiv 2212.02936 (M-VADER)"
    requires: ClassVar[tuple[str, ...]] = ("token_weights",)

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Weights the tokens of the given condition."""
        given, queries = context.given, builder.query_tokens
        neighbors = np.atleast_1d(np.asarray(self.of_neighbors, np.float32))
        count = (given.tokens.shape[1] - queries) // builder.tokens_per_neighbor
        if len(neighbors) not in (1, count):
            raise UserError(f"weights of {len(neighbors)} neighbors, and there are {count}; give one, or {count}")
        of_each = np.repeat(np.resize(neighbors, count), builder.tokens_per_neighbor)
        weights = np.concatenate([np.full(queries, self.of_query, np.float32), of_each])
        if not (weights >= 0).all() or not weights.any() or not np.isfinite(weights).all():
            raise UserError(f"weights {weights.tolist()} are out of range; give 0 or more, and not 0 for all")
        return dataclasses.replace(
            context, given=dataclasses.replace(given, weights=np.tile(weights, (len(given.tokens), 1)))
        )


@dataclasses.dataclass(frozen=True)
class Region(OtherCondition):
    """Conditions on another prompt or database where a mask is white, and on the run's own where it is black."""

    mask: File = ""
    weight: float = 1.0
    source: ClassVar[str] = "arXiv 2211.01324, section 4.3 (paint with words), for retrieved tokens too"
    requires: ClassVar[tuple[str, ...]] = ("token_weights", "spatial_weights")

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Adds the region's tokens, with weights that say where each token acts."""
        mask = builder.mask(required("mask", self.mask, "a mask's file"))[None, :, :, None]
        tokens, given = self.build(builder).tokens, context.given
        own = spatial_weights(given, builder.latent) * (1.0 - mask)
        region = np.broadcast_to(self.weight * mask, (len(tokens), *builder.latent, tokens.shape[1]))
        target = None if given.target is None else np.concatenate([given.target, tokens], axis=1)
        weights = np.concatenate([own, region], axis=-1).astype(np.float32)
        joined = np.concatenate([given.tokens, tokens], axis=1)
        both = dataclasses.replace(given, tokens=joined, weights=weights, target=target)
        return dataclasses.replace(context, given=both)
