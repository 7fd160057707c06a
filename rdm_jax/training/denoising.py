"""What every task has that trains a denoiser: the settings of the noise, and the loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import Fields, one_of
from rdm_jax.diffusion.experts import RANGE, interval
from rdm_jax.diffusion.objective import (
    ERRORS,
    TIME_DENSITIES,
    TIME_WEIGHTS,
    by_bands,
    diffusion_loss,
    sample_timesteps,
    time_weights,
)
from rdm_jax.diffusion.parameterization import PREDICTIONS
from rdm_jax.diffusion.schedule import SCHEDULES, Schedule, build_schedule
from rdm_jax.factory import sampler_from
from rdm_jax.models.condition import Condition
from rdm_jax.training.config import Config
from rdm_jax.training.latents import Scaling
from rdm_jax.training.schema import Count, Positive, Run, sampling_options

BANDS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """The `diffusion` section.

    Attributes:
      num_timesteps: of the schedule.
      prediction: what the network predicts, a name in `parameterization.PREDICTIONS`.
      schedule: a name in `schedule.SCHEDULES`.
      beta_start: of the scaled linear schedule.
      beta_end: of the same.
      learned_variance: whether the network predicts the variance of a step too, which has twice the channels.
      clip: the bound of x0 in sampling, 1 for models of pixels; 0 is none.
    """

    num_timesteps: Positive
    prediction: Annotated[str, one_of(PREDICTIONS)]
    schedule: Annotated[str, one_of(SCHEDULES)]
    beta_start: float = 0.0
    beta_end: float = 0.0
    learned_variance: bool = False
    clip: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingRun(Run):
    """The settings of a run that trains a denoiser.

    Attributes:
      diffusion: the noise schedule and what is predicted.
      time_density: of the times that are trained on, a name in `objective.TIME_DENSITIES`.
      time_weight: of each time's error, a name in `objective.TIME_WEIGHTS`.
      expert_level: of a node in the binary tree of experts (`diffusion.experts`); 0 trains on all noise.
      expert_index: of that node among the 2^level of its level, 0 next to the image.
      error: of the prediction, a name in `objective.ERRORS`.
      latents: their scale and shift; measured on the data where empty.
      sampling: the defaults of the exported model.
    """

    diffusion: Annotated[Mapping[str, Any], Fields({"": Noise}, by="")]
    time_density: Annotated[str, one_of(TIME_DENSITIES)] = "uniform"
    time_weight: Annotated[str, one_of(TIME_WEIGHTS)] = "uniform"
    expert_level: Count = 0
    expert_index: Count = 0
    error: Annotated[str, one_of(ERRORS)] = "squared"
    latents: Annotated[Mapping[str, Any], Fields({"": Scaling}, by="", optional=True)] = dataclasses.field(
        default_factory=dict
    )
    sampling: Annotated[Mapping[str, Any], sampling_options("diffusion")]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_noise(self.diffusion, self.sampling)
        interval(self.expert_level, self.expert_index)
        if 2**self.expert_level > self.diffusion["num_timesteps"]:
            raise UserError(
                f"expert_level={self.expert_level} has more experts than diffusion.num_timesteps="
                f"{self.diffusion['num_timesteps']}; lower it"
            )


def _check_noise(diffusion: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Raises UserError if a `diffusion` section describes no schedule, or a `sampling` section no sampler."""
    schedule, settings = diffusion["schedule"], SCHEDULES[diffusion["schedule"]][1]
    for key in diffusion:
        if key not in ("schedule", "prediction", "learned_variance", "clip", *settings):
            raise UserError(f"diffusion.{key} is no setting of schedule {schedule!r}; leave it out")
    build_schedule(diffusion)
    sampler_from(sampling.get("sampler", "ddim"), sampling.get("eta", 0.0), sampling.get("spacing", ""))


def output_channels(config: Config, channels: int) -> int:
    """Returns the channels of a denoiser's output for latents of some channels."""
    return channels * (2 if config.diffusion.get("learned_variance") else 1)


