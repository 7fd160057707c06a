"""How much each token counts in attention: everywhere, or in a region, or more where it is painted."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

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
from rdm_jax.models.condition import ImageTokens


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
        beside = 0 if given.images is None else given.images.tokens.shape[2]  # of an adapter
        count = (given.tokens.shape[1] - queries + beside) // builder.tokens_per_neighbor
        if len(neighbors) not in (1, count):
            raise UserError(f"weights of {len(neighbors)} neighbors, and there are {count}; give one, or {count}")
        of_each = np.repeat(np.resize(neighbors, count), builder.tokens_per_neighbor)
        weights = np.concatenate([np.full(queries, self.of_query, np.float32), of_each])
        if not (weights >= 0).all() or not weights.any() or not np.isfinite(weights).all():
            raise UserError(f"weights {weights.tolist()} are out of range; give 0 or more, and not 0 for all")
        repeated = np.tile(weights, (len(given.tokens), 1))
        if builder.text is not None and builder.text.weights is not None:  # tokens that a shorter prompt does not have
            repeated[:, :queries] *= builder.text.weights
        changed = dataclasses.replace(given, weights=repeated[:, : given.tokens.shape[1]])
        if given.images is not None:
            images = dataclasses.replace(given.images, weights=repeated[:, None, queries:])
            changed = dataclasses.replace(changed, images=images)
        return dataclasses.replace(context, given=changed)


@dataclasses.dataclass(frozen=True)
class Region(OtherCondition):
    """Conditions on another prompt or database where a mask is white, and on the run's own where it is black."""

    mask: File = ""
    weight: float = 1.0
    source: ClassVar[str] = "arXiv 2211.01324, section 4.3 (paint with words), as weights of the softmax"
    requires: ClassVar[tuple[str, ...]] = ("token_weights", "spatial_weights")

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Adds the region's tokens, with weights that say where each token acts."""
        mask = builder.mask(required("mask", self.mask, "a mask's file"))[None, :, :, None]
        other, given = self.build(builder), context.given
        tokens = other.tokens
        own = spatial_weights(given, builder.latent) * (1.0 - mask)
        region = spatial_weights(other, builder.latent) * self.weight * mask
        target = None if given.target is None else np.concatenate([given.target, tokens], axis=1)
        weights = np.concatenate([own, region], axis=-1).astype(np.float32)
        joined = np.concatenate([given.tokens, tokens], axis=1)
        images = _images_by_region(given.images, other.images, mask, self.weight)
        both = dataclasses.replace(given, tokens=joined, weights=weights, target=target, images=images)
        return dataclasses.replace(context, given=both)


@dataclasses.dataclass(frozen=True)
class Paint(OtherCondition):
    """Paints another prompt or database on the white pixels of a mask: its tokens count everywhere, and more there,
    by weight log(1 + sigma) of the attention's largest logit, which falls with the noise."""

    mask: File = ""
    weight: float = 0.5
    source: ClassVar[str] = "arXiv 2211.01324, section 4.3 (paint with words), for retrieved tokens too"
    requires: ClassVar[tuple[str, ...]] = ("token_weights", "paint")

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Adds the tokens, and where they are painted."""
        if not 0 <= self.weight < np.inf:
            raise UserError(f"weight {self.weight:g} of paint is out of range; give 0 or more, as 0.1 to 1")
        mask = builder.mask(required("mask", self.mask, "a mask's file"))[None, :, :, None]
        tokens, given = self.build(builder).tokens, context.given
        count = given.tokens.shape[1]
        before = np.zeros((len(tokens), *builder.latent, 0), np.float32) if given.paint is None else given.paint
        before = np.pad(before, [(0, 0)] * 3 + [(0, count - before.shape[-1])])
        painted = np.broadcast_to(self.weight * mask, (len(tokens), *builder.latent, tokens.shape[1]))
        paint = np.concatenate([before, painted], axis=-1).astype(np.float32)
        weights = given.weights
        if weights is not None:
            padding = [(0, 0)] * (weights.ndim - 1) + [(0, tokens.shape[1])]
            weights = np.pad(weights, padding, constant_values=1.0)
        target = None if given.target is None else np.concatenate([given.target, tokens], axis=1)
        joined = np.concatenate([given.tokens, tokens], axis=1)
        both = dataclasses.replace(given, tokens=joined, weights=weights, target=target, paint=paint)
        return dataclasses.replace(context, given=both)


def _images_by_region(
    own: ImageTokens | None, other: ImageTokens | None, mask: Float[np.ndarray, "1 h w 1"], weight: float
) -> ImageTokens | None:
    """Returns the images of a run outside a mask, and others inside it, as further groups with scales of pixels."""
    if own is None or other is None:
        return own
    outside, inside = (one.scales if one.scales.ndim == 4 else one.scales[:, None, None] for one in (own, other))
    scales = np.concatenate([outside * (1.0 - mask), inside * mask * weight], axis=-1).astype(np.float32)
    weights = None
    if own.weights is not None:
        weights = np.concatenate([own.weights, np.ones(other.tokens.shape[:3], np.float32)], axis=1)
    return ImageTokens(np.concatenate([own.tokens, other.tokens], axis=1), scales, weights, own.blocks)
