"""How a generated image is written: as it is, with a transparent background, or traced and rendered at another size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core.errors import UserError
from rdm_jax.core.palette import SOFT, Palette, alpha_of, palette_of
from rdm_jax.core.schema import read, section_values, within
from rdm_jax.core.tracing import render, require, trace

SIZES = (24, 48, 64, 256, 512)
"""The sizes to which an icon is rendered from its SVG, in pixels."""


@dataclasses.dataclass(frozen=True)
class Rendition:
    """How an image is written.

    Attributes:
      svg: whether an SVG file is written beside it.
      transparent: whether its background is transparent.
      size: the longer side of the image, rendered from its SVG; 0 leaves the image as it was generated.
      palette: of the set that the image is to fit; None takes the image's own colors.
    """

    svg: bool = False
    transparent: bool = False
    size: Annotated[int, within(0, max(SIZES))] = 0
    palette: Palette | None = None

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Rendition:
        """Returns the rendition of a record; raises UserError if it is damaged."""
        plain = {key: value for key, value in values.items() if key != "palette"}
        palette = values.get("palette")
        colors = None if palette is None else Palette(**read(Palette, section_values("palette", palette)))
        return Rendition(**{**read(Rendition, plain), "palette": colors})

    def to_json(self) -> dict[str, Any]:
        """Returns the rendition as JSON values."""
        return dataclasses.asdict(self)

    @property
    def is_plain(self) -> bool:
        """Whether an image is written as it was generated, and nothing beside it."""
        return not (self.svg or self.transparent or self.size)

    def check(self, name: str) -> Rendition:
        """Returns the rendition.

        Args:
          name: of the set, for the message.

        Raises:
          UserError: the set's colors allow no transparent background, or a library is missing.
        """
        if self.transparent and self.palette is not None and self.palette.kind == SOFT:
            raise UserError(
                f"the images of {name} have soft colors and no uniform background, and --transparent takes sets of "
                "one color or of flat colors; leave it out, or give another --database"
            )
        if self.svg or self.size:
            require()
        return self

    def apply(self, image: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "h2 w2 c"], str | None]:
        """Returns an image as it is written, with alpha if it is transparent, and its SVG, None without.

        Raises:
          UserError: the image's own colors are to be transparent, and they are soft.
        """
        if self.is_plain:
            return image, None
        palette = self.palette or palette_of(image[None])
        traced = trace(image, palette) if self.svg or self.size else None
        if traced is not None and self.size:
            written = render(traced, self.size, f"#{bytes(palette.colors[0]).hex()}")
            written = written if self.transparent else _composited(written, palette.background)
        else:
            written = alpha_of(image, palette) if self.transparent else image
        return written, traced if self.svg else None


def _composited(image: UInt8[np.ndarray, "h w 4"], background: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    alpha = image[..., 3:] / 255.0
    return np.round(image[..., :3] * alpha + np.array(background) * (1.0 - alpha)).astype(np.uint8)
