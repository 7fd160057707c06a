"""One image: a scene laid out, then painted in its style; and contact sheets of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core.errors import unknown
from rdm_jax.data.style_scenes.layout import lay_out
from rdm_jax.data.style_scenes.styles import STYLE_PAINTERS, UPRIGHT
from rdm_jax.data.style_scenes.vocabulary import COLORS, GROUNDS, SIZE, STYLES, SUBJECTS, Scene

__all__ = ["Scene", "draw", "sheet"]


def draw(scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "64 64 3"]:
    """Draws a scene in a random pose with random details; equal generators give equal images.

    Raises:
      UserError: the scene names a subject, color, ground or style that is not in the vocabulary.
    """
    for kind, name, allowed in (
        ("subject", scene.subject, SUBJECTS),
        ("colour", scene.colour, COLORS),
        ("ground", scene.ground, GROUNDS),
        ("style", scene.style, STYLES),
    ):
        if name not in allowed:
            raise unknown(kind, name, allowed)
    return STYLE_PAINTERS[scene.style](lay_out(scene.subject, rng, scene.style in UPRIGHT), scene, rng)


def sheet(
    rng: np.random.Generator, styles: Sequence[str] = STYLES, subjects: Sequence[str] = SUBJECTS
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a contact sheet: a row for each style, a column for each subject, in random colors, 2 pixels apart."""
    step = SIZE + 2
    page = np.full((step * len(styles) + 2, step * len(subjects) + 2, 3), 96, np.uint8)
    colors, grounds = list(COLORS), list(GROUNDS)
    for row, style in enumerate(styles):
        for column, subject in enumerate(subjects):
            scene = Scene(subject, colors[rng.integers(len(colors))], grounds[rng.integers(len(grounds))], style)
            top, left = 2 + step * row, 2 + step * column
            page[top : top + SIZE, left : left + SIZE] = draw(scene, rng)
    return page
