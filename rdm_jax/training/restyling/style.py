"""A random style: what is done to the lines of a drawing, and how its areas are painted."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

COLORS = 5
"""Colors of a palette."""

PIXELS = (14, 16, 18, 20, 22, 24, 32)
"""Sides of the grids that pixel styles are drawn on."""


class Form(enum.IntEnum):
    """What is made of the ink."""

    AS_IS = 0
    SOLID = 1
    """Enclosed areas are filled with ink."""
    CUT_OUT = 2
    """Enclosed areas are filled with ink, and lines are left out of them."""
    OUTLINE = 3
    """Only the edge of the ink is left."""


class Fill(enum.IntEnum):
    """What is painted under the ink."""

    NONE = 0
    TINT = 1
    """The silhouette in one color."""
    AREAS = 2
    """Each enclosed area in a color of its own."""
    SHADED = 3
    """The silhouette in a color, its lower or right half darker."""
    GRADIENT = 4
    """The silhouette from one color to another."""
    HATCHED = 5
    """The silhouette in parallel lines."""
    OFFSET = 6
    """The silhouette in one color, shifted."""


class Ink(enum.IntEnum):
    """What the ink is painted in."""

    PLAIN = 0
    """One color."""
    GRADIENT = 1
    """From one color to another."""
    PARTS = 2
    """Each connected part in a color of its own."""
    FLAT = 3
    """The fill's second color, so that no line stands out."""


class Badge(enum.IntEnum):
    """What lies behind the drawing, which is smaller then."""

    NONE = 0
    DISK = 1
    SQUARE = 2


FORM_ODDS = {Form.AS_IS: 0.6, Form.SOLID: 0.14, Form.CUT_OUT: 0.13, Form.OUTLINE: 0.13}
FILL_ODDS = {
    Fill.NONE: 0.28,
    Fill.TINT: 0.17,
    Fill.AREAS: 0.19,
    Fill.SHADED: 0.1,
    Fill.GRADIENT: 0.11,
    Fill.HATCHED: 0.05,
    Fill.OFFSET: 0.1,
}
INK_ODDS = {Ink.PLAIN: 0.66, Ink.GRADIENT: 0.1, Ink.PARTS: 0.14, Ink.FLAT: 0.1}
BADGE_ODDS = {Badge.NONE: 0.88, Badge.DISK: 0.07, Badge.SQUARE: 0.05}
PIXEL_ODDS = 0.2
GAP_ODDS = 0.14
SWAY_ODDS = 0.3
BLACK_ODDS = 0.4
"""How often a style has black ink on white, and at most grays."""


@flax.struct.dataclass
class Restyle:
    """A style; all fields are arrays, so that one program draws all styles. Lengths are in 64ths of an image's side.

    Attributes:
      form, fill, ink, badge: members of `Form`, `Fill`, `Ink` and `Badge`.
      weight: how far the ink grows; it shrinks where this is negative.
      line: the width of outlines, hatching and cut-out lines.
      sway: how far lines stray.
      gap: the fraction of the ink that is left out in places.
      pixels: the side of the grid it is drawn on; 0 for none.
      angle: of gradients, shades and hatching, in radians.
      offset: [2] of a shifted fill.
      ground: [3] the background in [-1, 1].
      palette: [`COLORS`, 3] of the fill; the last one is the badge's.
      inks: [`COLORS`, 3] of the ink.
    """

    form: Any
    fill: Any
    ink: Any
    badge: Any
    weight: Any
    line: Any
    sway: Any
    gap: Any
    pixels: Any
    angle: Any
    offset: Any
    ground: Any
    palette: Any
    inks: Any


