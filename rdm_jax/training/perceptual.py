"""Distances between the features of images, which keep texture that pixel-wise errors lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.models.clip import Block, ViT
from rdm_jax.training.config import Config


@dataclasses.dataclass(frozen=True)
class Perceptual:
    """A distance and its network.

    Attributes:
      params: of the network, on the host.
      distance: (params, images, images) to [b], both [b, h, w, 3] in [-1, 1]; 0 for equal ones.
    """

    params: Any
    distance: Callable[[Any, Array, Array], Float[Array, " b"]]


def open_perceptual(config: Config, size: int) -> Perceptual:
    """Returns the distance of a loss.

    Args:
      config: `kind`, a name in `KINDS`, and `bundle`, where its weights are.
      size: of the compared images.

    Raises:
      UserError: there is no such kind, or the bundle lacks its weights or takes images of another size.
    """
    if config.kind not in KINDS:
        raise unknown("perceptual distance", config.kind, KINDS)
    return KINDS[config.kind](config.bundle, size)


def _lpips(place: str, size: int) -> Perceptual:
    if not place:
        raise UserError(
            "the loss is LPIPS, whose weights cannot be shipped: convert them by `rdm convert vgg.pth --vgg vgg16.pth "
            "--out runs/lpips` and give --config.loss.perceptual.bundle=runs/lpips, or take the features of a CLIP by "
            "--config.loss.perceptual.kind=clip --config.loss.perceptual.bundle=BUNDLE"
        )
    bundle = Bundle.open(place)
    bundle.require("lpips")
    module: Any = bundle.lpips
    return Perceptual(bundle.params["lpips"], lambda params, x, y: module.apply({"params": params}, x, y))


def _clip(place: str, size: int) -> Perceptual:
    if not place:
        raise UserError("the loss is a distance of CLIP's features; give --config.loss.perceptual.bundle=BUNDLE")
    bundle = Bundle.open(place)
    features = clip_features(bundle)
    if bundle.clip.vision.image_size != size:
        raise UserError(f"crop={size}: the CLIP of {place} takes {bundle.clip.vision.image_size} pixels")

    def distance(params: Any, x: Array, y: Array) -> Float[Array, " b"]:
        """Returns the mean over blocks and tokens of squared distances between unit tokens: 2 - 2 cosines."""
        apart = jnp.sum(jnp.square(features(params, x) - features(params, y)), axis=-1)
        return jnp.mean(apart, axis=(1, 2))

    return Perceptual(bundle.params["clip"], distance)


def clip_features(bundle: Bundle) -> Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b l n c"]]:
    """Returns the function from parameters and images in [-1, 1] to the tokens after each block of the bundle's ViT.

    They are of unit length, [b, blocks, tokens, width].

    Raises:
      UserError: the bundle holds no CLIP, or its image tower is a ResNet.
    """
    bundle.require("clip")
    module, config = bundle.clip, bundle.config["clip"]
    if not isinstance(module.vision, ViT):
        raise UserError(f"model {bundle.name!r}: its CLIP is a ResNet; features are those of a ViT")
    mean, std = (jnp.asarray(config[name], jnp.float32)[None, None, None] for name in ("mean", "std"))

    def features(params: Any, image: Float[Array, "b h w 3"]) -> Float[Array, "b l n c"]:
        """Maps images [b, h, w, 3] in [-1, 1] to unit tokens [b, blocks, tokens, width]."""
        _, state = module.apply(
            {"params": params},
            ((image + 1.0) / 2.0 - mean) / std,
            method="encode_image",
            capture_intermediates=lambda part, method: isinstance(part, Block) and method == "__call__",
            mutable=["intermediates"],
        )
        tokens = jnp.stack(jax.tree.leaves(state["intermediates"]), axis=1)
        return tokens / jnp.linalg.norm(tokens, axis=-1, keepdims=True)

    return features


KINDS: dict[str, Callable[[str, int], Perceptual]] = {"lpips": _lpips, "clip": _clip}
"""By name: learned perceptual similarity (https://arxiv.org/abs/1801.03924), or features of a bundle's own CLIP."""
