"""The styles: one function each, `(layout, scene, rng) -> image`; a new style is one more entry here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.styles.brush import ImageArray
from rdm_jax.data.style_scenes.styles.dabs import isolde, marlow, pointillism, watercolour
from rdm_jax.data.style_scenes.styles.lines import charcoal, engraving, neon, woodblock
from rdm_jax.data.style_scenes.styles.pieces import mosaic, pixel_art, poster, stained_glass
from rdm_jax.data.style_scenes.vocabulary import Scene

STYLE_PAINTERS: dict[str, Callable[[Layout, Scene, np.random.Generator], ImageArray]] = {
    "poster": poster,
    "pointillism": pointillism,
    "engraving": engraving,
    "mosaic": mosaic,
    "watercolour": watercolour,
    "pixel art": pixel_art,
    "stained glass": stained_glass,
    "neon": neon,
    "charcoal": charcoal,
    "marlow": marlow,
    "isolde": isolde,
    "woodblock": woodblock,
}
"""The function that paints in each style, by name."""

UPRIGHT: tuple[str, ...] = ("pixel art",)
"""Styles in which subjects are not turned: their squares would break every slanting edge."""
