"""The noise that DDIM maps to an image, by inversion (Song et al. 2021, https://arxiv.org/abs/2010.02502, eq. 14).

An inverse step needs the prediction at its noisy end, which is unknown. The usual approximation uses the prediction at
the other end; here fixed-point iterations correct it (Pan et al. 2023, https://arxiv.org/abs/2309.04907), so that
sampling returns to the image.

The iterations are on the velocity (see `diffusion.rotation`): those on eps have a factor of 1 at the noisy end of a
schedule and do not converge there. A guided velocity depends on the latent too strongly at that end, and eps is used.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax import factory
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_uint8
from rdm_jax.diffusion.denoiser import Denoiser, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.rotation import rotate_back, velocity
from rdm_jax.diffusion.samplers import sample
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.editing.support import require
from rdm_jax.generator import Generator, Plan
from rdm_jax.heads.diffusion.program import Inputs, conditioned_denoiser, inputs_of


def ddim_inversion(
    denoiser: Denoiser, steps: StepInfo, x0: Float[Array, "b h w c"], iterations: int = 3, guided: bool = False
) -> Float[Array, "b h w c"]:
    """Returns the noise from which DDIM's steps lead to x0.

    Args:
      denoiser: the network under its condition.
      steps: DDIM's plan, with eta 0.
      x0: the latent of the image, at the noise level where the plan ends.
      iterations: evaluations of the network for each step; 1 is the usual approximation.
      guided: whether the denoiser is guided.
    """

    def inverse_step(x_next: Array, info: StepInfo) -> tuple[Array, None]:
        """Returns the latent before one step."""

        def refine(_: Any, x_t: Array) -> Array:
            """Returns a better estimate, by the prediction at the previous one."""
            prediction = denoiser(x_t, info)
            if not guided:
                return rotate_back(x_next, velocity(prediction, info), info)
            c = {name: per_image(value, x_next.ndim) for name, value in info.coefficients.items()}
            ratio = c["alpha"] / c["alpha_next"]
            return ratio * x_next + (c["sigma"] - ratio * c["sigma_next"]) * prediction.eps

        return jax.lax.fori_loop(0, iterations, refine, x_next), None

    return jax.lax.scan(inverse_step, x0, steps, reverse=True)[0]


@dataclasses.dataclass(frozen=True)
class Inversion:
    """An image's noise, and the image that it leads to.

    Attributes:
      noise: [1, h, w, c] from which sampling leads to the image.
      latent_error: the root mean square difference of the image's latent and the one sampled from the noise, relative
        to the former.
      image: [h, w, 3] sampled from the noise.
      decoded: [h, w, 3] the image after the autoencoder alone, the best that any latent can reach.
    """

    noise: Float[np.ndarray, "1 h w c"]
    latent_error: float
    image: Any
    decoded: Any


def invert(generator: Generator, plan: Plan, iterations: int = 3) -> Inversion:
    """Returns the noise of the image that a plan starts from, its option `init`, under the plan's conditions.

    Raises:
      UserError: the head does not support inversion, or the sampler is not DDIM with eta 0, or there are guides.
    """
    require(generator, "inversion")
    sampler = plan.run.sampler
    if not isinstance(sampler, DDIM) or sampler.eta or plan.run.guides:
        raise UserError("inversion reverses DDIM: use --sampler ddim, eta 0 and no guides")
    if iterations < 1:
        raise UserError(f"iterations {iterations} is too small; use 1 or more")
    bundle, first = generator.bundle, np.zeros(1, np.int64)
    params = {name: bundle.params[name] for name in ("denoiser", "autoencoder")}
    decode = factory.decoder_from(bundle.autoencoder, bundle.config["latents"])

    @jax.jit
    def invert_and_sample(params: Any, inputs: Inputs, x0: Array) -> tuple[Array, Array, Array, Array]:
        """Returns the noise, the latent that it leads to, and both latents decoded."""
        denoiser = conditioned_denoiser(bundle, params, inputs, guided=plan.run.guided)
        noise = ddim_inversion(denoiser, inputs.infos, x0, iterations, plan.run.guided)
        again = sample(sampler, inputs.infos, noise, denoiser)
        return noise, again, decode(params["autoencoder"], again), decode(params["autoencoder"], x0)

    x0 = jnp.asarray(plan.run.start.latent)
    noise, again, image, decoded = map(np.asarray, invert_and_sample(params, inputs_of(plan, first, first), x0))
    if not np.isfinite(noise).all():
        raise UserError(f"the inversion diverged at guidance scale {plan.options.guidance_scale}; use 1")
    error = float(np.sqrt(np.mean(np.square(again - x0)) / np.mean(np.square(x0))))
    height, width = plan.request.height, plan.request.width  # what the image was padded with is left out
    return Inversion(noise, error, to_uint8(image)[0, :height, :width], to_uint8(decoded)[0, :height, :width])
