"""Paths of stochastic interpolants: x_s = alpha(s) x0 + sigma(s) eps, where s goes from 0, noise, to 1, the image.

Those of SiT (Ma et al. 2024, https://arxiv.org/abs/2401.08740, table 2), whose programs count time from the noise. A
path need not preserve the variance: divided by sqrt(alpha^2 + sigma^2), its levels are those of any other schedule, so
that a path is a way to count time, and a model that is trained on one can be sampled along another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from rdm_jax.core.errors import unknown

Times = Float64[np.ndarray, " n"]
Of = Callable[[Times], Times]


@dataclasses.dataclass(frozen=True)
class Path:
    """The factors of a path, their derivatives by s, and the time of a level; all are functions of arrays [n].

    Attributes:
      alpha: the image's factor at s.
      sigma: the noise's.
      alpha_rate: d alpha / d s.
      sigma_rate: d sigma / d s.
      time_of: s at which log(alpha / sigma) has a value, which may be infinite.
    """

    alpha: Of
    sigma: Of
    alpha_rate: Of
    sigma_rate: Of
    time_of: Of

    def scale(self, s: Times) -> Times:
        """Returns sqrt(alpha^2 + sigma^2), by which the path's x is larger than the variance-preserving one."""
        return np.hypot(self.alpha(s), self.sigma(s))

    def levels(self, s: Times) -> tuple[Times, Times]:
        """Returns the variance-preserving (alpha, sigma)."""
        return self.alpha(s) / self.scale(s), self.sigma(s) / self.scale(s)

    def log_snr(self, s: Times) -> Times:
        """Returns log(alpha / sigma), infinite at the ends of a path that reaches them."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha(s)) - np.log(self.sigma(s))


BETA_START, BETA_END = 0.1, 20.0  # of the variance-preserving diffusion, at the image and at noise


def _log_alpha(s: Times) -> Times:
    left = 1.0 - s
    return -0.25 * left**2 * (BETA_END - BETA_START) - 0.5 * left * BETA_START


def _beta(s: Times) -> Times:
    return BETA_START + (1.0 - s) * (BETA_END - BETA_START)


def _vp_sigma(s: Times) -> Times:
    return np.sqrt(-np.expm1(2.0 * _log_alpha(s)))


def _vp_sigma_rate(s: Times) -> Times:
    with np.errstate(divide="ignore"):  # infinite at the image
        return -np.exp(2.0 * _log_alpha(s)) * _beta(s) / 2.0 / _vp_sigma(s)


def _vp_time(log_snr: Times) -> Times:
    # log alpha is quadratic in 1 - s.
    log_alpha = -0.5 * np.logaddexp(0.0, -2.0 * log_snr)
    quadratic, linear = 0.25 * (BETA_END - BETA_START), 0.5 * BETA_START
    return 1.0 - (np.sqrt(linear**2 - 4.0 * quadratic * log_alpha) - linear) / (2.0 * quadratic)


PATHS: dict[str, Path] = {
    "linear": Path(
        alpha=lambda s: s,
        sigma=lambda s: 1.0 - s,
        alpha_rate=np.ones_like,
        sigma_rate=lambda s: -np.ones_like(s),
        time_of=lambda log_snr: np.exp(-np.logaddexp(0.0, -log_snr)),
    ),
    "gvp": Path(
        alpha=lambda s: np.sin(s * np.pi / 2),
        sigma=lambda s: np.sin((1.0 - s) * np.pi / 2),  # the cosine of s, exactly 0 at its end
        alpha_rate=lambda s: np.cos(s * np.pi / 2) * np.pi / 2,
        sigma_rate=lambda s: -np.sin(s * np.pi / 2) * np.pi / 2,
        time_of=lambda log_snr: np.arctan(np.exp(np.minimum(log_snr, 700.0))) * 2 / np.pi,
    ),
    "vp": Path(
        alpha=lambda s: np.exp(_log_alpha(s)),
        sigma=_vp_sigma,
        alpha_rate=lambda s: np.exp(_log_alpha(s)) * _beta(s) / 2.0,
        sigma_rate=_vp_sigma_rate,
        time_of=_vp_time,
    ),
}
"""By name: the straight line; the quarter of a circle, which preserves the variance (the generalized
variance-preserving path); and the diffusion of Song et al. (https://arxiv.org/abs/2011.13456), with linear betas."""


def path_of(name: str) -> Path:
    """Returns the path of a name in `PATHS`; raises UserError if there is none."""
    if name not in PATHS:
        raise unknown("path", name, PATHS)
    return PATHS[name]
