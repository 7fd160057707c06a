"""The reverse stochastic equation along a path: SiT (https://arxiv.org/abs/2401.08740), section 2.4 and appendix.

dx = (u + w score) ds + sqrt(2 w) dW, where u is the velocity and score = -eps / sigma: any diffusion w(s) >= 0 gives
images of the same distribution. The last step is longer and has no fresh noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.interpolants import Path, Times, path_of
from rdm_jax.diffusion.samplers.interpolant import METHODS, AlongPath, entries, plan_of
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid


def _sbdm(path: Path, s: Times) -> Times:
    with np.errstate(divide="ignore", invalid="ignore"):  # infinite at noise, where alpha is 0
        growth = path.alpha_rate(s) / path.alpha(s)
        return growth * path.sigma(s) ** 2 - path.sigma(s) * path.sigma_rate(s)


DIFFUSIONS: dict[str, Callable[[Path, Times], Times]] = {
    "constant": lambda path, s: np.ones_like(s),
    "sbdm": _sbdm,
    "sigma": lambda path, s: path.sigma(s),
    "linear": lambda path, s: 1.0 - s,
    "decreasing": lambda path, s: 0.25 * (np.cos(np.pi * s) + 1.0) ** 2,
    "increasing_decreasing": lambda path, s: np.sin(np.pi * s) ** 2,
}
"""By name: w at times of a path. "sbdm" is that of score-based diffusion (https://arxiv.org/abs/2011.13456)."""
LAST_STEPS = ("tweedie", "mean", "euler")
SDE_METHODS = ("euler", "heun2")


@dataclasses.dataclass(frozen=True)
class InterpolantSDE(AlongPath):
    """Integrates the reverse stochastic equation.

    n steps evaluate the network n times by Euler-Maruyama (`method` "euler"), 2 n - 1 times by Heun's method, which
    adds its noise first.

    Attributes:
      diffusion: a name in `DIFFUSIONS`.
      last: the last step: "tweedie" takes the predicted image, "mean" the step of the equation without its noise,
        "euler" that of the velocity alone.
      last_size: its length with the spacing "path", above 0 and below 1.

    Raises:
      UserError: a name is unknown, or a number is out of range.
    """

    diffusion: str = "sigma"
    last: str = "tweedie"
    last_size: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, allowed in (("diffusion", DIFFUSIONS), ("last", LAST_STEPS), ("method", SDE_METHODS)):
            if getattr(self, what) not in allowed:
                raise unknown(what, getattr(self, what), allowed)
        if not 0 < self.last_size < 1.0 - self.margin:
            raise UserError(f"last_size {self.last_size} is out of range; give more than 0, less than 1 - margin")

    @property
    def needs_noise(self) -> bool:
        """Whether its steps sample noise."""
        return True

    def times(self, first: float, num_steps: int) -> Float64[np.ndarray, " levels"]:
        """Returns n even times up to the beginning of the last step, and the image."""
        return np.append(np.linspace(first, 1.0 - self.last_size, num_steps), 1.0)

    def plan_on(self, grid: Grid, schedule: Schedule) -> StepInfo:
        """Returns the plan of the steps through a grid.

        Coefficients beside those of `interpolant.entries`: the standard deviations of the fresh noise at the beginning
        of an entry, `noise_before` of x itself, and at its end, `noise_after` in the coordinates of the path.
        """
        path, method = path_of(self.path), METHODS[self.method]
        s, slots = path.time_of(grid.log_snr), len(method.nodes)
        steps = entries(schedule, path, s[:-1], method, slots)
        last = entries(schedule, path, s[-2:], METHODS["euler"], slots)
        for part in (steps, last):
            part["noise_before"], part["noise_after"] = np.zeros_like(part["s"]), np.zeros_like(part["s"])
        deviation = np.sqrt(2.0 * self._diffusion(path, s[:-2]) * np.diff(s[:-1]))
        if slots > 1:
            steps["noise_before"][::slots] = deviation / steps["scale"][::slots]
        else:
            steps["noise_after"] = deviation
        self._add_score(path, steps)
        if self.last == "mean":
            self._add_score(path, last)
        if self.last == "tweedie":  # x + 1 (x0 - x), where x = alpha x0 + sigma eps
            last |= {"of_x0": 1.0 - path.alpha(s[-2:-1]), "of_eps": -path.sigma(s[-2:-1]), "of_drift_0": np.ones(1)}
        return plan_of(self, {name: np.concatenate([steps[name], last[name]]) for name in steps})

    def _diffusion(self, path: Path, s: Times) -> Times:
        return DIFFUSIONS[self.diffusion](path, s)

    def _add_score(self, path: Path, part: dict[str, np.ndarray]) -> None:
        """Adds w score = -w eps / sigma to the velocity of entries."""
        part["of_eps"] = part["of_eps"] - self._diffusion(path, part["s"]) / path.sigma(part["s"])
