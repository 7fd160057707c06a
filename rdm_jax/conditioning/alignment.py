"""Conditions of one shape: the network evaluates the given condition, the null condition and others in one batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rdm_jax.conditioning.adapter import NeighborTokens
from rdm_jax.conditioning.base import Context, ScheduledCondition
from rdm_jax.models.condition import ImageTokens


def align(context: Context) -> Context:
    """Returns the context with conditions of one shape, which the network can evaluate in one batch.

    Conditions of fewer tokens are padded with tokens of weight 0; where one has weights, a target, paint or channels,
    all have.
    """
    conditions = [context.null, context.given, *context.also]
    places = max(one.tokens.shape[1] for one in conditions)
    spatial = next(
        (one.weights.shape[1:3] for one in conditions if one.weights is not None and one.weights.ndim == 4), ()
    )
    weighted = any(one.weights is not None or one.tokens.shape[1] != places for one in conditions)
    scheduled = any(one.target is not None for one in conditions)
    painted = next((one.paint.shape[1:3] for one in conditions if one.paint is not None), ())
    channels = next((one.channels for one in conditions if one.channels is not None), None)

    def fit(one: ScheduledCondition) -> ScheduledCondition:
        """Returns one condition in the common shape."""
        tokens, weights = one.tokens, one.weights
        missing = places - tokens.shape[1]
        target = tokens if one.target is None else one.target
        if weighted:
            weights = np.ones(tokens.shape[:2], np.float32) if weights is None else weights
            weights = weights[:, None, None] if spatial and weights.ndim == 2 else weights
            weights = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
            weights = np.broadcast_to(weights, (len(tokens), *spatial, places))
        tokens, target = (np.pad(each, [(0, 0), (0, missing), (0, 0)]) for each in (tokens, target))
        paint = one.paint
        if painted:  # tokens that were added behind the painted ones are nowhere
            paint = np.zeros((len(tokens), *painted, 0), np.float32) if paint is None else paint
            paint = np.pad(paint, [(0, 0)] * 3 + [(0, places - paint.shape[-1])])
        beside = np.zeros_like(channels) if channels is not None and one.channels is None else one.channels
        fitted = dataclasses.replace(one, tokens=tokens, weights=weights, paint=paint, channels=beside)
        return dataclasses.replace(fitted, target=target if scheduled else None)

    null, given, *also = map(fit, conditions)
    return Context(given, null, tuple(also))


def align_images(context: Context, adapter: NeighborTokens | None) -> Context:
    """Returns the context with images of one shape; a condition without images has the tokens of no image.

    Both conditions of classifier-free guidance keep the adapter, as in the original program. Where one has weights,
    scales of pixels or a target, all have.

    Args:
      context: of a run.
      adapter: of the model; None without, and then there are no images.
    """
    conditions = [context.null, context.given, *context.also]
    like = max(
        (one.images for one in conditions if one.images is not None), key=lambda one: one.tokens.shape[1], default=None
    )
    if adapter is None or like is None:
        return context
    given = [adapter.null(like) if one.images is None else one.images for one in conditions]
    spatial = next((one.scales.shape[1:3] for one in given if one.scales.ndim == 4), ())
    weighted = any(one.weights is not None for one in given)
    scheduled = any(one.image_target is not None for one in conditions)

    def fit(one: ScheduledCondition, images: ImageTokens) -> ScheduledCondition:
        """Returns one condition in the common shape; further groups have no image, and scale 0."""
        missing = like.tokens.shape[1] - images.tokens.shape[1]
        scales = images.scales[:, None, None] if spatial and images.scales.ndim == 2 else images.scales
        scales = np.broadcast_to(scales, (len(scales), *spatial, scales.shape[-1]))
        scales = np.pad(scales, [(0, 0)] * (scales.ndim - 1) + [(0, missing)])
        padding = [(0, 0), (0, missing), (0, 0)]
        tokens = np.pad(images.tokens, [*padding, (0, 0)])
        weights = np.ones(images.tokens.shape[:3], np.float32) if images.weights is None else images.weights
        weights = np.pad(weights, padding, constant_values=1.0) if weighted else None
        target: Any = None
        if scheduled:
            target = tokens if one.image_target is None else np.pad(one.image_target, [*padding, (0, 0)])
        return dataclasses.replace(one, images=ImageTokens(tokens, scales, weights, images.blocks), image_target=target)

    null, own, *also = map(fit, conditions, given)
    return Context(own, null, tuple(also))
