"""The first stages of latent diffusion, KL and VQ, as their authors trained them.

An absolute and a perceptual error, and a patch discriminator that joins after a while with a weight that keeps both
pulls equal (https://arxiv.org/abs/2012.09841, eq. 6 and 7; https://arxiv.org/abs/2112.10752, appendix G). Decoder and
discriminator learn at every step, each from its own side of the same pictures.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import build_autoencoder
from rdm_jax.models.autoencoder import AutoencoderKL, kl_divergence, sample_moments, split_moments
from rdm_jax.models.discriminator import PatchDiscriminator
from rdm_jax.training import adversarial
from rdm_jax.training.config import Config
from rdm_jax.training.perceptual import Perceptual, open_perceptual
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.autoencoder import AutoencoderTask
from rdm_jax.training.tasks.base import Progress, blank_picture, training_and_held_out

LAST_KERNEL = "decoder/conv_out/kernel"


@dataclasses.dataclass(frozen=True)
class FirstStageTask(AutoencoderTask):
    """An autoencoder against a discriminator, whose running means are the run's stats."""

    discriminator: PatchDiscriminator = dataclasses.field(default_factory=PatchDiscriminator)

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns fresh parameters of both networks, and the discriminator's running means."""
        own, other = jax.random.split(key)
        params, _ = super().init(own)
        judge = self.discriminator.init(other, jnp.zeros((1, self.config.crop, self.config.crop, 3)))
        return {**params, "discriminator": judge["params"]}, judge["batch_stats"]

    def averaged(self, params: Any) -> Any:
        """Returns the autoencoder: nobody needs the discriminator afterwards."""
        return {"autoencoder": params["autoencoder"]}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the autoencoder's loss plus the discriminator's, neither of which moves the other's parameters."""
        config = self.config.loss
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        z, regularizer, metrics = self._latents(params["autoencoder"], image, key)
        output = self._decode(params["autoencoder"], z)
        error, parts = self._error(held.frozen, output, image)
        loss = error + regularizer

        judge = jax.lax.stop_gradient(params["discriminator"])
        weight = self._adversarial_weight(params["autoencoder"], judge, held, z, image)
        active = adversarial.delayed(step, config.adversarial.start)
        fooling = adversarial.generator_loss(self._judge(judge, held.stats, output)[0])
        loss += active * config.adversarial.weight * weight * fooling

        real, stats = self._judge(params["discriminator"], held.stats, image)
        fake, stats = self._judge(params["discriminator"], stats, jax.lax.stop_gradient(output))
        judging = adversarial.hinge_loss(real, fake)
        metrics |= {**parts, "nll": error, "generator": fooling, "adaptive_weight": weight, "discriminator": judging}
        metrics |= {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}
        return loss + active * judging, (metrics, stats)

    def _latents(self, params: Any, image: Array, key: Key[Array, ""]) -> tuple[Array, Array, dict[str, Array]]:
        """Returns what is decoded, the weighted loss that keeps latents in order, and what to log of it."""
        encoded = self.module.apply({"params": params}, image, method="encode")
        if isinstance(self.module, AutoencoderKL):
            kl = jnp.mean(kl_divergence(encoded))
            z = sample_moments(encoded, jax.random.normal(key, split_moments(encoded)[0].shape))
            return z, self.config.loss.kl_weight * kl, {"kl": kl}
        z, indices, loss = self.module.apply({"params": params}, encoded, method="quantize")
        used = jnp.zeros(self.module.num_codes).at[indices.reshape(-1)].set(1.0).sum()
        return z, self.config.loss.codebook_weight * loss, {"quantization": loss, "codes_used": used}

    def _decode(self, params: Any, z: Array) -> Float[Array, "b h w 3"]:
        decode = functools.partial(self.module.apply, {"params": params}, z, method="decode")
        return decode() if isinstance(self.module, AutoencoderKL) else decode(quantize=False)

    def _error(self, frozen: Any, output: Array, image: Array) -> tuple[Array, dict[str, Array]]:
        """Returns the negative log-likelihood: summed over a picture's pixels for KL, their mean for VQ."""
        config = self.config.loss
        error = jnp.abs(output - image)
        parts = {"absolute": jnp.mean(error)}
        if self.features:
            distance = self.features.distance(frozen, output, image)
            error += config.perceptual.weight * distance[:, None, None, None]
            parts["perceptual"] = jnp.mean(distance)
        if isinstance(self.module, AutoencoderKL):
            return adversarial.negative_log_likelihood(error, 0.0), parts
        return jnp.mean(error), parts

    def _adversarial_weight(self, params: Any, judge: Any, held: Held, z: Array, image: Array) -> Array:
        flat = trees.flatten(jax.lax.stop_gradient(params))
        fixed = jax.lax.stop_gradient(z)

        def decode(kernel: Array) -> Array:
            return self._decode(trees.unflatten({**flat, LAST_KERNEL: kernel}), fixed)

        return adversarial.adaptive_weight(
            lambda kernel: self._error(held.frozen, decode(kernel), image)[0],
            lambda kernel: adversarial.generator_loss(self._judge(judge, held.stats, decode(kernel))[0]),
            flat[LAST_KERNEL],
        )

    def _judge(self, params: Any, stats: Any, image: Array) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": stats}
        logits, changed = self.discriminator.apply(variables, image, train=True, mutable=["batch_stats"])
        return logits, changed["batch_stats"]


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> FirstStageTask:
    """Returns the task over the pictures that `config.data` names.

    Raises:
      UserError: the weights of the perceptual distance are missing.
    """
    perceptual: Perceptual | None = None
    if config.loss.perceptual.weight:
        perceptual = open_perceptual(config.loss.perceptual, config.crop)
    return _task(config, *training_and_held_out(config.data, progress), perceptual)


def abstract(config: Config) -> FirstStageTask:
    """Returns the task from its configuration alone, without the perceptual distance."""
    blank = blank_picture(config.data.size)
    return _task(config, blank, blank, None)


def _task(config: Config, pictures: ImageSet, held_out: ImageSet, perceptual: Perceptual | None) -> FirstStageTask:
    settings, judge = config.model.to_dict(), PatchDiscriminator(num_layers=config.loss.adversarial.layers)
    return FirstStageTask(config, pictures, held_out, build_autoencoder(settings), settings, perceptual, judge)
