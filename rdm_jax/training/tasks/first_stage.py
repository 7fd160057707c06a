"""The first stages of latent diffusion, KL and VQ, as their authors trained them, and others with their losses.

An absolute or squared and a perceptual error, and a patch discriminator, which starts later and may have an adaptive
weight that keeps both gradients equal (https://arxiv.org/abs/2012.09841, eq. 6 and 7; https://arxiv.org/abs/2112.10752,
appendix G). Every step trains decoder and discriminator on the same images.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.schema import one_of
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import AUTOENCODERS, build_autoencoder
from rdm_jax.models.autoencoder import AutoencoderKL, kl_divergence, sample_moments, split_moments
from rdm_jax.models.discriminator import PatchDiscriminator
from rdm_jax.training import adversarial
from rdm_jax.training.config import Config
from rdm_jax.training.perceptual import KINDS, Perceptual, open_perceptual
from rdm_jax.training.schema import Count, Positive, Run, network
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.autoencoder import AutoencoderTask, check_crop
from rdm_jax.training.tasks.base import blank_image, training_and_held_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualLoss:
    """The perceptual distance.

    Attributes:
      kind: a name in `perceptual.KINDS`.
      bundle: where its weights are.
      weight: 0 leaves it out.
    """

    kind: Annotated[str, one_of(KINDS)] = "lpips"
    bundle: str = ""
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial:
    """The discriminator.

    Attributes:
      weight: of its gradient, beside the adaptive one; 0 trains none.
      adaptive: whether there is an adaptive weight beside it.
      start: the step from which it counts.
      layers: of its network.
    """

    weight: float
    adaptive: bool = True
    start: Count = 0
    layers: Positive = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """Weights of the loss.

    Attributes:
      absolute_weight: of the absolute error.
      squared_weight: of the squared error.
      kl_weight: of the divergence from the prior, for a KL first stage.
      codebook_weight: of the codebook's loss, for a VQ first stage.
      entropy_weight: of the entropy of the codes, for a VQ first stage.
      perceptual: the perceptual distance.
      adversarial: the discriminator.
    """

    absolute_weight: float = 1.0
    squared_weight: float = 0.0
    kl_weight: float = 1e-6
    codebook_weight: float = 1.0
    entropy_weight: float = 0.0
    perceptual: PerceptualLoss
    adversarial: Adversarial


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The settings of a first stage.

    Attributes:
      crop: the size of the random crops that it is trained on.
      loss: weights of its parts.
      model: the autoencoder.
    """

    crop: Positive
    loss: Loss
    model: Annotated[Mapping[str, Any], network(AUTOENCODERS)]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_crop(self.crop, self.data.size)


