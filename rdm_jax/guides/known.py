"""What is known of a picture stays: by blending after each step, or by projecting what is believed of x0."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, UInt8

from rdm_jax.core import images
from rdm_jax.guidance.inpainting import inpainting
from rdm_jax.guidance.projection import known_region
from rdm_jax.guides.base import Bend, Kind, Networks, Scene, read_mask, read_picture, required


@dataclasses.dataclass(frozen=True)
class _Known(Kind):
    """A picture, and a mask of its size that is white where it is painted anew."""

    image: str = ""
    mask: str = ""

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the picture's latent and the mask."""
        known = scene.latent_of(required("image", self.image, "a picture's file"))
        return {"known": known, "mask": scene.mask_of(required("mask", self.mask, "a mask's file"))}

    def finish(self, pictures: UInt8[np.ndarray, "b h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns the pictures with the known pixels put back; where the mask is grey both are mixed."""
        known = images.fit(read_picture(self.image), *size).astype(np.float32)
        mask = read_mask(self.mask, size)[None, :, :, None]
        return np.round(mask * pictures + (1.0 - mask) * known).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Inpaint(_Known):
    """Keeps a picture where a mask is black and paints the rest anew: the known part is put back after each step."""

    source: ClassVar[str] = "arXiv 2206.02779 (blended latent diffusion)"

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the hook."""
        return Bend(hooks=(inpainting(inputs["known"], inputs["mask"], noise),))


@dataclasses.dataclass(frozen=True)
class Project(_Known):
    """Keeps a picture where a mask is black: what is believed of x0 is the known part there."""

    source: ClassVar[str] = "arXiv 2212.00490, eq. 13 (DDNM)"

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the guide."""
        return Bend(guides=(known_region(inputs["known"], inputs["mask"]),))
