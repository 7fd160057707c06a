"""The times that a sampler visits: grids of noise levels through a schedule, by name.

A grid ends at the level without noise (alpha = 1, sigma = 0), as in k-diffusion and diffusers; only "compvis" ends at
t = 0, the schedule's least noisy time. Fractional times interpolate the logarithm of the signal-to-noise ratio; time
embeddings accept them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.diffusion.schedule import Schedule

RHO = 7.0
LCM_POINTS = 50  # times on which latent consistency models are trained
LEAST_LOG_SNR = -5.1
"""Lambda of the noisiest level of grids in lambda or sigma, as in DPM-Solver's code: a cosine schedule goes down to
about -10, and half of the steps would be spent where the image is only noise."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """n + 1 levels of decreasing noise: the start of each of n steps, and the end of the last one.

    Attributes:
      t: [n + 1] times; integers where all are times of the schedule, else floats.
      alpha: [n + 1] the signal's factor.
      sigma: [n + 1] the noise's; 0 at the end of most grids.
    """

    t: np.ndarray
    alpha: Float64[np.ndarray, " levels"]
    sigma: Float64[np.ndarray, " levels"]

    def __len__(self) -> int:
        return len(self.t) - 1

    def since(self, step: int) -> Grid:
        """Returns the grid of the steps from one of them on, whose noisiest level is where that step begins."""
        return Grid(self.t[step:], self.alpha[step:], self.sigma[step:])

    @property
    def log_snr(self) -> Float64[np.ndarray, " levels"]:
        """[n + 1] lambda = log(alpha / sigma), half the signal-to-noise ratio's logarithm; infinite without noise."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)

    @property
    def ends_without_noise(self) -> bool:
        """Whether the last level has no noise at all."""
        return bool(self.sigma[-1] == 0)


def uniform_timesteps(num_timesteps: int, num_steps: int) -> Int[np.ndarray, " n"]:
    """Returns CompVis's evenly spaced times 1, 1 + c, 1 + 2c, ... below T, with c = T // num_steps, ascending.

    Where `num_steps` does not divide T there are more (31 for 30 of 1000).

    Args:
      num_timesteps: T, the length of the schedule.
      num_steps: the requested number, in [1, T].

    Raises:
      UserError: `num_steps` is out of range, or the last time would be T, which the schedule does not have; the
        nearest numbers that work are named.
    """
    if not _steps_fit(num_timesteps, num_steps):
        below = next((n for n in range(min(num_steps, num_timesteps), 0, -1) if _steps_fit(num_timesteps, n)), None)
        above = next((n for n in range(max(num_steps, 1), num_timesteps) if _steps_fit(num_timesteps, n)), None)
        near = " or ".join(str(n) for n in (below, above) if n is not None) or "a longer schedule"
        raise UserError(f"{num_steps} sampling steps do not fit a schedule of {num_timesteps} timesteps; use {near}")
    return np.arange(0, num_timesteps, num_timesteps // num_steps) + 1


def _steps_fit(num_timesteps: int, num_steps: int) -> bool:
    """Whether the times lie inside the schedule: the last is T where the stride divides T - 1."""
    return 1 <= num_steps <= num_timesteps and (num_timesteps - 1) % (num_timesteps // num_steps) != 0


def _leading(schedule: Schedule, n: int) -> np.ndarray:
    return (np.arange(n) * (len(schedule) // n))[::-1]


def _trailing(schedule: Schedule, n: int) -> np.ndarray:
    return np.round(len(schedule) * (1.0 - np.arange(n) / n)).astype(np.int64) - 1


def _linspace(schedule: Schedule, n: int) -> np.ndarray:
    return np.round(np.linspace(len(schedule) - 1, 0, n)).astype(np.int64)


def _lcm(schedule: Schedule, n: int) -> np.ndarray:
    times = _trailing(schedule, LCM_POINTS)
    if n > LCM_POINTS:
        raise UserError(f"{n} sampling steps do not fit the spacing 'lcm', which has {LCM_POINTS} times; use fewer")
    return times[np.floor(np.linspace(0, LCM_POINTS, n, endpoint=False)).astype(np.int64)]


def _quadratic(schedule: Schedule, n: int) -> np.ndarray:
    return np.linspace(np.sqrt(0.8 * (len(schedule) - 1)), 0.0, n) ** 2


def _ends(schedule: Schedule) -> tuple[float, float]:
    """Returns the lambda of the noisiest and of the least noisy level that a grid in lambda or sigma visits."""
    return max(schedule.log_snr[-1], LEAST_LOG_SNR), schedule.log_snr[0]


def _karras(schedule: Schedule, n: int) -> np.ndarray:
    most, least = (math.exp(-log_snr / RHO) for log_snr in _ends(schedule))
    return schedule.time_of(-RHO * np.log(np.linspace(most, least, n)))


def _log_snr(schedule: Schedule, n: int) -> np.ndarray:
    return schedule.time_of(np.linspace(*_ends(schedule), n))


SPACINGS: dict[str, Callable[[Schedule, int], np.ndarray]] = {
    "compvis": lambda schedule, n: uniform_timesteps(len(schedule), n)[::-1],
    "leading": _leading,
    "trailing": _trailing,
    "linspace": _linspace,
    "lcm": _lcm,
    "quadratic": _quadratic,
    "karras": _karras,
    "log_snr": _log_snr,
}
"""By name: (schedule, n) to the times where n steps begin, decreasing. Leading, trailing and linspace are those of Lin
et al. (https://arxiv.org/abs/2305.08891, table 2); quadratic that of DDIM (https://arxiv.org/abs/2010.02502, app. D.2);
lcm takes n of the 50 trailing times on which latent consistency models are trained (https://arxiv.org/abs/2310.04378,
section 4.3); karras that of Karras et al. (https://arxiv.org/abs/2206.00364, eq. 5) between the schedule's own levels;
log_snr that of DPM-Solver (https://arxiv.org/abs/2206.00927, appendix D.4)."""


def make_grid(schedule: Schedule, num_steps: int, spacing: str) -> Grid:
    """Returns the grid of a spacing.

    Args:
      schedule: of T times.
      num_steps: in [1, T]; "compvis" gives more where the number does not divide T.
      spacing: a name in `SPACINGS`.

    Raises:
      UserError: the spacing is unknown, or the number of steps does not fit the schedule.
    """
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    if spacing == "compvis":
        return grid_through(schedule, np.append(SPACINGS[spacing](schedule, num_steps), 0))
    most = len(schedule)
    if not 1 <= num_steps <= most:
        raise UserError(f"{num_steps} sampling steps do not fit a schedule of {most} timesteps; use 1 to {most}")
    grid = grid_through(schedule, SPACINGS[spacing](schedule, num_steps))
    return Grid(np.append(grid.t, 0).astype(grid.t.dtype), np.append(grid.alpha, 1.0), np.append(grid.sigma, 0.0))


def grid_through(schedule: Schedule, t: np.ndarray) -> Grid:
    """Returns the grid through n + 1 decreasing times, integers or floats in [0, T - 1]."""
    alpha, sigma = schedule.at(t)
    return Grid(t, alpha, sigma)
