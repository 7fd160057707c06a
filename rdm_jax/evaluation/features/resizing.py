"""How an image becomes 299x299 pixels for Inception: distances of different ways are not comparable.

https://arxiv.org/abs/2104.11222 measures how much they differ. The names are those of clean-fid.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rdm_jax.core.errors import unknown

SIDE = 299
MODES = {
    "clean": "bicubic with antialiasing, not rounded (clean-fid)",
    "legacy_tensorflow": "bilinear from the upper left corner, without antialiasing (TensorFlow 1, torch-fidelity)",
    "legacy_pytorch": "bilinear without antialiasing (pytorch-fid)",
}
"""The ways, each with its description."""


def check_mode(mode: str) -> str:
    """Returns the mode; raises UserError if there is none of this name."""
    if mode not in MODES:
        raise unknown("resizing", mode, MODES)
    return mode


def resize(image: UInt8[np.ndarray, "h w 3"], mode: str, side: int = SIDE) -> Float[np.ndarray, "side side 3"]:
    """Returns an image at side x side pixels, float32 in [0, 255]; its proportions are not kept.

    Raises:
      UserError: there is no such mode.
    """
    if check_mode(mode) == "clean":
        channels = [Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(3)]
        resized = [np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in channels]
        return np.stack(resized, axis=-1).clip(0.0, 255.0)
    rows = _bilinear(image.shape[0], side, mode == "legacy_pytorch")
    columns = _bilinear(image.shape[1], side, mode == "legacy_pytorch")
    return np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float32), columns, optimize=True).astype(np.float32)


def normalize(pixels: Float[np.ndarray, "*b h w 3"], mode: str) -> Float[np.ndarray, "*b h w 3"]:
    """Returns pixels in [0, 255] as the network takes them: TensorFlow's graph divides by 128, pytorch-fid by 127.5."""
    return pixels / 127.5 - 1.0 if mode == "legacy_pytorch" else (pixels - 128.0) / 128.0


@functools.lru_cache(maxsize=64)
def _bilinear(size: int, side: int, centered: bool) -> Float[np.ndarray, "side size"]:
    """Returns the matrix of a linear interpolation of `size` values at `side` places.

    Args:
      size: the number of values.
      side: the number of places.
      centered: whether pixels are areas (half-pixel centers) or, as in TensorFlow 1, points from the first one on.
    """
    scale, half = size / side, 0.5 if centered else 0.0
    places = np.clip((np.arange(side) + half) * scale - half, 0, size - 1)
    low = np.floor(places).astype(int)
    fraction = places - low
    matrix = np.zeros((side, size), np.float32)
    matrix[np.arange(side), low] += 1.0 - fraction
    matrix[np.arange(side), np.minimum(low + 1, size - 1)] += fraction
    return matrix
