"""What the tasks of networks on noisy latents share: a finished model, with its latents and its schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.diffusion.objective import sample_timesteps
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.schedule import Schedule, build_schedule, signal_noise
from rdm_jax.models.noised_encoder import NoisedEncoder
from rdm_jax.training.config import Config
from rdm_jax.training.latents import Latents, open_latents
from rdm_jax.training.schema import Run, SplitLatentData, network
from rdm_jax.training.tasks.base import training_and_held_out
from rdm_jax.training.tasks.part import PartTask

EVAL_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The settings of a network that reads noisy latents.

    Attributes:
      base: the finished model.
      model: the network.
    """

    base: str
    data: SplitLatentData
    model: Annotated[
        Mapping[str, Any], network({"": NoisedEncoder}, filled=("in_channels", "latent_size", "features"), by="")
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedTask(PartTask):
    """Trains a network on the noisy latents of a finished model, which becomes another part of it.

    Attributes:
      latents: to train on.
      held_out: to evaluate on.
      schedule: of the model's noise.
    """

    latents: Latents
    held_out: Latents
    schedule: Schedule

    @property
    def size(self) -> int:
        """The number of images."""
        return len(self.latents.images)

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the images and of the model."""
        return {"source": self.latents.images.fingerprint, "base": self.base.digest}

    @property
    def frozen(self) -> Any:
        """The autoencoder's parameters, where images are encoded in every step."""
        return self.latents.frozen

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters, and no stats."""
        x = jnp.zeros((1, *self.latents.shape))
        return {self.part: self.module.init(key, x, jnp.zeros((1,)))["params"]}, {}

    def held_out_batches(self) -> Iterator[tuple[slice, Record]]:
        """Yields the full batches of held-out latents: their rows, and their images or moments."""
        generator, size = np.random.default_rng(0), min(EVAL_BATCH, len(self.held_out.images))
        for start in range(0, len(self.held_out.images) // size * size, size):
            records = [self.held_out.read(row, generator) for row in range(start, start + size)]
            batch = {name: np.stack([record[name] for record in records]) for name in records[0]}
            yield slice(start, start + size), batch


def noised_latents(
    latents: Latents, schedule: Schedule, frozen: Any, batch: dict[str, Array], key: Key[Array, ""]
) -> tuple[Float[Array, "b h w c"], Int[Array, " b"]]:
    """Returns x_t and t of a batch, t uniform over the schedule."""
    posterior_key, noise_key, time_key = jax.random.split(key, 3)
    x0 = latents.x0(frozen, batch, posterior_key)
    t = sample_timesteps(time_key, len(x0), len(schedule))
    alpha, sigma = signal_noise(schedule, t)
    noise = jax.random.normal(noise_key, x0.shape)
    return per_image(alpha, x0.ndim) * x0 + per_image(sigma, x0.ndim) * noise, t


def open_model(config: Config, progress: StageProgressCallback) -> dict[str, Any]:
    """Returns the fields that all such tasks share: the model, the latents to train and to evaluate on, the schedule.

    Raises:
      UserError: the bundle lacks an autoencoder or a denoiser.
    """
    base = Bundle.open(config.base)
    base.require("autoencoder", "denoiser")
    settings = ConfigDict({"data": config.data, "latents": base.config["latents"]})
    training, held_out = (
        open_latents(base, images, settings, progress) for images in training_and_held_out(config.data, progress)
    )
    schedule = build_schedule(base.config["diffusion"])
    return {"config": config, "base": base, "latents": training, "held_out": held_out, "schedule": schedule}
