"""Styles that no network sees in training and no content database holds, and why each is on the list.

A twin of a held-out style shows the same drawings at another weight, size or coloring, and is held out with it. Other
variants of the design whose shapes are drawn in another way stay in training: all of solar but its broken lines, the
outlines of teenyicons, and ic without the gray of its two-tone icons.
"""

from __future__ import annotations

HELD_OUT: dict[str, str] = {
    "pixelarticons": "coarse pixels",
    "streamline-freehand": "freehand lines",
    "streamline-freehand-color": "freehand lines in two colors",
    "solar-broken": "outlines with gaps",
    "pepicons-pencil": "thin lines, half of them in disks",
    "dinkie-icons": "fine pixels, mostly filled",
    "meteocons-fill": "soft gradients, of weather alone",
    "fluent-emoji": "shaded emoji with gradients",
    "streamline-kameleon-color": "flat drawings on colored disks",
    "game-icons": "detailed silhouettes",
    "flat-color-icons": "flat areas of few colors",
    "teenyicons-solid": "small solid shapes with thin gaps",
    "ic-twotone": "black outlines filled with gray",
    "memory": "pixels on a grid of 22",
    "pepicons-print": "twin of pepicons-pencil: the same thin lines before a gray print of them",
    "pepicons-pop": "twin of pepicons-pencil: the same drawings in thicker lines",
    "pepicons": "twin of pepicons-pencil: first version of pepicons-pop",
    "pepicons/print": "twin of pepicons-pencil: first version of pepicons-print",
    "meteocons": "twin of meteocons-fill: its outlines in the same colors",
    "fluent-emoji-flat": "twin of fluent-emoji: without the gradients",
    "fluent-emoji-high-contrast": "twin of fluent-emoji: the same drawings in black",
    "streamline-kameleon-color-duo": "twin of streamline-kameleon-color: the same drawings in two blues",
}
"""What is peculiar about each style, or what it is a twin of."""