def diffusion_section(config: Config) -> dict[str, Any]:
    """Returns the `diffusion` section of an exported model; that of an expert names the times it is trained on."""
    section, times = config.diffusion.to_dict(), config.diffusion.num_timesteps
    if not config.get("expert_level"):  # which a student's run does not have
        return section
    ends = np.asarray(interval(config.expert_level, config.expert_index), np.float32)
    fractions = np.asarray(TIME_DENSITIES[config.time_density](jnp.asarray(ends)))
    return {**section, RANGE: [int(end) for end in np.floor(times * fractions)]}


def initial_inputs(
    module: Any, latent: tuple[int, int, int], condition: Condition
) -> tuple[Float[Array, "1 h w c"], Float[Array, "1"], Condition]:
    """Returns what creates all parameters of a denoiser: latents, or one part of their channels, times, a condition.

    Args:
      module: the denoiser.
      latent: (h, w, c) of a latent.
      condition: of no image.
    """
    x = jnp.zeros((1, *latent[:2], module.in_channels))
    if module.stages > 1:
        condition = dataclasses.replace(condition, channels=x)
    return x, jnp.zeros((1,)), condition


def denoising_loss(
    config: Config,
    schedule: Schedule,
    module: Any,
    params: Any,
    x0: Float[Array, "b h w c"],
    condition: Condition,
    keys: tuple[Key[Array, ""], Key[Array, ""], Key[Array, ""]],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the weighted error of the prediction at random times, and its mean within bands of time.

    A denoiser of two stages has the mean of both errors, at the same times.

    Args:
      config: of the run, a `DenoisingRun`.
      schedule: of the noise.
      module: the denoiser.
      params: its parameters.
      x0: the latents.
      condition: of each of them.
      keys: of the noise, the times and the dropout.
    """
    noise_key, time_key, dropout_key = keys
    prediction = config.diffusion.prediction
    part = interval(config.expert_level, config.expert_index)
    t = sample_timesteps(time_key, len(x0), len(schedule), config.time_density, part)

    def apply(x: Array, t: Array, condition: Condition) -> Array:
        dropout = {"deterministic": False, "rngs": {"dropout": dropout_key}} if module.dropout else {}
        return module.apply({"params": params}, x, t, condition, **dropout)

    noise = jax.random.normal(noise_key, x0.shape)
    stages = [(x0, noise, condition)] if module.stages == 1 else scales_of(module, x0, noise, condition)
    errors = [
        diffusion_loss(apply, part, given, t, own, schedule, prediction, error=config.error)
        for part, own, given in stages
    ]
    losses = sum(errors[1:], errors[0]) / len(errors)
    bands = by_bands(losses, t, len(schedule), BANDS)
    loss = jnp.mean(time_weights(config.time_weight, schedule, t, prediction) * losses)
    metrics = {f"stage_{i}": jnp.mean(error) for i, error in enumerate(errors)} if len(errors) > 1 else {}
    return loss, {**{f"band_{i}": bands[i] for i in range(BANDS)}, **metrics}


def scales_of(
    module: Any, x0: Float[Array, "b h w c"], noise: Float[Array, "b h w c"], condition: Condition
) -> list[tuple[Float[Array, "b h w d"], Float[Array, "b h w d"], Condition]]:
    """Returns the data, the noise and the condition of the coarse and of the fine stage.

    In sampling the fine stage follows a coarse scale with errors, so it is trained beside one with some noise (Frido's
    program, `noise_mix_ratio`).

    Args:
      module: a denoiser of two stages.
      x0: the latents, the channels of the coarse scale before those of the fine one.
      noise: of the whole latents.
      condition: beside the coarse scale.
    """
    (coarse, fine), (first, second) = jnp.split(x0, 2, axis=-1), jnp.split(noise, 2, axis=-1)
    mixed = (1.0 - module.coarse_noise) * coarse + module.coarse_noise * first
    return [(coarse, first, condition), (fine, second, dataclasses.replace(condition, channels=mixed))]
