"""The times that a sampler visits: grids of noise levels through a schedule, by name.

A grid ends at the level without noise (alpha = 1, sigma = 0), as in k-diffusion and diffusers; only "compvis" ends at
t = 0, the schedule's least noisy time. Fractional times interpolate the logarithm of the signal-to-noise ratio; time
embeddings accept them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

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


def _even_stride(schedule: Schedule, n: int) -> np.ndarray:
    most = len(schedule)
    stride = next((one for one in range(1, most + 1) if len(range(0, most, one)) == n), None)
    if stride is None:
        below, above = (len(range(0, most, most // n + more)) for more in (1, 0))
        raise UserError(
            f"{n} sampling steps do not fit the spacing 'ddim': no whole stride takes as many of {most} times; use "
            f"{below} or {above}"
        )
    return np.arange(0, most, stride)[::-1]


def section_times(num_timesteps: int, counts: Sequence[int]) -> Int[np.ndarray, " n"]:
    """Returns the times of equal sections of a schedule, each with its own number of evenly spread times, descending.

    The first and the last time of a section are among them; this is the respacing of guided diffusion (Nichol &
    Dhariwal 2021, https://arxiv.org/abs/2102.09672, section 4).

    Args:
      num_timesteps: T, the length of the schedule; the first sections are longer by 1 where it is no multiple.
      counts: the number of times in each section, from the image to noise.

    Raises:
      UserError: a section has fewer times than are requested of it, or 0 are requested.
    """
    sizes = [len(part) for part in np.array_split(np.arange(num_timesteps), len(counts))]
    times: list[np.ndarray] = []
    for number, (size, count) in enumerate(zip(sizes, counts, strict=True), 1):
        if not 1 <= count <= size:
            raise UserError(
                f"section {number} of the spacing {','.join(map(str, counts))} has {size} times, and {count} are "
                f"requested; use 1 to {size}"
            )
        # Summed up one by one, as in the original: halves are then rounded as there.
        strides = np.full(count - 1, (size - 1) / max(count - 1, 1))
        places = np.concatenate([np.zeros(1), np.cumsum(strides)])
        times.append(sum(sizes[: number - 1]) + np.round(places).astype(np.int64))
    return np.concatenate(times)[::-1]


def _fast27(schedule: Schedule) -> np.ndarray:
    times = section_times(len(schedule), (10, 10, 3, 2, 2))
    # The noisiest time of a linear schedule is left out; so does GLIDE's program.
    return np.concatenate([[times[0] - 2], times[1:]])


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
    "ddim": _even_stride,
}
"""By name: (schedule, n) to the times where n steps begin, decreasing. Leading, trailing and linspace are those of Lin
et al. (https://arxiv.org/abs/2305.08891, table 2); quadratic that of DDIM (https://arxiv.org/abs/2010.02502, app. D.2);
lcm takes n of the 50 trailing times on which latent consistency models are trained (https://arxiv.org/abs/2310.04378,
section 4.3); karras that of Karras et al. (https://arxiv.org/abs/2206.00364, eq. 5) between the schedule's own levels;
log_snr that of DPM-Solver (https://arxiv.org/abs/2206.00927, appendix D.4); ddim, of guided diffusion, takes every
k-th time from 0 on, with the smallest whole k that gives n times."""

WITH_OWN_STEPS: dict[str, tuple[int, Callable[[Schedule], np.ndarray]]] = {"fast27": (27, _fast27)}
"""By name: spacings of a fixed number of steps, and the times. fast27 is that of GLIDE's upsampler."""

_SECTIONS = re.compile(r"\d+(,\d+)*")


def check_spacing(name: str) -> None:
    """Raises UserError unless a text is a spacing: a name, or numbers of steps of equal sections, "10,15,20"."""
    if name not in SPACINGS and name not in WITH_OWN_STEPS and not _SECTIONS.fullmatch(name):
        known = [*SPACINGS, *WITH_OWN_STEPS]
        raise unknown("spacing", name, known, hint="or give the steps of equal sections of the schedule, 10,15,20")


def _times(schedule: Schedule, num_steps: int, spacing: str) -> np.ndarray:
    """Returns the times where steps begin, decreasing."""
    if spacing in SPACINGS:
        return SPACINGS[spacing](schedule, num_steps)
    if spacing in WITH_OWN_STEPS:
        times = WITH_OWN_STEPS[spacing][1](schedule)
    else:
        times = section_times(len(schedule), [int(count) for count in spacing.split(",")])
    if len(times) != num_steps:
        raise UserError(
            f"spacing {spacing!r} has {len(times)} steps, and {num_steps} are requested; use {len(times)} steps"
        )
    return times


def make_grid(schedule: Schedule, num_steps: int, spacing: str) -> Grid:
    """Returns the grid of a spacing.

    Args:
      schedule: of T times.
      num_steps: in [1, T]; "compvis" gives more where the number does not divide T.
      spacing: see `check_spacing`.

    Raises:
      UserError: the spacing is unknown, or the number of steps does not fit the schedule or the spacing.
    """
    check_spacing(spacing)
    if spacing == "compvis":
        return grid_through(schedule, np.append(SPACINGS[spacing](schedule, num_steps), 0))
    most = len(schedule)
    if not 1 <= num_steps <= most:
        raise UserError(f"{num_steps} sampling steps do not fit a schedule of {most} timesteps; use 1 to {most}")
    grid = grid_through(schedule, _times(schedule, num_steps, spacing))
    return Grid(np.append(grid.t, 0).astype(grid.t.dtype), np.append(grid.alpha, 1.0), np.append(grid.sigma, 0.0))


def grid_through(schedule: Schedule, t: np.ndarray) -> Grid:
    """Returns the grid through n + 1 decreasing times, integers or floats in [0, T - 1]."""
    alpha, sigma = schedule.at(t)
    return Grid(t, alpha, sigma)