@dataclasses.dataclass(frozen=True)
class FirstStageTask(AutoencoderTask):
    """An autoencoder and its discriminator, whose running means are the run's stats.

    The discriminator is None, and costs nothing, where `config.loss.adversarial.weight` is 0.
    """

    discriminator: PatchDiscriminator | None = None

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of both networks, and the discriminator's running means."""
        own, other = jax.random.split(key)
        params, _ = super().init(own)
        if self.discriminator is None:
            return params, {}
        variables = self.discriminator.init(other, jnp.zeros((1, self.config.crop, self.config.crop, 3)))
        return {**params, "discriminator": variables["params"]}, variables["batch_stats"]

    def averaged(self, params: Any) -> Any:
        """Returns the autoencoder alone: the discriminator is not exported."""
        return {"autoencoder": params["autoencoder"]}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the autoencoder's loss plus the discriminator's, neither of which trains the other's parameters."""
        config = self.config.loss
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        z, regularizer, metrics = self._latents(params["autoencoder"], image, key)
        output = self._decode(params["autoencoder"], z)
        error, parts = self._error(extras.frozen, output, image)
        loss = error + regularizer
        metrics |= {**parts, "nll": error}
        if self.discriminator is None:
            return loss, (metrics, extras.stats)

        fixed = jax.lax.stop_gradient(params["discriminator"])
        weight = jnp.ones(())
        if config.adversarial.adaptive:
            weight = self._adversarial_weight(params["autoencoder"], fixed, extras, z, image)
        active = adversarial.delayed(step, config.adversarial.start)
        generator_loss = adversarial.generator_loss(self._discriminate(fixed, extras.stats, output)[0])
        loss += active * config.adversarial.weight * weight * generator_loss

        real, stats = self._discriminate(params["discriminator"], extras.stats, image)
        fake, stats = self._discriminate(params["discriminator"], stats, jax.lax.stop_gradient(output))
        discriminator_loss = adversarial.hinge_loss(real, fake)
        metrics |= {"generator": generator_loss, "adaptive_weight": weight, "discriminator": discriminator_loss}
        metrics |= {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}
        return loss + active * discriminator_loss, (metrics, stats)

    def _latents(self, params: Any, image: Array, key: Key[Array, ""]) -> tuple[Array, Array, dict[str, Array]]:
        """Returns the latents to decode, their weighted regularizer, and its metrics."""
        encoded = self.module.apply({"params": params}, image, method="encode")
        if isinstance(self.module, AutoencoderKL):
            kl = jnp.mean(kl_divergence(encoded))
            z = sample_moments(encoded, jax.random.normal(key, split_moments(encoded)[0].shape))
            return z, self.config.loss.kl_weight * kl, {"kl": kl}
        z, indices, loss = self.module.apply({"params": params}, encoded, method="quantize")
        used = jnp.zeros(np.sum(self.module.num_codes)).at[indices.reshape(-1)].set(1.0).sum()
        metrics, regularizer = {"quantization": loss, "codes_used": used}, self.config.loss.codebook_weight * loss
        if self.config.loss.entropy_weight:
            distances = self.module.apply({"params": params}, encoded, method="distances")
            metrics["entropy"] = sum(map(entropy_loss, distances), jnp.zeros(()))  # of each codebook
            regularizer += self.config.loss.entropy_weight * metrics["entropy"]
        return z, regularizer, metrics

    def _decode(self, params: Any, z: Array) -> Float[Array, "b h w 3"]:
        decode = functools.partial(self.module.apply, {"params": params}, z, method="decode")
        return decode() if isinstance(self.module, AutoencoderKL) else decode(quantize=False)

    def _error(self, frozen: Any, output: Array, image: Array) -> tuple[Array, dict[str, Array]]:
        """Returns the negative log-likelihood: summed over an image's pixels for KL, their mean for VQ."""
        config = self.config.loss
        absolute, squared = jnp.abs(output - image), jnp.square(output - image)
        parts = {"absolute": jnp.mean(absolute), "squared": jnp.mean(squared)}
        error = config.absolute_weight * absolute + config.squared_weight * squared
        if self.features:
            distance = self.features.distance(frozen, output, image)
            error += config.perceptual.weight * distance[:, None, None, None]
            parts["perceptual"] = jnp.mean(distance)
        if isinstance(self.module, AutoencoderKL):
            return adversarial.negative_log_likelihood(error, 0.0), parts
        return jnp.mean(error), parts

    def _adversarial_weight(self, params: Any, discriminator: Any, extras: Extras, z: Array, image: Array) -> Array:
        flat = trees.flatten(jax.lax.stop_gradient(params))
        latents = jax.lax.stop_gradient(z)

        def decode(kernel: Array) -> Array:
            return self._decode(trees.unflatten({**flat, self.module.last_kernel: kernel}), latents)

        return adversarial.adaptive_weight(
            lambda kernel: self._error(extras.frozen, decode(kernel), image)[0],
            lambda kernel: adversarial.generator_loss(
                self._discriminate(discriminator, extras.stats, decode(kernel))[0]
            ),
            flat[self.module.last_kernel],
        )

    def _discriminate(self, params: Any, stats: Any, image: Array) -> tuple[Array, Any]:
        assert self.discriminator is not None
        variables = {"params": params, "batch_stats": stats}
        logits, changed = self.discriminator.apply(variables, image, train=True, mutable=["batch_stats"])
        return logits, changed["batch_stats"]


def entropy_loss(distances: Float[Array, "n k"], temperature: float = 0.01) -> Float[Array, ""]:
    """Returns the mean entropy of each latent's soft assignment to the codes, less the entropy of their mean.

    It is smallest where every latent is close to one code and all codes are used equally often, which keeps the
    codebook from collapsing (https://arxiv.org/abs/2310.05737, equation 4).

    Args:
      distances: of n latents to k codes, squared, up to a constant of each latent.
      temperature: of the softmax of minus the distances.
    """
    log_p = jax.nn.log_softmax(-distances / temperature, axis=-1)
    p = jnp.exp(log_p)
    mean = jnp.mean(p, axis=0)
    return jnp.sum(mean * jnp.log(mean + 1e-9)) - jnp.mean(jnp.sum(p * log_p, axis=-1))


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> FirstStageTask:
    """Returns the task over the images that `config.data` names.

    Raises:
      UserError: the weights of the perceptual distance are missing.
    """
    perceptual: Perceptual | None = None
    if config.loss.perceptual.weight:
        perceptual = open_perceptual(config.loss.perceptual, config.crop)
    return _task(config, *training_and_held_out(config.data, progress), perceptual)


def abstract(config: Config) -> FirstStageTask:
    """Returns the task from its configuration alone, without the perceptual distance."""
    blank = blank_image(config.data.size)
    return _task(config, blank, blank, None)


def _task(config: Config, images: ImageSet, held_out: ImageSet, perceptual: Perceptual | None) -> FirstStageTask:
    settings, adversarial = config.model.to_dict(), config.loss.adversarial
    discriminator = PatchDiscriminator(num_layers=adversarial.layers) if adversarial.weight else None
    return FirstStageTask(config, images, held_out, build_autoencoder(settings), settings, perceptual, discriminator)
