"""What the tasks of networks that read noisy latents share: a finished model, whose latents and schedule they see."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.diffusion.objective import sample_timesteps
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.schedule import Schedule, build_schedule, signal_noise
from rdm_jax.training.config import Config
from rdm_jax.training.latents import Latents, open_latents
from rdm_jax.training.tasks.base import Progress, training_and_held_out


def noised_latents(
    latents: Latents, schedule: Schedule, frozen: Any, batch: dict[str, Array], key: Key[Array, ""]
) -> tuple[Float[Array, "b h w c"], Int[Array, " b"]]:
    """Returns x_t and t of a batch: each time of the schedule is as likely."""
    posterior_key, noise_key, time_key = jax.random.split(key, 3)
    x0 = latents.x0(frozen, batch, posterior_key)
    t = sample_timesteps(time_key, len(x0), len(schedule))
    alpha, sigma = signal_noise(schedule, t)
    noise = jax.random.normal(noise_key, x0.shape)
    return per_image(alpha, x0.ndim) * x0 + per_image(sigma, x0.ndim) * noise, t


def open_model(config: Config, progress: Progress) -> tuple[Bundle, Latents, Latents, Schedule]:
    """Returns the model `config.base`, the latents to train on and those to evaluate on, and its schedule.

    Raises:
      UserError: the bundle lacks an autoencoder or a U-Net.
    """
    base = Bundle.open(config.base)
    base.require("autoencoder", "unet")
    told = ConfigDict({"data": config.data, "latents": base.config["latents"]})
    training, held_out = (
        open_latents(base, pictures, told, progress) for pictures in training_and_held_out(config.data, progress)
    )
    return base, training, held_out, build_schedule(base.config["diffusion"])
