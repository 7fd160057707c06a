"""The colors of a set of icons, and the transparency that they imply.

An icon that was composited on a background has three kinds of pixels: the background's color, the icon's colors, and
mixtures of the two along edges. In a one-color set every pixel lies on the line between the background and one color,
so its place on that line is its opacity, exactly. In a flat set the same holds along the outer edge, for the color that
the edge belongs to.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, UInt8

from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import one_of, within

ONE_COLOR, FLAT, SOFT = KINDS = ("one-color", "flat", "soft")
# Distances between colors are Euclidean, of 255 in each channel. Equal colors differ by NEAR at most: thumbnails are
# compressed, and generated images are decoded from latents.
NEAR = 24.0
SAME = 8.0
MOST_COLORS = 64
# The least fraction of painted pixels that lie on the line of a one-color set: in areas, and with edges.
OF_ONE_COLOR, OF_EDGES = 0.995, 0.99
OF_AREAS = 0.2  # of painted pixels are in areas; in a set of narrow lines there are too few to tell
UNIFORM = 0.8  # the least fraction of border pixels in the background's color
COVERED = 0.9  # the least fraction of constant, painted pixels in one of a flat set's colors
TONE = 0.04  # the least fraction of constant, painted pixels in one of a one-color set's tones
RARE = 0.002  # the fraction of painted pixels below which a color is most likely a mixture of several
SNAPPED = 0.03  # opacities as near as this to 0 or 1 are 0 or 1
EDGE = 0.3  # how much a lower opacity counts against a color that fits worse

Color = Annotated[tuple[int, ...], within(0, 255)]


@dataclasses.dataclass(frozen=True)
class Palette:
    """The colors of a set of icons.

    Attributes:
      kind: "one-color", "flat", or "soft" for images with gradients, textures or no uniform background.
      background: the color behind the icons.
      colors: the others. Of a one-color set: the color itself, then its paler tones (the second tone of duotone icons);
        else the most frequent first.
    """

    kind: Annotated[str, one_of(KINDS)]
    background: Color
    colors: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        colors = (self.background, *self.colors)
        if not self.colors or any(len(one) != 3 or not all(0 <= int(part) <= 255 for part in one) for one in colors):
            raise UserError("a palette has a background and one or more colors, each of red, green and blue, 0 to 255")

    @functools.cached_property
    def table(self) -> Float[np.ndarray, "p 3"]:
        """All colors in float32, the background first."""
        return np.array([self.background, *self.colors], np.float32)

    @functools.cached_property
    def opacities(self) -> list[float]:
        """The opacity of each tone of a one-color set, ascending; the last one is 1."""
        return sorted(self._place(np.array(self.colors, np.float32)).tolist())

    def opacity(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
        """Returns how far each pixel lies from the background (0) towards the first color (1), not clipped."""
        return self._place(image.astype(np.float32))

    def _place(self, colors: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
        line = self.table[1] - self.table[0]
        return ((colors - self.table[0]) @ line / max(float(line @ line), 1.0)).astype(np.float32)


def palette_of(images: UInt8[np.ndarray, "n h w 3"]) -> Palette:
    """Returns the colors of a set of icons.

    Args:
      images: some icons of the set, one or more; a few dozen are enough.
    """
    border = np.concatenate([images[:, [0, -1]].reshape(-1, 3), images[:, :, [0, -1]].reshape(-1, 3)])
    background = _clusters(border, 1)[0]
    painted = _distance(images, background) > NEAR
    if not painted.any():
        return Palette(ONE_COLOR, _color(background), (_contrast(background),))
    constant = np.stack([_constant(image) for image in images]) & painted
    line = _line(images[painted], images[constant], background)
    if line is not None:
        return Palette(ONE_COLOR, _color(background), (_color(line), *_tones(images[constant], background, line)))
    pixels = images[constant] if constant.any() else images[painted]
    areas = _clusters(pixels, MOST_COLORS)
    colors = _with_lines(areas, _frequent(images[painted]), background)
    uniform = float((_distance(border, background) <= NEAR).mean())
    covered = float((_nearest(pixels, colors)[1] <= NEAR).mean())
    kind = FLAT if uniform >= UNIFORM and covered >= COVERED else SOFT
    return Palette(kind, _color(background), tuple(_color(color) for color in colors))


def alpha_of(image: UInt8[np.ndarray, "h w 3"], palette: Palette) -> UInt8[np.ndarray, "h w 4"]:
    """Returns an icon with its background transparent; composited on the background it is the same image again.

    In a one-color set each pixel has the set's color, and its opacity is its place on the line from the background.
    In a flat set what is connected to the border in the background's color is transparent, and the edge along it is
    un-mixed; such areas inside the icon may be paint as well as holes, and stay.

    Args:
      image: the icon.
      palette: of its set.

    Raises:
      UserError: the palette is soft.
    """
    if palette.kind == SOFT:
        raise UserError(
            "images of soft colors have no transparent background; transparency takes one-color or flat sets"
        )
    if palette.kind == ONE_COLOR:
        color = np.broadcast_to(np.array(palette.colors[0], np.float32), image.shape)
        opacity = palette.opacity(image)
    else:
        color, opacity = _unmixed_edge(image.astype(np.float32), palette.table[0])
    opacity = np.clip(opacity, 0.0, 1.0)
    opacity = np.where(opacity < SNAPPED, 0.0, np.where(opacity > 1.0 - SNAPPED, 1.0, opacity))
    return np.concatenate([color, 255.0 * opacity[..., None]], -1).round().astype(np.uint8)


def connected(ground: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns which pixels of a mask are connected to the border by pixels of the mask."""
    reached = np.zeros_like(ground)
    reached[[0, -1]], reached[:, [0, -1]] = ground[[0, -1]], ground[:, [0, -1]]
    count = -1
    while count != (count := int(reached.sum())):
        for axis, step in itertools.product((0, 1), (1, -1)):
            reached |= _shifted(reached, axis, step) & ground
    return reached


