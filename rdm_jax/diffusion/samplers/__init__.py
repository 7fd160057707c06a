"""Ways from noise to a picture, one per file; `make_sampler` finds them by name."""

from __future__ import annotations

from rdm_jax.core.errors import unknown
from rdm_jax.diffusion.samplers.base import Sampler, num_steps, sample, sample_chunk, slice_steps, with_keys
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.samplers.plms import PLMS

__all__ = ["SAMPLERS", "Sampler", "make_sampler", "num_steps", "sample", "sample_chunk", "slice_steps", "with_keys"]

SAMPLERS = {"ddim": DDIM, "plms": PLMS}


def make_sampler(name: str, **options: float) -> Sampler:
    """Returns the sampler of that name with its own options (eta of "ddim").

    Raises:
      UserError: the name is not in `SAMPLERS`.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name](**options)
