"""What the two samplers along the path of a stochastic interpolant share (SiT, https://arxiv.org/abs/2401.08740).

Both integrate in the path's own coordinates and time (`interpolants.PATHS`), by a Runge-Kutta method whose stages are
entries of a plan with one evaluation each. Between two entries x is at the variance-preserving level of the schedule,
so any model can be sampled along any path.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.diffusion.denoiser import Denoiser, Prediction, StepInfo
from rdm_jax.diffusion.interpolants import Path, path_of
from rdm_jax.diffusion.samplers.base import OnGrid, coefficients_of, fresh_noise, plan_steps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid, make_grid

OWN_SPACING = "path"
"""The spacing of evenly spread times of the path."""


@dataclasses.dataclass(frozen=True)
class Method:
    """An explicit Runge-Kutta method of S stages.

    Attributes:
      nodes: [S] where in a step each stage evaluates the drift, 0 at its start.
      rows: S - 1 rows, the weights of the drifts so far in the input of the stages after the first.
      weights: [S] of the drifts in the step.
    """

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


METHODS: dict[str, Method] = {
    "euler": Method((0.0,), (), (1.0,)),
    "midpoint": Method((0.0, 0.5), ((0.5,),), (0.0, 1.0)),
    "heun2": Method((0.0, 1.0), ((1.0,),), (0.5, 0.5)),
    "heun3": Method((0.0, 1 / 3, 2 / 3), ((1 / 3,), (0.0, 2 / 3)), (0.25, 0.0, 0.75)),
    "rk4": Method((0.0, 1 / 3, 2 / 3, 1.0), ((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    "dopri5": Method(
        (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
}
"""By the names of torchdiffeq, which SiT's programs call. `dopri5` has steps of a fixed size here, as all of them."""


@flax.struct.dataclass
class PathCarry:
    """The state between two stages.

    Attributes:
      x: [b, h, w, c] the input of the next evaluation, at its variance-preserving level.
      start: [b, h, w, c] x at the beginning of the step, in the coordinates of the path.
      drifts: S of [b, h, w, c], those of the step's stages.
    """

    x: Any  # as in StepInfo
    start: Any
    drifts: Any


@dataclasses.dataclass(frozen=True)
class AlongPath(OnGrid):
    """A sampler along the path of a stochastic interpolant.

    Attributes:
      spacing: of the times; "path" spreads them evenly over the path's own.
      path: a name in `interpolants.PATHS`.
      method: a name in `METHODS`.
      margin: the fraction of the path that is left out at an end of noise alone, and without fresh noise in the steps
        at the image too, below 1/2: predictions of noise or score need some of it, 0.001 in SiT's programs.

    Raises:
      UserError: a name is unknown, or the margin is out of range.
    """

    spacing: str = OWN_SPACING
    path: str = "linear"
    method: str = "euler"
    margin: float = 0.0

    def __post_init__(self) -> None:
        path_of(self.path)
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if not 0 <= self.margin < 0.5:
            raise UserError(f"margin {self.margin} is out of range; give 0 (the whole path) or more, below 0.5")

    def grid(self, schedule: Schedule, num_steps: int) -> Grid:
        """Returns the grid of `spacing`.

        Raises:
          UserError: the spacing is unknown, or the number of steps does not fit the schedule.
        """
        if self.spacing != OWN_SPACING:
            return make_grid(schedule, num_steps, self.spacing)
        if not 1 <= num_steps <= len(schedule):
            raise UserError(
                f"{num_steps} sampling steps do not fit a schedule of {len(schedule)} timesteps; use 1 to "
                f"{len(schedule)}"
            )
        path = path_of(self.path)
        noisiest = float(path.time_of(np.array([schedule.noisiest]))[0])
        margin = 0.0 if path.alpha(np.zeros(1)).any() else self.margin
        s = self.times(max(margin, noisiest), num_steps)
        alpha, sigma = path.levels(s)
        return Grid(schedule.time_of(path.log_snr(s)), alpha, sigma)

    @abc.abstractmethod
    def times(self, first: float, num_steps: int) -> Float64[np.ndarray, " levels"]:
        """Returns the n + 1 times of the path from `first` on, increasing."""

    def init(self, x: Float[Array, "b h w c"]) -> PathCarry:
        """Returns the carry before the first step."""
        drifts = tuple(jnp.zeros_like(x) for _ in METHODS[self.method].nodes)
        return PathCarry(x=x, start=jnp.zeros_like(x), drifts=drifts)

    def step(self, carry: PathCarry, info: StepInfo, denoiser: Denoiser) -> tuple[PathCarry, Prediction]:
        """Returns the carry after one stage, and the prediction in it.

        Raises:
          ValueError: the steps sample noise and this one has no keys.
        """
        c = coefficients_of(info, carry.x.ndim)
        noise = fresh_noise(info, carry.x.shape[1:], "a stochastic path") if self.needs_noise else None
        x = carry.x if noise is None else carry.x + c["noise_before"] * noise
        start = jnp.where(c["stage"] == 0, c["scale"] * x, carry.start)
        prediction = denoiser(x, info)
        drift = c["of_x0"] * prediction.x0 + c["of_eps"] * prediction.eps
        drifts = tuple(jnp.where(c["stage"] == i, drift, before) for i, before in enumerate(carry.drifts))
        following = start + sum(c[f"of_drift_{i}"] * each for i, each in enumerate(drifts))
        following = following if noise is None else following + c["noise_after"] * noise
        return PathCarry(following / c["scale_next"], start, drifts), prediction


