"""Samplers, one per file, and `SAMPLERS`, the table of their names."""

from __future__ import annotations

from rdm_jax.diffusion.samplers.base import Sampler, num_steps, sample, sample_chunk, slice_steps, with_keys
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.samplers.ddpm import DDPM
from rdm_jax.diffusion.samplers.dpmpp_2m import DPMpp2M
from rdm_jax.diffusion.samplers.dpmpp_2m_sde import DPMpp2MSDE
from rdm_jax.diffusion.samplers.dpmpp_2s import DPMpp2S
from rdm_jax.diffusion.samplers.euler import Euler
from rdm_jax.diffusion.samplers.heun import Heun
from rdm_jax.diffusion.samplers.interpolant_ode import InterpolantODE
from rdm_jax.diffusion.samplers.interpolant_sde import InterpolantSDE
from rdm_jax.diffusion.samplers.lcm import LCM
from rdm_jax.diffusion.samplers.plms import PLMS
from rdm_jax.diffusion.samplers.unipc import UniPC

__all__ = ["SAMPLERS", "Sampler", "num_steps", "sample", "sample_chunk", "slice_steps", "with_keys"]

SAMPLERS = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "plms": PLMS,
    "euler": Euler,
    "heun": Heun,
    "dpmpp_2s": DPMpp2S,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_2m_sde": DPMpp2MSDE,
    "unipc": UniPC,
    "lcm": LCM,
    "interpolant_ode": InterpolantODE,
    "interpolant_sde": InterpolantSDE,
}
