"""Outpainting: inpainting of a canvas around an image (Avrahami et al. 2022, https://arxiv.org/abs/2206.02779)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, UInt8

from rdm_jax.core import images
from rdm_jax.core.checks import required
from rdm_jax.core.errors import UserError
from rdm_jax.guidance.base import GuideEffects, Networks
from rdm_jax.guidance.common import KnownRegion
from rdm_jax.guidance.inpaint import inpainting


@dataclasses.dataclass(frozen=True)
class Outpaint(KnownRegion):
    """Extends an image by some pixels on each side; the run's size is that of the image with its margins."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0
    source: ClassVar[str] = "arXiv 2206.02779, with the mask around the image"

    def canvas(
        self, image: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[UInt8[np.ndarray, "h2 w2 3"], UInt8[np.ndarray, "h2 w2"]]:
        """Returns an image on its canvas, its edges repeated, and the mask: 255 in the margins.

        Raises:
          UserError: all margins are 0, or one is negative.
        """
        margins = self._margins()
        mask = np.pad(np.zeros(image.shape[:2], np.uint8), margins, constant_values=255)
        return np.pad(image, (*margins, (0, 0)), mode="edge"), mask

    def edited(self) -> tuple[int, int] | None:
        """Returns (height, width) of the canvas; raises UserError as `canvas` does."""
        height, width, _ = images.read_image(required("image", self.image, "an image file")).shape
        (up, down), (left, right) = self._margins()
        return height + up + down, width + left + right

    def _margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns ((up, down), (left, right)); raises UserError if they extend nothing."""
        sides = (self.left, self.right, self.up, self.down)
        if min(sides) < 0 or not any(sides):
            raise UserError(
                f"margins {sides} (left, right, up, down) extend nothing; give 0 pixels or more, and 1 or more on "
                "one side"
            )
        return (self.up, self.down), (self.left, self.right)

    def fitted(self, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Returns the canvas and its mask; raises UserError unless it has the run's size."""
        image = images.read_image(required("image", self.image, "an image file"))
        canvas, mask = self.canvas(image)
        if canvas.shape[:2] != size:
            (height, width), (h, w) = size, canvas.shape[:2]
            raise UserError(
                f"{self.image} with its margins is {w}x{h} pixels, and the run has {width}x{height}; use {w}x{h}"
            )
        return canvas, mask

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the hook."""
        return GuideEffects(hooks=(inpainting(inputs["known"], inputs["mask"], noise),))
