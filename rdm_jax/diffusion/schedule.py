"""The variance-preserving noise schedule: x_t = alpha_t x_0 + sigma_t eps, with alpha_t^2 + sigma_t^2 = 1.

A schedule is planned in float64 on the host and leaves it as float32. The names of the buffers are those of the
CompVis checkpoints; the equations are those of Ho et al. 2020, "Denoising Diffusion Probabilistic Models"
(https://arxiv.org/abs/2006.11239).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.diffusion.interpolants import Path, path_of

# The posterior's variance at t = 0 is zero; its logarithm is that of this number (as CompVis and Ho et al. do).
_MIN_VARIANCE = 1e-20


# Compared and hashed by identity, so that a schedule can be closed over or be a static argument.
@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The noise level at each of T integer times, lowest at t = 0.

    Attributes:
      betas: [T] variance added from t - 1 to t, each in (0, 1).
    """

    betas: Float64[np.ndarray, " T"]

    def __post_init__(self) -> None:
        if self.betas.size == 0 or not np.all((self.betas > 0) & (self.betas < 1)):
            raise UserError(
                f"a schedule of {self.betas.size} betas from {self.betas.min(initial=np.inf):g} to "
                f"{self.betas.max(initial=-np.inf):g}: every beta lies between 0 and 1, and there is at least one"
            )

    def __len__(self) -> int:
        return self.betas.size

    @cached_property
    def alphas_cumprod(self) -> Float64[np.ndarray, " T"]:
        """[T] the fraction of the signal's variance that is left, alpha_t^2 (alpha-bar in Ho et al.)."""
        return np.cumprod(1.0 - self.betas)

    @cached_property
    def alphas_cumprod_prev(self) -> Float64[np.ndarray, " T"]:
        """[T] `alphas_cumprod` one time earlier; 1 before t = 0."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def signal(self) -> Float64[np.ndarray, " T"]:
        """[T] alpha_t, the square root of `alphas_cumprod`."""
        return np.sqrt(self.alphas_cumprod)

    @cached_property
    def noise(self) -> Float64[np.ndarray, " T"]:
        """[T] sigma_t, the square root of 1 - `alphas_cumprod`."""
        return np.sqrt(1.0 - self.alphas_cumprod)

    @cached_property
    def log_snr(self) -> Float64[np.ndarray, " T"]:
        """[T] lambda_t = log(alpha_t / sigma_t), half the logarithm of the signal-to-noise ratio; falls with t."""
        return np.log(self.signal) - np.log(self.noise)

    @property
    def noisiest(self) -> float:
        """Lambda of the noisiest level that a sampler may begin at."""
        return float(self.log_snr[-1])

    def at(self, t: np.ndarray) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Returns (alpha, sigma) at times [n] in [0, T - 1]; between two integers, lambda is interpolated."""
        if np.issubdtype(t.dtype, np.integer):
            return self.signal[t], self.noise[t]
        log_snr = np.interp(t, np.arange(len(self)), self.log_snr)
        sigma = 1.0 / np.sqrt(1.0 + np.exp(2.0 * log_snr))
        return np.exp(log_snr) * sigma, sigma

    def time_of(self, log_snr: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Returns the time [n] in [0, T - 1] at which lambda has these values, clipped to the schedule."""
        return np.interp(-log_snr, -self.log_snr, np.arange(len(self), dtype=np.float64))

    @cached_property
    def posterior_variance(self) -> Float64[np.ndarray, " T"]:
        """[T] the variance of q(x_{t-1} | x_t, x_0) (Ho et al., eq. 7); zero at t = 0."""
        return self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)

    @cached_property
    def vlb_weights(self) -> Float64[np.ndarray, " T"]:
        """[T] the factors from the squared error of eps to the terms of the variational bound, as scaled by CompVis.

        beta_t^2 / (2 v_t (1 - beta_t) (1 - alphas_cumprod_t)) with v the posterior variance (Ho et al., eq. 12); the
        first, which would be infinite, takes the value of the second.
        """
        scale = 2.0 * np.maximum(self.posterior_variance, _MIN_VARIANCE) * (1.0 - self.betas)
        weights = self.betas**2 / (scale * (1.0 - self.alphas_cumprod))
        weights[0] = weights[min(1, len(self) - 1)]
        return weights

    def buffers(self) -> dict[str, Float64[np.ndarray, " T"]]:
        """Returns the twelve buffers [T] that a CompVis checkpoint stores, by their names there."""
        abar, abar_prev = self.alphas_cumprod, self.alphas_cumprod_prev
        return {
            "betas": self.betas,
            "alphas_cumprod": abar,
            "alphas_cumprod_prev": abar_prev,
            "sqrt_alphas_cumprod": self.signal,
            "sqrt_one_minus_alphas_cumprod": self.noise,
            "log_one_minus_alphas_cumprod": np.log(1.0 - abar),
            "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / abar),
            "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / abar - 1.0),
            "posterior_variance": self.posterior_variance,
            "posterior_log_variance_clipped": np.log(np.maximum(self.posterior_variance, _MIN_VARIANCE)),
            "posterior_mean_coef1": self.betas * np.sqrt(abar_prev) / (1.0 - abar),
            "posterior_mean_coef2": (1.0 - abar_prev) * np.sqrt(1.0 - self.betas) / (1.0 - abar),
        }


def scaled_linear(num_timesteps: int, start: float, end: float) -> Schedule:
    """Returns the schedule whose betas' square roots are evenly spaced; CompVis configurations call it "linear".

    Args:
      num_timesteps: T, at least 1.
      start: the first beta, in (0, 1).
      end: the last beta, in (0, 1).

    Raises:
      UserError: there are no time steps, or a beta leaves (0, 1).
    """
    _check_betas(num_timesteps, start, end)
    return Schedule(np.linspace(start**0.5, end**0.5, num_timesteps, dtype=np.float64) ** 2)


def linear(num_timesteps: int, start: float, end: float) -> Schedule:
    """Returns the schedule whose betas are evenly spaced (Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 4).

    Args:
      num_timesteps: T, at least 1.
      start: the first beta, in (0, 1).
      end: the last beta, in (0, 1).

    Raises:
      UserError: there are no time steps, or a beta leaves (0, 1).
    """
    _check_betas(num_timesteps, start, end)
    return Schedule(np.linspace(start, end, num_timesteps, dtype=np.float64))


def _check_betas(num_timesteps: int, start: float, end: float) -> None:
    if num_timesteps < 1:
        raise UserError(f"{num_timesteps} diffusion timesteps: a schedule needs at least 1")
    if not (0 < start < 1 and 0 < end < 1):
        raise UserError(f"betas from {start} to {end}: both lie between 0 and 1, as in 0.0015 to 0.015")


def cosine(num_timesteps: int, offset: float = 0.008, largest: float = 0.999) -> Schedule:
    """Returns the schedule whose signal variance falls as a squared cosine, to a half at half the time.

    Small latents lose their detail to little noise: this schedule spends twice as much of the time there as
    `scaled_linear` does (Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17).

    Args:
      num_timesteps: T, at least 1.
      offset: s of the paper; keeps the first betas from being too small.
      largest: the last betas are clipped to it, below 1.

    Raises:
      UserError: there are no time steps.
    """
    if num_timesteps < 1:
        raise UserError(f"{num_timesteps} diffusion timesteps: a schedule needs at least 1")
    time = np.linspace(0.0, 1.0, num_timesteps + 1, dtype=np.float64)
    left = np.cos((time + offset) / (1.0 + offset) * np.pi / 2) ** 2
    return Schedule(np.clip(1.0 - left[1:] / left[:-1], 0.0, largest))


@dataclasses.dataclass(frozen=True, eq=False)
class InterpolantSchedule(Schedule):
    """The levels of a stochastic interpolant: time t of T is s = 1 - (t + 1/2) / T on its path.

    Between the integers the path itself gives the levels, up to its ends at t = -1/2, the image, and t = T - 1/2.

    Attributes:
      path: of the interpolant.
    """

    path: Path

    @property
    def noisiest(self) -> float:
        """Lambda at the beginning of the path, minus infinity where that is noise alone."""
        return float(self.path.log_snr(np.zeros(1))[0])

    def at(self, t: np.ndarray) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Returns (alpha, sigma) at times [n] in [-1/2, T - 1/2]."""
        return self.path.levels(_path_time(t, len(self)))

    def time_of(self, log_snr: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Returns the time [n] in [-1/2, T - 1/2] at which lambda has these values, which may be infinite."""
        return (1.0 - self.path.time_of(log_snr)) * len(self) - 0.5


def _path_time(t: np.ndarray, num_timesteps: int) -> Float64[np.ndarray, " n"]:
    return 1.0 - (t + 0.5) / num_timesteps


def interpolant(path: str, num_timesteps: int) -> InterpolantSchedule:
    """Returns the schedule of a stochastic interpolant.

    Args:
      path: a name in `interpolants.PATHS`.
      num_timesteps: T, at least 1.

    Raises:
      UserError: the path is unknown, or there are no time steps.
    """
    if num_timesteps < 1:
        raise UserError(f"{num_timesteps} diffusion timesteps: a schedule needs at least 1")
    along = path_of(path)
    alpha, _ = along.levels(_path_time(np.arange(num_timesteps), num_timesteps))
    left = np.append(1.0, alpha**2)
    return InterpolantSchedule(1.0 - left[1:] / left[:-1], along)


SCHEDULES = {
    "scaled_linear": (scaled_linear, ("num_timesteps", "beta_start", "beta_end")),
    "linear": (linear, ("num_timesteps", "beta_start", "beta_end")),
    "cosine": (cosine, ("num_timesteps",)),
    "linear_interpolant": (functools.partial(interpolant, "linear"), ("num_timesteps",)),
    "gvp_interpolant": (functools.partial(interpolant, "gvp"), ("num_timesteps",)),
    "vp_interpolant": (functools.partial(interpolant, "vp"), ("num_timesteps",)),
}
"""By name: the function that makes a schedule, and its settings."""


def build_schedule(config: Mapping[str, Any]) -> Schedule:
    """Returns the schedule of a configuration.

    Args:
      config: "num_timesteps"; "schedule", a name in `SCHEDULES`, "scaled_linear" by default; and the settings that this
        schedule takes.

    Raises:
      UserError: the schedule is unknown, or a setting is missing or out of range.
    """
    name = config.get("schedule", "scaled_linear")
    if name not in SCHEDULES:
        raise unknown("noise schedule", name, SCHEDULES)
    make, settings = SCHEDULES[name]
    missing = [key for key in settings if key not in config]
    if missing:
        raise UserError(f"the {name} schedule lacks {', '.join(missing)}; add them to the configuration's diffusion")
    return make(*(config[key] for key in settings))


def signal_noise(schedule: Schedule, t: Int[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Returns (alpha_t, sigma_t) in float32 at integer times, each of the shape of `t`.

    Args:
      schedule: the schedule of T times.
      t: any shape, in [0, T); may be traced; not checked.
    """
    return jnp.asarray(schedule.signal, jnp.float32)[t], jnp.asarray(schedule.noise, jnp.float32)[t]