def entries(
    schedule: Schedule, path: Path, s: Float64[np.ndarray, " levels"], method: Method, slots: int
) -> dict[str, np.ndarray]:
    """Returns the entries of a plan for n steps of a method, one for each of the n S stages, [n S] each.

    Beside `t`, `t_next` and the levels there are `s`, the path's time of the stage, and `stage`, its number; `scale`
    and `scale_next`, the path's x by the variance-preserving one; `of_x0` and `of_eps`, which give the path's velocity;
    `of_drift_I`, the factors of the stages' drifts in the next input.

    Args:
      schedule: for the times of the network.
      path: of the sampler.
      s: the ends of the steps.
      method: of the steps.
      slots: how many drifts the carry has, at least S.
    """
    nodes, h = np.asarray(method.nodes), np.diff(s)
    # A node at 1 is the step's own end, to the bit: the end of a path is an end.
    at = np.where(nodes == 1.0, s[1:, None], s[:-1, None] + h[:, None] * nodes)
    following = np.concatenate([at[:, 1:], s[1:, None]], axis=1).reshape(-1)
    at, of_step = at.reshape(-1), np.repeat(h, len(nodes))
    weights = np.zeros((slots, len(nodes)))
    for stage, row in enumerate((*method.rows, method.weights)):
        weights[: len(row), stage] = row
    stages = {
        "s": at,
        "stage": np.tile(np.arange(len(nodes)), len(h)),
        "of_x0": path.alpha_rate(at),
        "of_eps": path.sigma_rate(at),
        **{f"of_drift_{i}": of_step * np.tile(weights[i], len(h)) for i in range(slots)},
    }
    for end, times in {"": at, "_next": following}.items():
        alpha, sigma = path.levels(times)
        stages |= {f"t{end}": schedule.time_of(path.log_snr(times)), f"scale{end}": path.scale(times)}
        stages |= {f"alpha{end}": alpha, f"sigma{end}": sigma}
    return stages


def plan_of(sampler: AlongPath, stages: dict[str, np.ndarray]) -> StepInfo:
    """Returns the plan of entries; raises UserError where their drift is infinite, at an end of the path."""
    wrong = ~np.isfinite(stages["of_x0"]) | ~np.isfinite(stages["of_eps"])
    if wrong.any():
        raise UserError(
            f"the drift of path {sampler.path!r} is infinite at {stages['s'][wrong][0]:g} of it; give the sampler a "
            "margin, as margin=0.001"
        )
    own = {name: values for name, values in stages.items() if name not in ("s", "t", "t_next")}
    return plan_steps(stages["t"], stages["t_next"], **own)
