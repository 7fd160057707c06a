"""The first stage: a KL autoencoder, trained on absolute, squared and edge errors and a light pull to the prior.

Structural similarity may join them (Wang et al. 2004; as a loss, https://arxiv.org/abs/1511.08861): of a texture that
the latents know in part, the squared error keeps that part alone, pale; similarity is best at its full contrast.

As in latent diffusion (https://arxiv.org/abs/2112.10752, appendix G) a distance of features may join them, which keeps
texture where it cannot be kept pixel by pixel. There they are VGG's (LPIPS); here those of a bundle's own CLIP.
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
from jaxtyping import Array, Float, Key, UInt8
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.core import sheets
from rdm_jax.core.images import to_float, to_uint8
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import build_autoencoder
from rdm_jax.models.autoencoder import kl_divergence, sample_moments, split_moments
from rdm_jax.training.config import Config
from rdm_jax.training.perceptual import Perceptual, open_perceptual
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.base import Progress, Task, blank_picture, training_and_held_out

EVAL_PICTURES = 512
EVAL_BATCH = 64
SHOWN = 8


@dataclasses.dataclass(frozen=True)
class AutoencoderTask(Task):
    """Trains encoder and decoder, or the decoder alone where the optimizer's `frozen` holds the encoder."""

    config: Config
    pictures: ImageSet
    held_out: ImageSet
    module: Any
    settings: dict[str, Any]
    features: Perceptual | None = None

    @property
    def size(self) -> int:
        """The number of pictures."""
        return len(self.pictures)

    @property
    def record(self) -> dict[str, str]:
        """The hash of the pictures."""
        return {"source": self.pictures.fingerprint}

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns a random crop [crop, crop, 3] uint8 of the picture, half of the time mirrored."""
        crop = self.config.crop
        top, left = generator.integers(0, self.config.data.size - crop + 1, 2)
        image = np.asarray(self.pictures.images[row, top : top + crop, left : left + crop])
        return {"image": np.ascontiguousarray(image[:, ::-1]) if generator.random() < 0.5 else image}

    @property
    def frozen(self) -> Any:
        """The parameters of the network that features are of."""
        return self.features.params if self.features else {}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns fresh parameters, and no stats."""
        return {
            "autoencoder": self.module.init(key, jnp.zeros((1, self.config.crop, self.config.crop, 3)))["params"]
        }, {}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the weighted sum of the reconstruction's error, the KL divergence, the error at half the scale, what
        structural similarity lacks of one, and the features' distance.

        At half the scale, averaged latents are to decode to the averaged picture. That keeps coarse content out of the
        latents' fine frequencies, and diffusion models learn such latents sooner (https://arxiv.org/abs/2502.09509).
        """
        config, variables = self.config.loss, {"params": params["autoencoder"]}
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        moments = self.module.apply(variables, image, method="encode")
        posterior_key, noise_key, level_key = jax.random.split(key, 3)
        z = sample_moments(moments, jax.random.normal(posterior_key, split_moments(moments)[0].shape))
        noisy = z + _noise(level_key, noise_key, z, config.latent_noise)
        decode = functools.partial(self.module.apply, variables, method="decode")
        output = decode(noisy)
        error, parts = reconstruction_error(output, image, config)
        kl = jnp.mean(kl_divergence(moments)) / z[0].size
        loss = error + config.kl_weight * kl
        metrics = {**parts, "kl": kl, "latent_std": jnp.std(z)}
        if config.half_scale_weight:
            metrics["half_scale"], _ = reconstruction_error(decode(halved(z)), halved(image), config)
            loss += config.half_scale_weight * metrics["half_scale"]
        if config.similarity_weight:
            metrics["similarity"] = jnp.mean(structural_similarity(output, image))
            loss += config.similarity_weight * (1.0 - metrics["similarity"])
        if self.features:
            metrics["features"] = jnp.mean(self.features.distance(held.frozen, output, image))
            loss += config.feature_weight * metrics["features"]
        return loss, (metrics, held.stats)

    def figures(self, params: Any) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields held-out pictures, their reconstructions below them."""
        images = np.asarray(self.held_out.images[:SHOWN])
        if len(images):
            back = to_uint8(
                np.asarray(_reconstructed(self.module, params["autoencoder"], jnp.asarray(to_float(images))))
            )
            yield "reconstructions", sheets.grid(np.stack([images, back]), row_labels=["picture", "back"], zoom=1)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the mean PSNR over held-out pictures, and that of each style where they have one."""
        size = min(EVAL_BATCH, len(self.held_out))
        count = min(EVAL_PICTURES, len(self.held_out)) // size * size
        values = []
        for start in range(0, count, size):
            image = jnp.asarray(to_float(self.held_out.images[start : start + size]))
            error = jnp.clip(_reconstructed(self.module, params["autoencoder"], image), -1.0, 1.0) - image
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


@functools.partial(jax.jit, static_argnums=0)
def _reconstructed(module: Any, params: Any, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return module.apply({"params": params}, x)


def _noise(
    level_key: Key[Array, ""], noise_key: Key[Array, ""], z: Float[Array, "b h w c"], largest: float
) -> Float[Array, "b h w c"]:
    # The diffusion model's latents are off, now less and now more: the decoder learns to bear it, and at no noise to
    # repeat what it is given (noise-augmented decoding, https://arxiv.org/abs/2510.11690).
    level = largest * jax.random.uniform(level_key, (len(z), 1, 1, 1))
    return level * jax.lax.stop_gradient(jnp.std(z)) * jax.random.normal(noise_key, z.shape)


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


def structural_similarity(
    output: Float[Array, "b h w c"], image: Float[Array, "b h w c"], window: int = 7
) -> Float[Array, "b h2 w2 c"]:
    """Returns the structural similarity of pictures in [-1, 1] in every whole window, in [-1, 1].

    Wang et al. 2004, eq. 13, with K = (0.01, 0.03), flat square windows and the sample (co)variance.

    Args:
      output: [b, h, w, c] one picture.
      image: [b, h, w, c] the other.
      window: the side of the window; the result is [b, h - window + 1, w - window + 1, c].
    """
    mean = functools.partial(nn.avg_pool, window_shape=(window, window))
    sample = window**2 / (window**2 - 1)
    c1, c2 = 0.02**2, 0.06**2
    mean_x, mean_y = mean(output), mean(image)
    var_x, var_y = (sample * (mean(v * v) - m * m) for v, m in ((output, mean_x), (image, mean_y)))
    covariance = sample * (mean(output * image) - mean_x * mean_y)
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2.0 * covariance + c2) / (var_x + var_y + c2)


def halved(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Returns the means of squares of 2x2: [b, h / 2, w / 2, c]."""
    return nn.avg_pool(x, (2, 2), (2, 2))


def _edge_error(output: Float[Array, "b h w c"], image: Float[Array, "b h w c"]) -> Float[Array, ""]:
    # Differences of neighbouring pixels: lines and dots, which carry the style, weigh more than flat areas.
    difference = output - image
    return jnp.mean(jnp.abs(jnp.diff(difference, axis=1))) + jnp.mean(jnp.abs(jnp.diff(difference, axis=2)))


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> AutoencoderTask:
    """Returns the task over the pictures that `config.data` names.

    Raises:
      UserError: features are asked for and the bundle `config.base` has none for crops of this size.
    """
    wanted = ConfigDict({"kind": "clip", "bundle": config.base})
    features = open_perceptual(wanted, config.crop) if config.loss.feature_weight else None
    pictures, held_out = training_and_held_out(config.data, progress)
    settings = config.model.to_dict()
    return AutoencoderTask(config, pictures, held_out, build_autoencoder(settings), settings, features)


def abstract(config: Config) -> AutoencoderTask:
    """Returns the task from its configuration alone, without the perceptual distance."""
    blank, settings = blank_picture(config.data.size), config.model.to_dict()
    return AutoencoderTask(config, blank, blank, build_autoencoder(settings), settings)
