"""DDIM steps of variance-preserving diffusion as rotations, and the velocity of one step that replaces several.

With alpha = cos(phi) and sigma = sin(phi), z = cos(phi) x0 + sin(phi) eps lies on a circle and v = dz/dphi is the
velocity along it. A deterministic step from phi to phi' rotates z by delta = phi - phi':
z' = cos(delta) z - sin(delta) v (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, eq. 43).
"""

from __future__ import annotations

from jaxtyping import Array, Float

from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.parameterization import Prediction, per_image


def rotate(prediction: Prediction, info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns the latent after a deterministic step, alpha' x0 + sigma' eps."""
    alpha, sigma = (per_image(info.coefficients[name], prediction.x0.ndim) for name in ("alpha_next", "sigma_next"))
    return alpha * prediction.x0 + sigma * prediction.eps


def velocity(prediction: Prediction, info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns the velocity v = alpha eps - sigma x0 of a prediction."""
    alpha, sigma = (per_image(info.coefficients[name], prediction.x0.ndim) for name in ("alpha", "sigma"))
    return alpha * prediction.eps - sigma * prediction.x0


def velocity_to(z: Float[Array, "b h w c"], z_next: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns the velocity with which one step leads from z to z_next, (cos(delta) z - z_next) / sin(delta).

    Args:
      z: the latent at the begin of the step.
      z_next: the latent at its end.
      info: the step; its two levels differ.
    """
    cosine, sine = _turn(info, z.ndim)
    return (cosine * z - z_next) / sine


def rotate_back(
    z_next: Float[Array, "b h w c"], velocity: Float[Array, "b h w c"], info: StepInfo
) -> Float[Array, "b h w c"]:
    """Returns the latent from which a velocity leads to z_next in one step, (z_next + sin(delta) v) / cos(delta)."""
    cosine, sine = _turn(info, z_next.ndim)
    return (z_next + sine * velocity) / cosine


def _turn(info: StepInfo, ndim: int) -> tuple[Float[Array, "*_"], Float[Array, "*_"]]:
    """Returns cosine and sine of the angle of a step."""
    alpha, sigma, alpha_next, sigma_next = (
        per_image(info.coefficients[name], ndim) for name in ("alpha", "sigma", "alpha_next", "sigma_next")
    )
    return alpha * alpha_next + sigma * sigma_next, sigma * alpha_next - alpha * sigma_next
