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
      latents: their scale and shift; measured on the data where empty.
      sampling: the defaults of the exported model.
    """

    diffusion: Annotated[Mapping[str, Any], Fields({"": Noise}, by="")]
    time_density: Annotated[str, one_of(TIME_DENSITIES)] = "uniform"
    time_weight: Annotated[str, one_of(TIME_WEIGHTS)] = "uniform"
    expert_level: Count = 0
    expert_index: Count = 0
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


def denoising_loss(
    config: Config,
    schedule: Schedule,
    module: Any,
    params: Any,
    x0: Float[Array, "b h w c"],
    condition: Condition,
    keys: tuple[Key[Array, ""], Key[Array, ""], Key[Array, ""]],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the weighted squared error of the prediction at random times, and its mean within bands of time.

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
    losses = diffusion_loss(apply, x0, condition, t, noise, schedule, prediction)
    bands = by_bands(losses, t, len(schedule), BANDS)
    loss = jnp.mean(time_weights(config.time_weight, schedule, t, prediction) * losses)
    return loss, {f"band_{i}": bands[i] for i in range(BANDS)}
