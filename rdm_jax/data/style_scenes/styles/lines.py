"""Styles led by the line: engraving, neon, charcoal, woodblock."""

from __future__ import annotations

import numpy as np

from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles.brush import (
    FINE,
    MEDIUM,
    WHITE,
    ImageArray,
    blur,
    contours,
    coverage,
    fill,
    finish,
    grid,
    labels,
    mix,
    noise,
    palette,
    rgb,
    saturate,
    shrink,
)
from rdm_jax.data.style_scenes.vocabulary import SIZE, Scene

_LINE_SHARE = np.zeros(len(Role), np.float32)
_LINE_SHARE[[Role.GROUND, Role.FLOOR, Role.MAIN, Role.SHADE, Role.TINT]] = 0.2, 0.34, 0.4, 0.6, 0.24
_LINE_SHARE[[Role.INK, Role.WOOD, Role.LEAF, Role.FLAME, Role.MIST]] = 1.0, 0.6, 0.5, 0.3, 0.3


def engraving(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Ruled lines that swell with the tone, in dark ink of the subject's color on tinted paper."""
    colors = palette(scene, rng)
    paper = saturate(mix(colors[Role.GROUND], rgb(244, 232, 208), 0.15), 1.15)
    ink = colors[Role.MAIN] * np.float32(0.42)
    canvas_labels = labels(layout, MEDIUM)
    x, y = grid(MEDIUM)
    turn = np.float32(rng.uniform(0.5, 0.9) * rng.choice([-1, 1]))
    wave = np.float32(1.1) * np.sin(x / np.float32(rng.uniform(5, 7)) + np.float32(rng.uniform(0, 6)))
    ground_phase = (y + wave) / np.float32(5.2)
    phase = (y + x * turn + np.float32(1.2) * np.sin((x - y * turn) / np.float32(8))) / np.float32(
        4.6 * np.hypot(1, turn)
    )
    subject = canvas_labels > Role.FLOOR
    phase = np.where(subject, phase, ground_phase)
    ruled = np.abs(phase - np.round(phase)) * np.float32(2) < np.take(_LINE_SHARE, canvas_labels)
    wash = np.repeat(paper[None], len(Role), 0)
    for role, share in ((Role.MAIN, 0.8), (Role.SHADE, 0.9), (Role.TINT, 0.45)):
        wash[role] = mix(paper, colors[Role.MAIN], share)
    wash[[Role.WHITE, Role.BONE]] = mix(paper, WHITE, 0.6)
    lines = np.repeat(ink[None], len(Role), 0)
    lines[: Role.FLOOR + 1] = mix(paper * np.float32(0.7), ink, 0.1)
    canvas = fill(canvas_labels + ruled * np.uint8(len(Role)), np.concatenate([wash, lines]))
    line = coverage(contours(layout, FINE, 1.4) > 0)[..., None]
    return finish(ink * line + shrink(canvas) * (1 - line))


_TUBES = {
    "red": (255, 36, 44),
    "orange": (255, 132, 20),
    "yellow": (255, 232, 40),
    "green": (50, 245, 70),
    "teal": (0, 236, 226),
    "blue": (50, 104, 255),
    "purple": (156, 62, 255),
    "pink": (255, 110, 196),
}


_WALL = {"white": 0.28, "grey": 0.1}


def neon(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Glowing tubes along the contours, before a dark wall tinted by the ground's color."""
    colors = palette(scene, rng)
    bright = saturate(colors, 1.3)
    main = rgb(*_TUBES[scene.colour])
    bright[[Role.MAIN, Role.SHADE, Role.TINT]] = main
    bright[[Role.INK, Role.BONE]] = mix(main, WHITE, 0.75)
    bright[Role.WHITE] = mix(main, WHITE, 0.3)
    hue = np.clip(saturate(colors[Role.GROUND], 4.0), 0, 255)
    bright[[Role.FLOOR, Role.MIST]] = hue
    bright[[Role.WOOD, Role.LEAF]] = rgb(214, 132, 70), rgb(70, 214, 110)
    wall = hue * np.float32(_WALL.get(scene.ground, 0.2))
    strokes = contours(layout, FINE, 1.8)
    tubes = shrink(fill(strokes, np.concatenate([np.zeros((1, 3), np.float32), bright])))
    lit = np.minimum(tubes.max(-1, keepdims=True) / np.float32(255), 1)
    _, y = grid(SIZE)
    parts = labels(layout, MEDIUM)
    inside = coverage(parts > Role.FLOOR)[..., None]
    pale = coverage(parts == Role.WHITE)[..., None]
    backdrop = wall * (np.float32(0.6) + np.float32(0.9) * (y / SIZE))[..., None] * (1 - np.float32(0.5) * inside)
    backdrop = backdrop + inside * main * np.float32(0.16) + pale * rgb(66, 66, 74)
    halo = blur(tubes, 1.6) * np.float32(0.55) + blur(tubes, 5.0) * np.float32(0.75)
    core = mix(tubes, WHITE, 0.3) * lit
    return finish(np.maximum(backdrop + halo, 0) * (1 - np.float32(0.8) * lit) + core)


_CHARCOAL_TONE = np.full(len(Role), 206, np.uint8)
for _role, _tone in (
    (Role.FLOOR, 176), (Role.MAIN, 112), (Role.SHADE, 70), (Role.TINT, 160), (Role.WHITE, 232), (Role.INK, 36),
    (Role.WOOD, 64), (Role.LEAF, 78), (Role.BONE, 220), (Role.FLAME, 170), (Role.MIST, 168),
):  # fmt: skip
    _CHARCOAL_TONE[_role] = _tone


def charcoal(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """Soft black strokes and smudges on gray paper; no color."""
    del scene  # Its colors cannot be seen.
    tone = shrink(np.take(_CHARCOAL_TONE, labels(layout, FINE)))
    subject = np.clip((200 - tone) / np.float32(120), 0, 1)
    x, y = grid(SIZE)
    slant = np.float32(rng.uniform(0.6, 1.1) * rng.choice([-1, 1]))
    wobble = noise(SIZE, rng, 7.0)
    hatch = np.sin((y + slant * x + wobble * np.float32(0.7)) * np.float32(2 * np.pi / (5.2 * np.hypot(1, slant))))
    grain = noise(SIZE, rng, 3.0)
    tone = tone + subject * hatch * np.float32(24) + grain * np.float32(7) + wobble * np.float32(5)
    line = coverage(contours(layout, FINE, 1.9) > 0)
    smudge = blur(line * 255, 2.2) / np.float32(255)
    strength = np.clip(np.float32(0.86) + np.float32(0.16) * grain, 0, 1)
    tone = tone * (1 - np.float32(0.3) * smudge)
    tone = tone + (np.float32(34) - tone) * (blur(line * 255, 0.5) / np.float32(255)) * strength
    return finish(tone[..., None] * np.array([1.0, 0.985, 0.96], np.float32))


def woodblock(layout: Layout, scene: Scene, rng: np.random.Generator) -> ImageArray:
    """A bold indigo contour, flat muted color with the grain of the block, and a sky that fades from above."""
    colors = mix(palette(scene, rng), rgb(214, 186, 140), 0.16)
    deep = np.clip(saturate(colors[Role.GROUND], 2.0) * np.float32(0.72), 0, 255)
    paper = mix(colors[Role.GROUND], rgb(246, 234, 206), 0.45)
    x, y = grid(SIZE)
    fade = np.clip(1 - y / np.float32(rng.uniform(26, 38)), 0, 1)[..., None]
    sky = paper + (deep - paper) * fade
    for _ in range(int(rng.integers(1, 3))):
        left, top, long = rng.uniform(-6, 50), rng.uniform(4, 34), rng.uniform(14, 30)
        away = np.maximum(np.abs(x - np.float32(left + long / 2)) - np.float32(long / 2), 0)
        cloud = np.clip(np.float32(2.9) - np.hypot(away, y - np.float32(top)), 0, 1)[..., None]
        sky = sky + (mix(paper, WHITE, 0.6) - sky) * cloud
    canvas_labels = labels(layout, FINE)
    bare = coverage(canvas_labels == Role.GROUND)[..., None]
    colors[Role.GROUND] = 0
    warp = noise(SIZE, rng, 40.0, 10.0)
    bands = np.sin((y + warp * np.float32(3.4)) * np.float32(2 * np.pi / 5.5))
    image = (shrink(fill(canvas_labels, colors)) + sky * bare) * (1 + np.float32(0.07) * bands)[..., None]
    line = coverage(contours(layout, FINE, 2.4) > 0)[..., None]
    return finish(rgb(30, 32, 62) * line + image * (1 - line))