def sample_style(key: Key[Array, ""]) -> Restyle:
    """Returns a random style."""
    keys = iter(jax.random.split(key, 24))
    black = jax.random.bernoulli(next(keys), BLACK_ODDS)
    badge = jnp.where(black, Badge.NONE, _one_of(next(keys), BADGE_ODDS))
    ink, fill = _one_of(next(keys), INK_ODDS), _one_of(next(keys), FILL_ODDS)
    ink = jnp.where(black, Ink.PLAIN, ink)
    # Other forms than the lines themselves would hide the fill.
    form = jnp.where((fill == Fill.NONE) | (ink == Ink.PARTS), _one_of(next(keys), FORM_ODDS), Form.AS_IS)
    weight = jax.random.triangular(next(keys), -0.5, 0.0, 2.2)
    pixels = jnp.where(_whether(next(keys), PIXEL_ODDS), jax.random.choice(next(keys), jnp.array(PIXELS)), 0)
    sway = jnp.where(_whether(next(keys), SWAY_ODDS), jax.random.uniform(next(keys), minval=0.4, maxval=1.4), 0.0)
    gap = jnp.where(_whether(next(keys), GAP_ODDS), jax.random.uniform(next(keys), minval=0.1, maxval=0.3), 0.0)
    ground, palette, inks = _colors(next(keys), black)
    return Restyle(
        form=form,
        fill=fill,
        ink=ink,
        badge=badge,
        weight=jnp.where(pixels > 0, jnp.maximum(weight, 0.3), weight),
        line=jax.random.uniform(next(keys), minval=1.0, maxval=2.6),
        sway=sway,
        gap=gap,
        pixels=pixels,
        angle=jax.random.choice(next(keys), jnp.arange(8) * jnp.pi / 4),
        offset=jax.random.uniform(next(keys), (2,), minval=-5.0, maxval=5.0),
        ground=ground,
        palette=palette,
        inks=inks,
    )


def _one_of(key: Key[Array, ""], odds: Mapping[Any, float]) -> Int[Array, ""]:
    return jax.random.choice(key, jnp.array([int(name) for name in odds]), p=jnp.array(list(odds.values())))


def _whether(key: Key[Array, ""], probability: float) -> Array:
    return jax.random.bernoulli(key, probability)


def _colors(key: Key[Array, ""], black: Array) -> tuple[Array, Array, Array]:
    """Returns the ground, the palette of the fill, and the inks.

    Hues of a palette are near one another, opposite, or anywhere; a ground is mostly white, sometimes pale or dark.
    """
    keys = jax.random.split(key, 8)
    dark = ~black & _whether(keys[0], 0.1)
    pale = hsv(jax.random.uniform(keys[1], (3,)) * jnp.array([1.0, 0.15, 0.06]) + jnp.array([0.0, 0.0, 0.92]))
    night = hsv(jax.random.uniform(keys[2], (3,)) * jnp.array([1.0, 0.6, 0.2]))
    ground = jnp.where(dark, night, jnp.where(black | _whether(keys[3], 0.8), 1.0, pale))
    hue, spread = jax.random.uniform(keys[4]), jax.random.choice(keys[5], jnp.array([0.05, 0.2, 1.0]))
    level = jax.random.uniform(keys[6], (2, 2))
    parts = jax.random.uniform(keys[7], (2 * COLORS, 3))
    hues = hue + spread * (parts[:, 0] - 0.5)
    saturations = 0.2 + 0.8 * jnp.clip(level[0, 0] + 0.5 * (parts[:, 1] - 0.5), 0.0, 1.0)
    values = 0.5 + 0.5 * jnp.clip(level[0, 1] + 0.8 * (parts[:, 2] - 0.5), 0.0, 1.0)
    colors = hsv(jnp.stack([hues, saturations, values], axis=-1))
    palette, inks = colors[:COLORS], colors[COLORS:]
    # Lines are mostly dark on light and light on dark.
    dark_line = hsv(jnp.stack([hue, level[1, 0], 0.35 * level[1, 1]]))
    inks = inks.at[0].set(jnp.where(level[0, 0] < 0.7, jnp.where(dark, 1.0, dark_line), inks[0]))
    grays = jnp.repeat(0.95 - 1.3 * jnp.linspace(0.15, 0.7, COLORS)[:, None] * (0.6 + parts[0, 0]), 3, axis=1)
    return ground, jnp.where(black, grays, palette), jnp.where(black, -0.87, inks)


def hsv(color: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """Returns the color in [-1, 1] of a hue of any period 1, and a saturation and a value in [0, 1]."""
    hue, saturation, value = color[..., :1], color[..., 1:2], color[..., 2:]
    red, green, blue = ((hue * 6.0 + shift) % 6.0 for shift in (0.0, 4.0, 2.0))
    distance = jnp.abs(jnp.concatenate([red, green, blue], axis=-1) - 3.0) - 1.0
    return 2.0 * value * (1.0 - saturation * (1.0 - jnp.clip(distance, 0.0, 1.0))) - 1.0
