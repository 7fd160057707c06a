"""What CLIP alone draws: a latent that is led from noise to a text through the decoder, with no diffusion model."""

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
CUTOUTS = 4  # an optimum of the whole picture alone is noise to the eye
DECAY = 0.02  # of latents towards 0, their mean


def ascend(
    generator: Generator, text: str, count: int, steps: int, seed: int, chunk: int = 5
) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns pictures whose latents Adam has led to a text in CLIP's eyes, from noise of their own.

    Args:
      generator: its CLIP and its decoder are used, its U-Net is not.
      text: what they are led to.
      count: how many pictures.
      steps: of Adam.
      seed: of the noise, which is that of a run with this seed.
      chunk: how many steps are compiled into one program.
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
    """Returns what takes latents `chunk` steps on, and what decodes them; compiled once for a generator."""
    bundle = generator.bundle
    decode = factory.decoder_from(bundle.autoencoder, bundle.config["latents"])
    look = factory.image_encoder_from(bundle.clip, bundle.config["clip"])
    size = int(bundle.clip.vision.image_size)

    def distance(x: Float[Array, "b h w c"], params: Any, target: Array, keys: Array) -> Array:
        """Returns the sum of the distances of all cutouts to the target, and how far latents are from their mean."""
        squares = jax.vmap(lambda key, one: cut(key, one, size, CUTOUTS))(keys, decode(params["autoencoder"], x))
        vectors = look(params["clip"], squares.reshape(-1, size, size, 3))
        return jnp.sum(spherical_distance(vectors, target)) / CUTOUTS + DECAY * jnp.sum(jnp.mean(x**2, axis=(1, 2, 3)))

    def advance(params: Any, x: Array, state: Any, target: Array, keys: Array) -> tuple[Array, Any]:
        """Returns latents and Adam's state after some steps."""

        def step(carry: tuple[Array, Any], number: Array) -> tuple[tuple[Array, Any], None]:
            """Returns both after one step."""
            now, adam = carry
            drawn = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            updates: Any
            updates, adam = optax.adam(RATE).update(jax.grad(distance)(now, params, target, drawn), adam)
            return (now + updates, adam), None

        return jax.lax.scan(step, (x, state), jnp.arange(chunk))[0]

    return jax.jit(advance), jax.jit(lambda params, x: decode(params["autoencoder"], x))
