"""The channels that models take beside the noisy latent: an image of which a part is known, its mask, a small image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import read_image, to_float


@dataclasses.dataclass(frozen=True)
class Channels:
    """What a model takes beside the noisy latent.

    Attributes:
      pieces: in order: the "image", its "mask", and the "low_resolution" image that is upscaled.
      hole: the value of the pixels that are generated, in [-1, 1].
      known: what stands in the mask for known pixels.
      generated: what stands in it for pixels that are generated.
      method: the guide that keeps the known part by default, a name in `guidance.GUIDES`.
    """

    pieces: tuple[str, ...]
    hole: float = 0.0
    known: float = 0.0
    generated: float = 1.0
    method: str = "paste"

    @property
    def inpaints(self) -> bool:
        """Whether there is a mask."""
        return "mask" in self.pieces


LAYOUTS: Mapping[str, Channels] = {
    "inpainting": Channels(("mask", "image")),  # Stable Diffusion
    "latents+mask": Channels(("image", "mask"), hole=-1.0, known=-1.0),  # latent diffusion
    "known+mask": Channels(("image", "mask"), known=1.0, generated=0.0, method="project"),  # GLIDE, and below
    "low_resolution": Channels(("low_resolution",)),
    "known+mask+low_resolution": Channels(
        ("image", "mask", "low_resolution"), known=1.0, generated=0.0, method="project"
    ),
}
"""By the entry "channels" of a bundle's section "conditioning"."""


def channels_of(config: Mapping[str, Any]) -> str:
    """Returns the name in `LAYOUTS` of a model's channels; "" if it has none.

    Raises:
      UserError: the name is unknown.
    """
    name = config["conditioning"].get("channels", "")
    if name and name not in LAYOUTS:
        raise unknown("kind of channels", str(name), LAYOUTS)
    return str(name)


def inpainting_of(config: Mapping[str, Any]) -> str:
    """Returns the name in `LAYOUTS` of a model's channels if they have a mask; otherwise ""."""
    name = channels_of(config)
    return name if name and LAYOUTS[name].inpaints else ""


def upscales(config: Mapping[str, Any]) -> bool:
    """Returns whether a model's channels have the image that it upscales."""
    name = channels_of(config)
    return bool(name) and "low_resolution" in LAYOUTS[name].pieces


def upscaling_of(config: Mapping[str, Any], downsampling: int) -> int:
    """Returns the pixels of a result for each pixel of the image that is upscaled, on each side.

    Args:
      config: of a bundle.
      downsampling: of its first stage, which is the factor where the small image lies beside the latent.
    """
    return int(config["conditioning"].get("upscaling", downsampling))


FILTERS = {"bilinear": "bilinear", "bicubic": "cubic"}
"""By the entry "filter" of a bundle's section "conditioning": how a small image is enlarged."""


def enlarged(
    file: str, size: tuple[int, int], latent: tuple[int, int], model: str, method: str = "bilinear"
) -> Float[np.ndarray, "latent_h latent_w 3"]:
    """Returns the image that is upscaled as channels of a model of pixels, interpolated.

    Args:
      file: of the image.
      size: (height, width) of the result.
      latent: the same with padding.
      model: its name, for the error.
      method: a name in `FILTERS`.

    Raises:
      UserError: the file is missing or no image, or the filter is unknown.
    """
    if method not in FILTERS:
        raise unknown("filter", method, FILTERS)
    if not file:
        raise UserError(f"model {model!r} upscales an image; give it by `rdm edit upscale --image`")
    small = to_float(read_image(file))
    large = np.asarray(jax.image.resize(small, (*size, 3), FILTERS[method], antialias=False))
    return np.pad(large, [(0, latent[0] - size[0]), (0, latent[1] - size[1]), (0, 0)], mode="edge")
