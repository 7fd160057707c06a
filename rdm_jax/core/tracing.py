"""Icons as vectors: an image is traced to SVG in the colors of its set, and an SVG is rendered at any size.

    palette = palette_of(thumbnails)          # of the style database
    svg = trace(image, palette)               # one-color sets in currentColor
    pixels = render(svg, 512)                 # uint8 [512, 512, 4]

An icon is a stack of areas in one color each. vtracer finds the outlines of their masks without specks, which become
polygons of few points.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter

from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.core.palette import ONE_COLOR, SOFT, Palette, connected, nearest_color
from rdm_jax.core.polygons import midpoints, simplified
from rdm_jax.core.svg import to_png

EXTRA = "pip install 'rdm_jax[svg]'"
TRACED = 256  # the longer side that is traced, or more: outlines of a 64-pixel image as it is lose a tenth of the shape
# At the size that is traced: an area has a pixel that is NARROW away from its edge, a band of mixed colors along edges
# has none; a pixel of a band belongs to an area whose inside is within REACH.
NARROW, REACH = 1, 6
SPECKLE = 4  # patches of at most this squared are noise
TRAP = 2  # how far an area reaches below those above it, so that no seam shows
SOFT_COLORS = 8  # of a soft image: more colors make more paths, not a better image
OWN = 24  # how near a pixel is, in each channel, to a color that an image has
_PATH = re.compile(r'<path d="([^"]*)" fill="[^"]*" transform="translate\((-?\d+),(-?\d+)\)"')
_NUMBER = re.compile(r"-?\d+")

Area = tuple[Bool[np.ndarray, "h w"], str]
"""A mask and the attributes of its path."""


def trace(image: UInt8[np.ndarray, "h w 3"], palette: Palette) -> str:
    """Returns an image as the text of an SVG file in the colors of a palette.

    One-color icons are filled with `currentColor`, their paler tones by opacity; flat icons have no background; soft
    images are opaque.

    Args:
      image: the image.
      palette: of its set.

    Raises:
      UserError: vtracer is not installed.
    """
    factor = max(1, math.ceil(TRACED / max(image.shape[:2])))
    areas = _tones(image, palette, factor) if palette.kind == ONE_COLOR else _colors(image, palette, factor)
    paths = [f'<path {attributes} d="{path}"/>' for mask, attributes in areas if (path := _polygons(mask))]
    height, width = (2 * factor * side for side in image.shape[:2])  # half pixels
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    return "\n".join([head, *paths, "</svg>", ""])


def render(svg: str, size: int, color: str = "#000000") -> UInt8[np.ndarray, "h w 4"]:
    """Returns an SVG that `trace` wrote as pixels with alpha.

    Args:
      svg: its text.
      size: the longer side, in pixels.
      color: what `currentColor` stands for.
    """
    return images.decode_png(to_png(svg.replace("currentColor", color), size))[0]


def require() -> None:
    """Raises UserError unless vtracer is installed."""
    _vtracer()


def _tones(image: UInt8[np.ndarray, "h w 3"], palette: Palette, factor: int) -> Iterator[Area]:
    """Yields the areas of a one-color icon: of each tone, those of the stronger ones included, palest first."""
    opacity = _enlarged(palette.opacity(image), factor)
    tones = [0.0, *palette.opacities]
    distances = np.stack([np.abs(opacity - tone) for tone in tones])
    labels = _labels(distances) if len(tones) > 2 else distances.argmin(0)
    for number, (below, tone) in enumerate(itertools.pairwise(tones), start=1):
        # On top of the tone below, which shows through.
        added = (tone - below) / (1.0 - below)
        attributes = 'fill="currentColor"' + (f' fill-opacity="{added:.2f}"' if added < 0.995 else "")
        yield labels >= number, attributes


def _colors(image: UInt8[np.ndarray, "h w 3"], palette: Palette, factor: int) -> Iterator[Area]:
    """Yields the areas of an icon of several colors, the largest first; each reaches a little below the later ones.

    The first one fills the whole icon but for its rim, where it would shine through the edges of the others.
    """
    table = _own_colors(image, palette)
    channels = [_enlarged(image[..., number].astype(np.float32), factor) for number in range(3)]
    enlarged = np.stack(channels, -1)
    labels = _labels(np.stack([((enlarged - color) ** 2).sum(-1) for color in table]))
    painted = np.ones(labels.shape, bool) if palette.kind == SOFT else ~connected(labels == 0)
    order = np.argsort(-np.bincount(labels[painted], minlength=len(table)), kind="stable")
    ranks = np.where(painted, np.argsort(order)[labels], -1)
    for rank, color in enumerate(table[order]):
        mask = ranks == rank
        below = _grown(mask, TRAP) & (ranks > rank) if rank else ~_grown(~painted, TRAP)
        yield mask | below, f'fill="#{bytes(np.round(color).astype(np.uint8)).hex()}"'


def _own_colors(image: UInt8[np.ndarray, "h w 3"], palette: Palette) -> Float[np.ndarray, "p 3"]:
    """Returns the colors of a palette that an image may have, the background first."""
    labels = nearest_color(image.astype(np.float32), palette.table)
    near = np.abs(image - palette.table[labels]).max(-1) <= OWN
    counts = np.bincount(labels.ravel() if palette.kind == SOFT else labels[near], minlength=len(palette.table))
    if palette.kind == SOFT:
        counts[np.argsort(-counts, kind="stable")[SOFT_COLORS:]] = 0
    counts[0] += palette.kind != SOFT
    return palette.table[counts > 0]


def _labels(distances: Float[np.ndarray, "p h w"]) -> Int[np.ndarray, "h w"]:
    """Returns the number of the color of each pixel: the nearest one among those of the areas around it.

    Along the edge of two areas a mixture of their colors may be nearest to a third one, which has no area there.
    """
    nearest = distances.argmin(0)
    insides = [~_grown(nearest != number, NARROW) for number in range(len(distances))]
    reached = np.stack([_grown(inside, REACH) for inside in insides])
    return np.where(reached.any(0), np.where(reached, distances, np.inf).argmin(0), nearest)


def _polygons(mask: Bool[np.ndarray, "h w"]) -> str:
    """Returns the outlines of a mask as the data of one path, in half pixels."""
    if not mask.any():
        return ""
    buffer = io.BytesIO()
    Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    # Without simplification: that of vtracer rounds the ends of lines and moves their sides.
    svg = _vtracer().convert_raw_image_to_svg(
        buffer.getvalue(), "png", colormode="binary", mode="none", filter_speckle=SPECKLE
    )
    corners = [
        np.array(_NUMBER.findall(ring), int).reshape(-1, 2) + np.array([int(x), int(y)])
        for data, x, y in _PATH.findall(svg)
        for ring in data.split("Z")
    ]
    outlines = [simplified(midpoints(ring)) for ring in corners if len(ring) > 3]
    return "".join(_path(points) for points in outlines if len(points) > 2)


def _path(points: Int[np.ndarray, "n 2"]) -> str:
    """Returns a polygon as the data of a path: its first point, then the steps from point to point."""
    x, y = points[0]
    steps = " ".join(f"{dx} {dy}" for dx, dy in np.diff(points, axis=0))
    return f"M{x} {y}l{steps}z".replace(" -", "-")


def _grown(mask: Bool[np.ndarray, "h w"], by: int) -> Bool[np.ndarray, "h w"]:
    """Returns a mask grown by some pixels in each direction, diagonals included."""
    blurred = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).filter(ImageFilter.BoxBlur(by))
    return np.asarray(blurred) > 0


def _enlarged(channel: Float[np.ndarray, "h w"], factor: int) -> Float[np.ndarray, "h2 w2"]:
    height, width = channel.shape
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((factor * width, factor * height), Image.Resampling.LANCZOS))


def _vtracer() -> Any:
    try:
        import vtracer
    except ImportError as error:
        raise UserError(f"tracing an image to SVG needs vtracer; install it by {EXTRA}") from error
    return vtracer
