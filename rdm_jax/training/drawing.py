"""Pictures drawn by a model in training, from context tokens that are at hand."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle
from rdm_jax.core.images import to_uint8
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion import samplers
from rdm_jax.diffusion.denoiser import make_denoiser
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.parts import build

SETTINGS = ("denoiser", "autoencoder", "latents", "diffusion", "sampling")


def draw(bundle: Bundle, context: Float[np.ndarray, "b n d"], seed: int) -> UInt8[np.ndarray, "b h w 3"]:
    """Returns a picture for each row of context tokens, by the bundle's own sampler, steps and guidance.

    Args:
      bundle: a whole model.
      context: [b, n, d] tokens.
      seed: of the noise; picture i's is the same at every call.
    """
    run = _program(json.dumps({name: bundle.config[name] for name in SETTINGS}))
    keys = image_keys(seed, jnp.arange(len(context), dtype=jnp.int32))
    params = {part: jax.device_put(bundle.params[part]) for part in ("denoiser", "autoencoder")}
    null = factory.null_token(bundle.config)
    token = np.zeros(context.shape[-1], np.float32) if null is None else null
    return to_uint8(np.asarray(run(params, token, jnp.asarray(context), keys)))


@functools.lru_cache(maxsize=4)
def _program(settings: str) -> Callable[..., Float[Array, "b h w 3"]]:
    """Returns the compiled run of every model that has these settings: figures are drawn many times in a training."""
    config = json.loads(settings)
    module, autoencoder, sampling = build(config, "denoiser"), build(config, "autoencoder"), config["sampling"]
    sampler = factory.sampler_from(sampling["sampler"], sampling["eta"])
    steps = sampler.plan(factory.schedule_from(config["diffusion"]), sampling["steps"])
    shape = factory.latent_shape(module, autoencoder, sampling["height"], sampling["width"])
    decode = factory.decoder_from(autoencoder, config["latents"])
    prediction, scale = config["diffusion"]["prediction"], float(sampling["guidance_scale"])

    @jax.jit
    def run(params: dict[str, Any], null: Array, tokens: Array, keys: Array) -> Array:
        """Returns pictures in about [-1, 1]."""
        given = Condition(tokens)

        def network(x: Array, t: Array, condition: Condition) -> Array:
            """Returns the denoiser's output."""
            return module.apply({"params": params["denoiser"]}, x, t, condition)

        nothing = Condition(jnp.broadcast_to(null, tokens[:1].shape))
        guided = classifier_free_denoiser(network, given, nothing, jnp.float32(scale), prediction)
        denoiser = make_denoiser(network, given, prediction) if scale == 1.0 else guided
        infos = samplers.with_keys(steps, keys)
        return decode(params["autoencoder"], samplers.sample(sampler, infos, normal(keys, shape), denoiser))

    return run
