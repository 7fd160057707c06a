"""A small image as channels beside the noisy latent: super-resolution.

Rombach et al. 2022, Latent Diffusion (https://arxiv.org/abs/2112.10752), section 4.4.
"""

from __future__ import annotations

from pathlib import Path

from rdm_jax.conditioning.inputs.base import Given, Input, Target
from rdm_jax.core.images import fit, pad, read_image, to_float
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request


class LowResolution(Input):
    """The image that is upscaled: one of its pixels lies beside each pixel of the latent."""

    option = "low_resolution"
    what = "an image to upscale"

    def read(self, request: Request, target: Target) -> Given:
        """Returns the channels of the image; raises UserError if it cannot be read."""
        factor = target.bundle.autoencoder.downsampling
        height, width = -(-request.height // factor), -(-request.width // factor)
        image = fit(read_image(request.low_resolution), height, width)
        channels = to_float(pad(image, *target.latent))[None]
        return Given(f"image {Path(request.low_resolution).name}", Condition(target.no_tokens, channels=channels))


def upscaled_size(file: str, factor: int) -> tuple[int, int]:
    """Returns (height, width) of an image file after upscaling; raises UserError if it cannot be read."""
    height, width = read_image(file).shape[:2]
    return height * factor, width * factor
