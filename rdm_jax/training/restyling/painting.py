"""Drawings of one color, painted in a random style."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from rdm_jax.conditioning.structure import silhouette
from rdm_jax.training.restyling import shapes
from rdm_jax.training.restyling.style import Badge, Fill, Form, Ink, Restyle

SOLID = 0.4  # opacity from which on a pixel belongs to the ink
WITHIN_BADGE = 0.7  # the size of a drawing on a badge


def painted(key: Key[Array, ""], style: Restyle, ink: Float[Array, "b h w"]) -> Float[Array, "b h w 3"]:
    """Returns drawings in a style, in [-1, 1].

    Args:
      key: of what differs between drawings of the style.
      style: of all of them.
      ink: in [0, 1]; the background is 0.
    """
    keys = jax.random.split(key, 4)
    scale = ink.shape[1] / 64.0
    size = jnp.where(style.badge == Badge.NONE, 1.0, WITHIN_BADGE)
    lines = shapes.strayed(keys[0], shapes.scaled(ink, size), style.sway * scale)
    lines = shapes.pixelated(shapes.grown(lines, style.weight * scale), style.pixels)
    whole = silhouette(lines)
    lines = shapes.gapped(keys[1], _formed(style, lines, whole, scale), style.gap)
    image = _evenly(style.ground, ink)
    image = _mixed(image, jnp.broadcast_to(_badge(style, ink.shape[1]), ink.shape), _evenly(style.palette[-1], ink))
    area, color = _filled(keys[2], style, lines, whole, scale)
    image = _mixed(image, shapes.pixelated(area, style.pixels), color)
    return _mixed(image, lines, _ink_color(keys[3], style, lines))


def _mixed(
    image: Float[Array, "b h w 3"], opacity: Float[Array, "b h w"], color: Float[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    return image + opacity[..., None] * (color - image)


def _evenly(color: Float[Array, "*s 3"], drawings: Float[Array, "b h w"]) -> Float[Array, "b h w 3"]:
    """Returns a color, or the colors of one image, for all pixels of all drawings."""
    return jnp.broadcast_to(color, (*drawings.shape, 3))


def _between(colors: Float[Array, "c 3"], along: Float[Array, "h w"]) -> Float[Array, "h w 3"]:
    """Returns the first color, mixed with the second one along a direction."""
    return jnp.einsum("hwc,cd->hwd", jnp.stack([1.0 - along, along], axis=-1), colors[:2])


def _formed(
    style: Restyle, lines: Float[Array, "b h w"], whole: Float[Array, "b h w"], scale: float
) -> Float[Array, "b h w"]:
    """Returns the ink of a form."""
    line = style.line * scale
    forms = {
        Form.AS_IS: lines,
        Form.SOLID: whole,
        Form.CUT_OUT: shapes.grown(whole, line) * (1.0 - lines),
        Form.OUTLINE: lines - shapes.grown(lines, -line),
    }
    return jnp.stack([forms[form] for form in Form])[style.form]


def _filled(
    key: Key[Array, ""], style: Restyle, lines: Float[Array, "b h w"], whole: Float[Array, "b h w"], scale: float
) -> tuple[Float[Array, "b h w"], Float[Array, "b h w 3"]]:
    """Returns the opacity and the color of the fill."""
    along = _along(style, lines.shape[1])
    period = 3.0 * style.line
    stripes = (jnp.abs((along * 64.0 / period) % 1.0 - 0.5) < 0.25).astype(jnp.float32)
    areas = whole * (1.0 - (lines > SOLID))
    colors = shapes.colors_of(key, shapes.numbered(areas > SOLID), style.palette[:-1])
    # Lines cover the seam between two areas: their colors reach under the ink.
    plain = _evenly(style.palette[0], lines)
    reaching = jnp.where((areas > SOLID)[..., None], colors, plain)
    fills = {
        Fill.NONE: (jnp.zeros_like(whole), plain),
        Fill.TINT: (whole, plain),
        Fill.AREAS: (whole, reaching),
        Fill.SHADED: (whole, _evenly(_between(style.palette, jnp.round(along)), lines)),
        Fill.GRADIENT: (whole, _evenly(_between(style.palette, along), lines)),
        Fill.HATCHED: (whole * stripes[None], plain),
        Fill.OFFSET: (shapes.shifted(whole, style.offset * scale), plain),
    }
    opacity, color = (jnp.stack([fills[fill][part] for fill in Fill]) for part in (0, 1))
    return opacity[style.fill], color[style.fill]


def _along(style: Restyle, size: int) -> Float[Array, "h w"]:
    """Returns how far each pixel is along the style's direction, 0.5 in the center, 0 to 1 over a drawing."""
    axis = (jnp.arange(size) + 0.5) / size - 0.5
    return jnp.clip(0.5 + jnp.cos(style.angle) * axis[:, None] + jnp.sin(style.angle) * axis[None], 0.0, 1.0)


def _ink_color(key: Key[Array, ""], style: Restyle, lines: Float[Array, "b h w"]) -> Float[Array, "b h w 3"]:
    """Returns the color of the ink at each pixel."""
    parts = shapes.colors_of(key, shapes.numbered(lines > 0.1), style.inks)
    inks = {
        Ink.PLAIN: _evenly(style.inks[0], lines),
        Ink.GRADIENT: _evenly(_between(style.inks, _along(style, lines.shape[1])), lines),
        Ink.PARTS: parts,
        Ink.FLAT: _evenly(style.palette[1], lines),
    }
    return jnp.stack([inks[ink] for ink in Ink])[style.ink]


def _badge(style: Restyle, size: int) -> Float[Array, "h w"]:
    """Returns the opacity of what lies behind the drawing."""
    axis = jnp.abs((jnp.arange(size) + 0.5) / size - 0.5)
    power = jnp.where(style.badge == Badge.DISK, 2.0, 6.0)
    radius = (axis[:, None] ** power + axis[None] ** power) ** (1.0 / power)
    return jnp.clip((0.49 - radius) * size + 0.5, 0.0, 1.0) * (style.badge != Badge.NONE)
