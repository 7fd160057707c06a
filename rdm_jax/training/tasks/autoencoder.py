"""The first stage: a KL autoencoder, trained on absolute, squared and edge errors and a light pull to the prior.

Latent diffusion (https://arxiv.org/abs/2112.10752, appendix G) adds a feature distance and a discriminator; pictures
of flat colour and clear lines do without them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.images import to_float
from rdm_jax.data.pictures import Pictures
from rdm_jax.models import build_autoencoder
from rdm_jax.models.autoencoder import kl_divergence, sample_moments, split_moments
from rdm_jax.training.config import Config
from rdm_jax.training.tasks.base import Progress, training_and_held_out

EVAL_PICTURES = 512
EVAL_BATCH = 64


@dataclasses.dataclass(frozen=True)
class AutoencoderTask:
    """Trains encoder and decoder, or the decoder alone where the optimizer's `frozen` holds the encoder."""

    config: Config
    pictures: Pictures
    held_out: Pictures
    module: Any
    settings: dict[str, Any]

    @property
    def size(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns a random crop [crop, crop, 3] uint8 of the picture, half of the time mirrored."""
        crop = self.config.crop
        top, left = generator.integers(0, self.config.data.size - crop + 1, 2)
        image = np.asarray(self.pictures.images[row, top : top + crop, left : left + crop])
        return {"image": np.ascontiguousarray(image[:, ::-1]) if generator.random() < 0.5 else image}

    def init(self, key: Key[Array, ""]) -> Any:
        """Returns fresh parameters."""
        side = self.config.data.size
        return {"autoencoder": self.module.init(key, jnp.zeros((1, side, side, 3)))["params"]}

    def loss(
        self, params: Any, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the error of the reconstruction, the KL divergence and the error at half the scale, weighted.

        At half the scale, averaged latents are to decode to the averaged picture. That keeps coarse content out of the
        latents' fine frequencies, and diffusion models learn such latents sooner (https://arxiv.org/abs/2502.09509).
        """
        config, variables = self.config.loss, {"params": params["autoencoder"]}
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        moments = self.module.apply(variables, image, method="encode")
        posterior_key, noise_key = jax.random.split(key)
        z = sample_moments(moments, jax.random.normal(posterior_key, split_moments(moments)[0].shape))
        # The diffusion model's latents are a little off: the decoder learns to bear it.
        noisy = z + config.latent_noise * jax.lax.stop_gradient(jnp.std(z)) * jax.random.normal(noise_key, z.shape)
        decode = functools.partial(self.module.apply, variables, method="decode")
        error, parts = reconstruction_error(decode(noisy), image, config)
        kl = jnp.mean(kl_divergence(moments)) / z[0].size
        loss = error + config.kl_weight * kl
        metrics = {**parts, "kl": kl, "latent_std": jnp.std(z)}
        if not config.half_scale_weight:
            return loss, metrics
        half, _ = reconstruction_error(decode(halved(z)), halved(image), config)
        return loss + config.half_scale_weight * half, {**metrics, "half_scale": half}

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the mean PSNR over held-out pictures, and that of each style where they have one."""
        apply = jax.jit(lambda p, x: self.module.apply({"params": p}, x))
        size = min(EVAL_BATCH, len(self.held_out))
        count = min(EVAL_PICTURES, len(self.held_out)) // size * size
        values = []
        for start in range(0, count, size):
            image = jnp.asarray(to_float(self.held_out.images[start : start + size]))
            error = jnp.clip(apply(params["autoencoder"], image), -1.0, 1.0) - image
            values.append(np.asarray(psnr(jnp.mean(jnp.square(error), axis=(1, 2, 3)))))
        if not values:
            return
        decibels = np.concatenate(values)
        yield "psnr", float(decibels.mean())
        styles = np.asarray([str(a.get("style")) for a in self.held_out.attributes[:count]])
        for style in sorted(set(styles) - {"None"}):
            yield f"psnr_{style}", float(decibels[styles == style].mean())

    def export(self, params: Any) -> Bundle:
        """Returns the bundle of the autoencoder."""
        return Bundle({"name": self.config.name, "autoencoder": self.settings}, {"autoencoder": params["autoencoder"]})


def psnr(squared_error: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns the peak signal-to-noise ratio in dB of mean squared errors between pictures in [-1, 1]."""
    return 10.0 * jnp.log10(4.0 / jnp.maximum(squared_error, 1e-10))


def reconstruction_error(
    output: Float[Array, "b h w c"], image: Float[Array, "b h w c"], config: Config
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the weighted sum of the absolute, the squared and the edges' error, and its parts by name.

    Args:
      output: [b, h, w, c] the reconstruction, about [-1, 1].
      image: [b, h, w, c] the picture, in [-1, 1].
      config: has `squared_weight` and `edge_weight`.
    """
    absolute = jnp.mean(jnp.abs(output - image))
    squared = jnp.mean(jnp.square(output - image))
    edges = _edge_error(output, image)
    error = absolute + config.squared_weight * squared + config.edge_weight * edges
    return error, {"absolute": absolute, "psnr": psnr(squared), "edges": edges}


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the means of squares of 2x2: [b, h / 2, w / 2, c]."""
    return nn.avg_pool(x, (2, 2), (2, 2))


def _edge_error(output: Float[Array, "b h w c"], image: Float[Array, "b h w c"]) -> Float[Array, ""]:
    # Differences of neighbouring pixels: lines and dots, which carry the style, weigh more than flat areas.
    difference = output - image
    return jnp.mean(jnp.abs(jnp.diff(difference, axis=1))) + jnp.mean(jnp.abs(jnp.diff(difference, axis=2)))


def make(config: Config, workdir: Path, progress: Progress) -> AutoencoderTask:
    """Returns the task over the pictures that `config.data` names."""
    pictures, held_out = training_and_held_out(config.data, progress)
    settings = config.model.to_dict()
    return AutoencoderTask(config, pictures, held_out, build_autoencoder(settings), settings)
