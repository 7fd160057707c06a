"""CLIP guidance on the denoised estimate: Huang et al. 2022, MGAD (https://arxiv.org/abs/2209.13360).

The predicted x0 is decoded, cut into random squares, and compared with texts and images by the spherical distance;
total variation keeps it smooth. CLIP need not be trained on noisy images, but the gradient goes through the decoder and
the denoiser.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rdm_jax.core.calls import File
from rdm_jax.core.checks import at_least_one
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import read_image
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.factory import image_encoder_from
from rdm_jax.guidance.base import GuidanceMethod, GuideContext, GuideEffects, Networks, weights_per_image
from rdm_jax.guidance.gradient import Objective

FOLD = 0x36A  # folded into a step's keys; each file that samples noise in a step has its own number
SMALLEST = 0.3  # side of the smallest square, relative to the image's shorter side


def clip_distance(
    decode: Callable[[Float[Array, "b h w c"]], Float[Array, "b h2 w2 3"]],
    encode: Callable[[Float[Array, "n s s 3"]], Float[Array, "n d"]],
    targets: Float[Array, "b k d"],
    target_weights: Float[Array, "b k"],
    weight: Any,
    *,
    size: int,
    cutouts: int = 16,
    smoothness: Any = 0.0,
) -> Objective:
    """Returns the objective: minus the mean distance of cutouts to the targets, minus the total variation.

    Args:
      decode: latents to images in about [-1, 1].
      encode: images of `size`, in [-1, 1], to vectors.
      targets: [b, k, d] vectors of texts or images.
      target_weights: [b, k] of any sign, not normalized.
      weight: of the distance, 5000 in the paper.
      size: of the images that `encode` takes.
      cutouts: the number of squares of each image.
      smoothness: weight of the total variation, 400 in the paper.
    """

    def measure(x0: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, " b"]:
        """Returns the negative distance of each image's cutouts to its targets, minus its total variation."""
        if info.keys is None:
            raise ValueError("cutouts are sampled in each step: give the plan its keys, `with_keys(steps, keys)`")
        images = decode(x0)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, FOLD))(info.keys)
        squares = jax.vmap(lambda key, image: cut(key, image, size, cutouts))(keys, images)
        vectors = encode(squares.reshape(-1, size, size, 3)).reshape(len(x0), cutouts, 1, -1)
        distances = spherical_distance(vectors, targets[:, None])
        total = -weight * jnp.mean(jnp.sum(target_weights[:, None] * distances, axis=-1), axis=-1)
        return total - smoothness * total_variation(images)

    return Objective(measure, 1.0, of_x0=True)


def cut(key: Key[Array, ""], image: Float[Array, "h w 3"], size: int, count: int) -> Float[Array, "count size size 3"]:
    """Returns random squares of an image, resized; their sides are distributed as the square root of uniform numbers.

    Args:
      key: of the squares' sizes and places.
      image: from which they are cut.
      size: of the resized squares in pixels.
      count: the number of squares.
    """
    height, width, _ = image.shape
    side_key, top_key, left_key = jax.random.split(key, 3)
    shortest = min(height, width)
    sides = shortest * (SMALLEST + (1.0 - SMALLEST) * jnp.sqrt(jax.random.uniform(side_key, (count,))))
    tops = jax.random.uniform(top_key, (count,)) * (height - sides)
    lefts = jax.random.uniform(left_key, (count,)) * (width - sides)

    def one(side: Array, top: Array, left: Array) -> Array:
        """Returns one square, resized."""
        scale = jnp.stack([size / side] * 2)
        moved = -jnp.stack([top, left]) * scale
        return jax.image.scale_and_translate(image, (size, size, 3), (0, 1), scale, moved, "linear", antialias=True)

    return jax.vmap(one)(sides, tops, lefts)


def spherical_distance(one: Float[Array, "... d"], other: Float[Array, "... d"]) -> Float[Array, "..."]:
    """Returns half the squared angle between vectors: `2 asin^2(|a - b| / 2)` of their directions."""
    a, b = (v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12) for v in (one, other))
    # The root's slope is infinite at equal directions.
    chord = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(a - b), axis=-1), 1e-12))
    return 2.0 * jnp.square(jnp.arcsin(jnp.minimum(chord / 2.0, 1.0 - 1e-6)))


def total_variation(images: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
    """Returns the mean squared difference of neighboring pixels of each image."""
    down, right = jnp.diff(images, axis=1), jnp.diff(images, axis=2)
    return jnp.mean(jnp.square(down), axis=(1, 2, 3)) + jnp.mean(jnp.square(right), axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class CLIPGuidance(GuidanceMethod):
    """Guides the denoised estimate towards a text, an image, or both, by the model's own CLIP on random cutouts."""

    text: str = ""
    image: File = ""
    weight: float | list[float] = 100.0
    cutouts: int = 8
    smoothness: float = 0.0
    source: ClassVar[str] = "arXiv 2209.13360 (MGAD)"
    needs: ClassVar[Mapping[str, str]] = {"clip": "", "autoencoder": ""}

    @property
    def static(self) -> tuple[Any, ...]:
        """The number of cutouts."""
        return (self.cutouts,)

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the targets' vectors and the weights."""
        if not self.text and not self.image:
            raise UserError("guide clip has no target; give it text='...' or image='FILE'")
        at_least_one("cutouts", self.cutouts)
        targets = [context.text_vector(self.text)] if self.text else []
        targets += [context.encoder.encode_images([read_image(self.image)])] if self.image else []
        equal = np.full((1, len(targets)), 1.0 / len(targets), np.float32)
        weights = {"weight": weights_per_image(self.weight), "smoothness": np.float32(self.smoothness)}
        return {"targets": np.stack(targets, axis=1), "target_weights": equal, **weights}

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the objective."""
        bundle = networks.bundle
        encode = image_encoder_from(bundle.clip, bundle.config["clip"])
        objective = clip_distance(
            networks.decode,
            functools.partial(encode, networks.params["clip"]),
            inputs["targets"],
            inputs["target_weights"],
            inputs["weight"],
            size=int(bundle.clip.vision.image_size),
            cutouts=self.cutouts,
            smoothness=inputs["smoothness"],
        )
        return GuideEffects(objectives=(objective,))
