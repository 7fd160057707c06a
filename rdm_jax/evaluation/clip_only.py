"""Images from CLIP alone: latents that are optimized from noise towards a text, without a diffusion model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from rdm_jax import factory
from rdm_jax.core.images import to_uint8
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.generator import Generator
from rdm_jax.guidance.clip import cut, spherical_distance

RATE = 0.1
CUTOUTS = 4  # without cutouts the optimum looks like noise
DECAY = 0.02  # of latents towards 0, their mean


def ascend(
    generator: Generator, text: str, count: int, steps: int, seed: int, chunk: int = 5
) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns images whose latents Adam optimizes for the CLIP similarity to a text, each from its own noise.

    Args:
      generator: its CLIP and its decoder are used, its denoiser is not.
      text: the target.
      count: of images.
      steps: of Adam.
      seed: of the noise, equal to that of sampling with this seed.
      chunk: steps in one compiled program.
    """
    bundle = generator.bundle
    sampling = bundle.config["sampling"]
    shape = factory.latent_shape(bundle.denoiser, bundle.autoencoder, sampling["height"], sampling["width"])
    keys = image_keys(seed, jnp.arange(count))
    x = normal(keys, shape)
    target = jnp.asarray(generator.encoder.encode_texts([text]))
    state = optax.adam(RATE).init(x)
    advance, decode = _programs(generator, chunk)
    params = {part: bundle.params[part] for part in ("clip", "autoencoder")}
    for first in range(0, max(1, steps // chunk)):
        x, state = advance(params, x, state, target, jax.vmap(jax.random.fold_in, (0, None))(keys, first))
    return to_uint8(np.asarray(decode(params, x)))


@functools.lru_cache(maxsize=1)
def _programs(generator: Generator, chunk: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the programs that advance latents by `chunk` steps and decode them; compiled once for a generator."""
    bundle = generator.bundle
    decode = factory.decoder_from(bundle.autoencoder, bundle.config["latents"])
    encode = factory.image_encoder_from(bundle.clip, bundle.config["clip"])
    size = int(bundle.clip.vision.image_size)

    def distance(x: Float[Array, "b h w c"], params: Any, target: Array, keys: Array) -> Array:
        """Returns the sum of all cutouts' distances to the target, and a penalty that keeps latents near their mean."""
        squares = jax.vmap(lambda key, image: cut(key, image, size, CUTOUTS))(keys, decode(params["autoencoder"], x))
        vectors = encode(params["clip"], squares.reshape(-1, size, size, 3))
        return jnp.sum(spherical_distance(vectors, target)) / CUTOUTS + DECAY * jnp.sum(jnp.mean(x**2, axis=(1, 2, 3)))

    def advance(params: Any, x: Array, state: Any, target: Array, keys: Array) -> tuple[Array, Any]:
        """Returns latents and Adam's state after some steps."""

        def step(carry: tuple[Array, Any], number: Array) -> tuple[tuple[Array, Any], None]:
            """Returns both after one step."""
            latents, adam = carry
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            updates: Any
            updates, adam = optax.adam(RATE).update(jax.grad(distance)(latents, params, target, step_keys), adam)
            return (latents + updates, adam), None

        return jax.lax.scan(step, (x, state), jnp.arange(chunk))[0]

    return jax.jit(advance), jax.jit(lambda params, x: decode(params["autoencoder"], x))