def nearest_color(colors: Float[np.ndarray, "*n 3"], table: Float[np.ndarray, "p 3"]) -> UInt8[np.ndarray, "*n"]:
    """Returns the number of the nearest color of a table (at most 256) for each color."""
    return _nearest(colors, table)[0].astype(np.uint8)


def _unmixed_edge(
    image: Float[np.ndarray, "h w 3"], background: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Returns each pixel's color and opacity in front of the background.

    A pixel within two pixels of the outside is a mixture of the background and the color of a pixel near it: the one
    on whose line it lies and that makes it most transparent.
    """
    ground = connected(_distance(image, background) <= NEAR)
    edge = ground.copy()
    for _ in range(2):
        edge |= functools.reduce(np.logical_or, [_shifted(edge, axis, step) for axis in (0, 1) for step in (1, -1)])
    offset, color = image - background, image.copy()
    opacity = np.where(ground, 0.0, 1.0).astype(np.float32)
    best = np.full(image.shape[:2], EDGE, np.float32)  # of the pixel itself, opaque
    for down, right in itertools.product(range(-2, 3), repeat=2):
        other = _shifted(_shifted(image, 0, down), 1, right)
        line = other - background
        length = np.maximum((line**2).sum(-1), 1.0)
        place = (offset * line).sum(-1) / length
        error = np.sqrt(((offset - place[..., None] * line) ** 2).sum(-1)) / 255.0
        score = error + EDGE * place
        better = edge & ~ground & (place > 0.0) & (place < 1.0) & (score < best)
        best, opacity = np.where(better, score, best), np.where(better, place, opacity)
        color = np.where(better[..., None], other, color)
    return color, opacity


def _line(
    painted: UInt8[np.ndarray, "n 3"], constant: UInt8[np.ndarray, "m 3"], background: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3"] | None:
    """Returns the color at the far end of the line that painted pixels lie on; None if they lie on no line.

    Edges may lie further away than areas: thumbnails are compressed with half the resolution in hue.
    """
    distances = _distance(painted, background)
    color = _clusters(painted[distances >= 0.9 * np.quantile(distances, 0.99)], 1)[0]
    areas = constant if len(constant) >= OF_AREAS * len(painted) else painted
    if _share_on(painted, background, color, 3 * NEAR) < OF_EDGES:
        return None
    return color if _share_on(areas, background, color, NEAR) >= OF_ONE_COLOR else None


def _share_on(
    colors: UInt8[np.ndarray, "n 3"], start: Float[np.ndarray, "3"], end: Float[np.ndarray, "3"], limit: float
) -> float:
    """Returns which fraction of some colors lies within a limit of the line from one color to another."""
    offsets, line = colors.astype(np.float32) - start, end - start
    places = offsets @ line / float(line @ line)
    return float((np.sqrt(((offsets - places[:, None] * line) ** 2).sum(-1)) <= limit).mean())


def _tones(
    constant: UInt8[np.ndarray, "n 3"], background: Float[np.ndarray, "3"], color: Float[np.ndarray, "3"]
) -> list[tuple[int, ...]]:
    """Returns the tones between the background and a color that fill whole areas of the icons."""
    if not len(constant):
        return []
    found = _clusters(constant, 4)
    numbers, distances = _nearest(constant, found)
    shares = [float(((numbers == number) & (distances <= NEAR)).mean()) for number in range(len(found))]
    tones = [tone for tone, share in zip(found, shares, strict=True) if share >= TONE]
    ends = np.stack([background, color])
    return [_color(tone) for tone in tones if float(_distance(ends, tone).min()) > 2 * NEAR]


def _clusters(colors: UInt8[np.ndarray, "n 3"], most: int) -> Float[np.ndarray, "p 3"]:
    """Returns up to `most` frequent colors, each further than `NEAR` from the others."""
    coarse, counts = np.unique((colors >> 2).astype(np.int32) @ np.array([4096, 64, 1], np.int32), return_counts=True)
    values = np.stack([coarse >> 12, coarse >> 6 & 63, coarse & 63], -1).astype(np.float32) * 4.0 + 2.0
    found = []
    while len(found) < most and counts.any():
        color = values[counts.argmax()]
        near = _distance(colors, color) <= SAME
        found.append(np.median(colors[near], axis=0).astype(np.float32))
        counts[_distance(values, color) <= NEAR] = 0
    return np.stack(found)


def _frequent(painted: UInt8[np.ndarray, "n 3"]) -> Float[np.ndarray, "p 3"]:
    """Returns the colors of painted pixels that are no rare exceptions."""
    found = _clusters(painted, MOST_COLORS)
    numbers, distances = _nearest(painted, found)
    counts = np.bincount(numbers[distances <= NEAR], minlength=len(found))
    return found[counts >= RARE * len(painted)]


def _with_lines(
    areas: Float[np.ndarray, "p 3"], painted: Float[np.ndarray, "q 3"], background: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "r 3"]:
    """Returns the colors of areas, and those of all pixels that are no mixture of two others: of narrow lines."""
    found = [*areas]
    for color in painted:
        ends = np.stack([background, *found])
        lines = ends[None] - ends[:, None]
        places = ((color - ends[:, None]) * lines).sum(-1) / np.maximum((lines**2).sum(-1), 1.0)
        mixtures = ends[:, None] + np.clip(places, 0.0, 1.0)[..., None] * lines
        if len(found) < MOST_COLORS and float(_distance(mixtures, color).min()) > NEAR:
            found.append(color)
    return np.stack(found)


def _nearest(colors: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of the nearest color of a table, and the distance to it."""
    distances = np.stack([_distance(colors, color) for color in table])
    return distances.argmin(0), distances.min(0)


def _distance(colors: np.ndarray, color: np.ndarray) -> np.ndarray:
    difference = colors.astype(np.float32) - color
    red, green, blue = (difference[..., channel] for channel in range(3))  # a sum over so short an axis is slow
    return np.sqrt(red * red + green * green + blue * blue)


def _constant(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Returns which pixels have the color of their four neighbors: no edge, no gradient."""
    values = image.astype(np.float32)
    shifts = [_shifted(values, axis, step) for axis in (0, 1) for step in (1, -1)]
    return np.max([np.abs(values - shift).max(-1) for shift in shifts], axis=0) <= SAME


def _shifted(values: np.ndarray, axis: int, step: int) -> np.ndarray:
    """Returns an array moved along an axis; what has no other neighbor is its own."""
    places = np.clip(np.arange(values.shape[axis]) - step, 0, values.shape[axis] - 1)
    return values.take(places, axis)


def _contrast(background: np.ndarray) -> tuple[int, ...]:
    return (0, 0, 0) if background.mean() >= 128 else (255, 255, 255)


def _color(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.round(values))
