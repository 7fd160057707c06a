"""What is known of a picture stays: by blending after each step, or by projecting what is believed of x0."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, UInt8

from rdm_jax.core import images
from rdm_jax.core.checks import required
from rdm_jax.core.errors import UserError
from rdm_jax.guidance.inpainting import inpainting
from rdm_jax.guidance.projection import known_region
from rdm_jax.guides.base import Bend, Kind, Networks, Scene


@dataclasses.dataclass(frozen=True)
class _Known(Kind):
    """A picture, and where it is known."""

    image: str = ""

    @abc.abstractmethod
    def fitted(self, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Returns the picture and its mask, 255 where it is painted anew, at the run's size (height, width)."""

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the picture's latent and the mask: the largest of the pixels that a latent stands for."""
        known, painted = self.fitted(scene.size)
        height, width, _ = scene.latent
        factor = scene.size[0] // height
        largest = painted.reshape(1, height, factor, width, factor, 1).max(axis=(2, 4)).astype(np.float32) / 255.0
        pixels = {"known_pixels": known, "painted_pixels": painted}
        return {"known": scene.encode(images.to_float(known[None])), "mask": largest, **pixels}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the hook that puts the known part back after each step."""
        return Bend(hooks=(inpainting(inputs["known"], inputs["mask"], noise),))

    def finish(self, pictures: UInt8[np.ndarray, "b h w 3"], inputs: dict[str, Any]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns the pictures with the known pixels put back; where the mask is grey both are mixed."""
        new = inputs["painted_pixels"][None, :, :, None].astype(np.float32) / 255.0
        return np.round(new * pictures + (1.0 - new) * inputs["known_pixels"]).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Inpaint(_Known):
    """Keeps a picture where a mask is black and paints the rest anew: the known part is put back after each step."""

    mask: str = ""
    source: ClassVar[str] = "arXiv 2206.02779 (blended latent diffusion)"

    def fitted(self, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Returns both; raises UserError unless the files are pictures of one size."""
        picture = images.read_picture(required("image", self.image, "a picture's file"))
        mask = images.read_mask(required("mask", self.mask, "a mask's file"), picture.shape[:2])
        grey = np.repeat(np.round(mask * 255.0).astype(np.uint8)[..., None], 3, axis=-1)
        return images.fit(picture, *size), images.fit(grey, *size)[..., 0]


@dataclasses.dataclass(frozen=True)
class Project(Inpaint):
    """Keeps a picture where a mask is black: what is believed of x0 is the known part there."""

    source: ClassVar[str] = "arXiv 2212.00490, eq. 13 (DDNM)"

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the guide."""
        return Bend(guides=(known_region(inputs["known"], inputs["mask"]),))


@dataclasses.dataclass(frozen=True)
class Outpaint(_Known):
    """Continues a picture by some pixels on each side; the run's size is that of both."""

    left: float = 0
    right: float = 0
    up: float = 0
    down: float = 0
    source: ClassVar[str] = "arXiv 2206.02779, with the mask around the picture"

    def fitted(self, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Returns the canvas and what is not painted on it yet; raises UserError unless it has the run's size."""
        picture = images.read_picture(required("image", self.image, "a picture's file"))
        margins = Margins(*(int(side) for side in (self.left, self.right, self.up, self.down)))
        canvas, mask = extended(picture, margins)
        if canvas.shape[:2] != size:
            (height, width), (h, w) = size, canvas.shape[:2]
            raise UserError(
                f"{self.image} continued is {w}x{h} pixels and the run draws {width}x{height}; draw {w}x{h}"
            )
        return canvas, mask


@dataclasses.dataclass(frozen=True)
class Margins:
    """How many pixels a picture is continued by on each side."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0


def extended(
    picture: UInt8[np.ndarray, "h w 3"], margins: Margins
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], UInt8[np.ndarray, "h2 w2"]]:
    """Returns a picture on its canvas, its edges continued, and the mask: 255 where there was nothing.

    Raises:
      UserError: no side is continued, or one by less than 0.
    """
    sides = dataclasses.astuple(margins)
    if min(sides) < 0 or not any(sides):
        raise UserError(
            f"margins {sides} (left, right, up, down) continue nothing; give 0 pixels or more, and 1 or more for one"
        )
    around = ((margins.up, margins.down), (margins.left, margins.right))
    mask = np.pad(np.zeros(picture.shape[:2], np.uint8), around, constant_values=255)
    return np.pad(picture, (*around, (0, 0)), mode="edge"), mask
