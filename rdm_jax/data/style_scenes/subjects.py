"""The twelve subjects, each a list of parts in about [-1, 1] x [-1, 1], drawn from back to front."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from rdm_jax.data.style_scenes.shapes import (
    Part,
    Role,
    arc,
    box,
    cloud,
    crescent,
    ellipse,
    polygon,
    ribbon,
    rotation,
    smooth,
    spokes,
)

Random: TypeAlias = np.random.Generator


def sun(rng: Random) -> list[Part]:
    """A disc with 8 to 12 rays that stand off from it: triangles, bars, or long and short ones by turns."""
    n, phase, kind = int(rng.integers(8, 13)), rng.uniform(0.0, 2), rng.integers(3)
    n += n % 2 if kind == 2 else 0
    half = 0.72 * np.pi / n
    parts = []
    for k in range(n):
        tip = 0.8 if kind == 2 and k % 2 else 1.0
        bar = polygon((0.6, -0.09), (tip, -0.09), (tip, 0.09), (0.6, 0.09))
        wedge = polygon((0.6, -0.6 * half), (tip, 0.0), (0.6, 0.6 * half))
        parts.append(Part(Role.MAIN, (bar if kind == 1 else wedge) @ rotation(phase + 2 * np.pi * k / n)))
    return [
        *parts,
        Part(Role.MAIN, ellipse(0.0, 0.0, 0.5, 0.5)),
        Part(Role.TINT, ellipse(-0.06, -0.06, 0.28, 0.28), line=False),
        Part(Role.SHADE, crescent(0.0, 0.0, 0.5, 0.5, 0.0, 0.32, 0.22), line=False),
    ]


def tree(rng: Random) -> list[Part]:
    """A brown trunk under a round, cloudy or conifer crown."""
    w = rng.uniform(0.1, 0.14)
    trunk = Part(
        Role.WOOD, polygon((-w, 0.0), (w, 0.0), (w * 1.1, 0.8), (w * 1.9, 1.0), (-w * 1.9, 1.0), (-w * 1.1, 0.8))
    )
    kind = rng.integers(3)
    if kind == 0:
        return [trunk, *_conifer(int(rng.integers(3, 5)))]
    rx, ry, y = (0.78, 0.66, -0.3) if kind == 1 else (0.58, 0.74, -0.26)
    bumps = int(rng.integers(6, 9))
    crown = cloud(0.0, y, rx, ry, bumps, 0.07, rng.uniform(0.0, 3)) if kind == 1 else ellipse(0.0, y, rx, ry, n=32)
    return [
        trunk,
        Part(Role.WOOD, ribbon(polygon((0.0, 0.72), (0.16, 0.45), (0.34, 0.25)), 0.1, 0.06), line=False),
        Part(Role.MAIN, crown),
        Part(Role.SHADE, crescent(0.0, y, rx * 0.93, ry * 0.93, 0.0, 0.4, 0.3), line=False),
        Part(Role.TINT, ellipse(-rx * 0.35, y - ry * 0.38, rx * 0.3, ry * 0.22, -0.5), line=False),
    ]


def _conifer(tiers: int) -> list[Part]:
    parts = []
    for k in reversed(range(tiers)):
        top, bottom = -1.0 + 1.1 * k / tiers, -0.38 + 0.98 * k / (tiers - 1)
        half = 0.36 + 0.34 * k / (tiers - 1)
        parts += [
            Part(Role.MAIN, polygon((0.0, top), (half, bottom), (0.0, bottom + 0.08), (-half, bottom))),
            Part(Role.SHADE, polygon((0.0, top), (half, bottom), (0.0, bottom + 0.08)), line=False),
        ]
    return parts


def house(rng: Random) -> list[Part]:
    """A wall with a door and one or two windows, under a dark gable or hipped roof with a chimney."""
    wide, side = rng.uniform(0.62, 0.72), 1 if rng.random() < 0.5 else -1
    ridge = 0.0 if rng.random() < 0.6 else 0.3
    eaves = wide + 0.2
    chimney = 0.44 * side
    parts = [
        Part(Role.SHADE, box(chimney - 0.11, -0.88, chimney + 0.11, -0.2)),
        Part(Role.MAIN, box(-wide, -0.1, wide, 0.86)),
        Part(Role.SHADE, polygon((-eaves, -0.02), (-ridge, -0.82), (ridge, -0.82), (eaves, -0.02))),
    ]
    two = rng.random() < 0.5
    door = 0.0 if two else -0.28 * side
    parts.append(Part(Role.WOOD, box(door - 0.15, 0.3, door + 0.15, 0.86)))
    for x in (-0.42, 0.42) if two else (0.3 * side,):
        half = 0.14 if two else 0.19
        parts += [
            Part(Role.WHITE, box(x - half, 0.2, x + half, 0.52)),
            Part(Role.INK, polygon((x, 0.2), (x, 0.52)), 0.05),
        ]
    return parts


def boat(rng: Random) -> list[Part]:
    """A sailing boat with one or two sails and a flag; the water is laid over it by the layout."""
    bow, keel = rng.uniform(0.86, 0.98), rng.uniform(0.5, 0.64)
    hull = np.concatenate([polygon((-0.86, 0.3), (bow, 0.3)), arc(0.0, 0.3, keel + 0.14, 0.6, 0.07, 0.43, 8)])
    parts = [
        Part(Role.WOOD, box(-0.065, -0.94, 0.065, 0.34)),
        Part(Role.TINT, smooth(polygon((0.1, -0.84), (0.46, -0.36), (0.74, 0.18), (0.1, 0.18)), 1)),
    ]
    if rng.random() < 0.65:
        parts.append(Part(Role.MAIN, polygon((-0.1, -0.72), (-0.1, 0.18), (-0.64, 0.18))))
    if rng.random() < 0.6:
        parts.append(Part(Role.MAIN, polygon((0.0, -1.1), (0.34, -1.0), (0.0, -0.88))))
    return [
        *parts,
        Part(Role.MAIN, hull),
        Part(Role.SHADE, polygon((-0.78, 0.44), (bow - 0.12, 0.44), (bow - 0.24, 0.58), (-0.66, 0.58)), line=False),
    ]


def fish(rng: Random) -> list[Part]:
    """A fish looking left, with a forked tail, fins, an eye and stripes or a plain flank."""
    tall, fork = rng.uniform(0.44, 0.56), rng.uniform(0.4, 0.55)
    t = np.linspace(0.0, np.pi, 18)
    x = -0.2 - 0.75 * np.cos(t)
    y = tall * np.sin(t) ** 0.85
    body = np.concatenate([np.stack([x, -y], 1), np.stack([x, y], 1)[-2:0:-1]])
    parts = [
        Part(Role.SHADE, polygon((0.38, 0.0), (1.0, -fork), (0.8, 0.0), (1.0, fork))),
        Part(Role.SHADE, polygon((-0.4, -tall * 0.7), (-0.1, -tall - 0.28), (0.3, -tall - 0.12), (0.24, -tall * 0.5))),
        Part(Role.SHADE, polygon((-0.2, tall * 0.7), (0.14, tall + 0.24), (0.22, tall * 0.6))),
        Part(Role.MAIN, body),
    ]
    for k in range(int(rng.integers(0, 3))):
        center, half = -0.1 + 0.27 * k, (0.8, 0.62)[k] * tall
        band = arc(center, 0.0, 0.1, half, -0.25, 0.25, 8)
        parts.append(Part(Role.TINT, np.concatenate([band, band[::-1] - np.array([0.12, 0])]), line=False))
    return [
        *parts,
        Part(Role.INK, arc(-0.52, 0.0, 0.12, tall * 0.62, -0.2, 0.2, 8), 0.05),
        Part(Role.WHITE, ellipse(-0.66, -0.1, 0.13, 0.13)),
        Part(Role.INK, ellipse(-0.68, -0.1, 0.065, 0.065), line=False),
    ]


def cat(rng: Random) -> list[Part]:
    """A cat's head: two pointed ears, eyes, nose, muzzle and whiskers; the brow may be striped."""
    wide, tall, ear = rng.uniform(0.74, 0.84), rng.uniform(0.62, 0.7), rng.uniform(0.84, 1.0)
    lower = arc(0.0, 0.2, wide, tall, -0.06, 0.56, 26)
    head = np.concatenate([lower, polygon((-0.7, -ear), (-0.26, -0.43), (0.26, -0.43), (0.7, -ear))])
    parts = [Part(Role.MAIN, head)]
    for side in (-1, 1):
        flip = np.array([side, 1])
        parts.append(Part(Role.TINT, polygon((0.62, -ear + 0.22), (0.64, -0.24), (0.38, -0.38)) * flip, line=False))
        parts.append(Part(Role.WHITE, ellipse(0.35 * side, 0.06, 0.2, 0.19)))
        parts.append(Part(Role.INK, ellipse(0.35 * side, 0.06, 0.085, 0.16), line=False))
    if rng.random() < 0.5:
        for x in (-0.17, 0.0, 0.17):
            bottom = -0.14 if x == 0 else -0.22
            parts.append(Part(Role.SHADE, polygon((x - 0.05, -0.43), (x + 0.05, -0.43), (x, bottom)), line=False))
    parts.append(Part(Role.TINT, ellipse(0.0, 0.5, 0.32, 0.24), line=False))
    parts.append(Part(Role.INK, polygon((-0.12, 0.32), (0.12, 0.32), (0.0, 0.46)), line=False))
    parts.append(Part(Role.INK, polygon((-0.16, 0.58), (-0.07, 0.63), (0.0, 0.5), (0.07, 0.63), (0.16, 0.58)), 0.05))
    for side in (-1, 1):
        for y, drop in ((0.36, -0.07), (0.54, 0.07)):
            parts.append(Part(Role.INK, polygon((0.5 * side, y), (1.06 * side, y + drop)), 0.045))
    return parts


def flower(rng: Random) -> list[Part]:
    """Five to eight petals round a brown heart, on a green stem with two leaves."""
    n, phase = int(rng.integers(5, 9)), rng.uniform(0.0, 2)
    reach, long = 0.36, 0.27
    broad = min(0.24, 1.05 * reach * np.tan(np.pi / n))
    lean = rng.uniform(-0.12, 0.12)
    head = np.array([0.0, -0.4])
    stem = smooth(polygon((0.0, -0.3), (lean, 0.3), (0.0, 1.0)), 1)
    parts = [Part(Role.LEAF, ribbon(stem, 0.11, 0.13))]
    for side, y in ((-1, 0.68), (1, rng.uniform(0.46, 0.6))):
        leaf = smooth(polygon((0.03, 0.14), (0.2, -0.1), (0.5, -0.2), (0.36, 0.1)), 5)
        parts.append(Part(Role.LEAF, leaf * np.array([side, 1]) + np.array([lean * 0.5, y])))
    for k in range(n):
        turn = phase + 2 * np.pi * k / n
        petal = (ellipse(reach, 0.0, long, broad, n=16)) @ rotation(turn) + head
        streak = ellipse(reach + 0.08, 0.0, 0.12, broad * 0.35, n=10) @ rotation(turn) + head
        parts += [Part(Role.MAIN, petal), Part(Role.TINT, streak, line=False)]
    return [*parts, Part(Role.WOOD, ellipse(0.0, -0.4, 0.18, 0.18))]


def mountain(rng: Random) -> list[Part]:
    """Two or three peaks with snow on them, the far ones darker."""
    peak, far = rng.uniform(-0.28, -0.08), rng.uniform(-0.4, -0.2)
    parts = []
    if rng.random() < 0.5:
        parts.append(Part(Role.SHADE, polygon((-1.0, 0.7), (-0.66, -0.1), (-0.2, 0.7))))
    parts += [
        Part(Role.SHADE, polygon((-0.1, 0.7), (0.48, far), (1.0, 0.7))),
        Part(Role.TINT, _snow(0.48, far, 0.55, (0.5, 0.58), 0.7 - far)),
        Part(Role.MAIN, polygon((-0.96, 0.72), (peak, -0.8), (0.62, 0.72))),
        Part(Role.SHADE, polygon((peak, -0.8), (0.62, 0.72), (peak + 0.12, 0.72), (peak - 0.06, -0.1)), line=False),
        Part(Role.TINT, _snow(peak, -0.8, 0.36, (0.96 + peak, 0.62 - peak), 1.52)),
    ]
    return parts


def _snow(x: float, top: float, share: float, halves: tuple[float, float], height: float) -> np.ndarray:
    left, right = (share * half for half in halves)
    low = top + share * height
    notch = 0.34 * share * height
    return polygon(
        (x, top),
        (x + right, low),
        (x + 0.45 * right, low - notch),
        (x, low),
        (x - 0.45 * left, low - notch),
        (x - left, low),
    )


def cup(rng: Random) -> list[Part]:
    """A steaming mug with a handle; plain, banded or dotted."""
    wide, low = rng.uniform(0.52, 0.62), rng.uniform(0.4, 0.5)
    ring = np.concatenate(
        [arc(wide - 0.06, 0.24, 0.38, 0.36, -0.25, 0.25), arc(wide - 0.06, 0.24, 0.21, 0.19, 0.25, -0.25)]
    )
    body = np.concatenate([polygon((-wide, -0.24), (wide, -0.24)), arc(0.0, 0.72, low, 0.16, 0.0, 0.5, 12)])
    parts = [Part(Role.MAIN, ring), Part(Role.MAIN, body)]
    parts.append(
        Part(Role.SHADE, polygon((wide * 0.5, -0.2), (wide, -0.2), (low, 0.74), (low * 0.6, 0.84)), line=False)
    )
    kind = rng.integers(3)
    if kind == 1:
        parts.append(
            Part(Role.TINT, polygon((-wide * 0.95, 0.2), (wide * 0.95, 0.2), (low * 1.08, 0.46), (-low * 1.08, 0.46)))
        )
    if kind == 2:
        dots = ((-0.27, 0.16), (0.05, 0.16), (-0.12, 0.46), (0.2, 0.46))
        parts += [Part(Role.WHITE, ellipse(x, y, 0.1, 0.1, n=14), line=False) for x, y in dots]
    parts.append(Part(Role.TINT, ellipse(0.0, -0.24, wide, 0.15)))
    parts.append(Part(Role.WOOD, ellipse(0.0, -0.23, wide - 0.1, 0.085), line=False))
    t = np.linspace(0.0, 1, 10)
    for x in (-0.25, 0.05, 0.3) if rng.random() < 0.5 else (-0.16, 0.2):
        wisp = np.stack([x + 0.09 * np.sin(2 * np.pi * t), -0.5 - 0.5 * t], 1)
        parts.append(Part(Role.MIST, wisp, 0.085))
    return parts


def star(rng: Random) -> list[Part]:
    """A five-pointed star, slim or stout, one side of each arm in shade."""
    outline = spokes(rng.uniform(0.4, 0.5), 1.0, 5, 0.0)
    facets = [np.stack([np.zeros(2), outline[k], outline[(k + 1) % 10]]) for k in range(0, 10, 2)]
    return [Part(Role.MAIN, outline), *(Part(Role.SHADE, facet, line=False) for facet in facets)]


def mushroom(rng: Random) -> list[Part]:
    """A domed cap with white spots on a pale stem."""
    stout, tall = rng.uniform(0.2, 0.27), rng.uniform(0.86, 1.0)
    stem = smooth(
        polygon(
            (-stout, 0.0),
            (stout, 0.0),
            (stout * 1.05, 0.5),
            (stout * 1.5, 0.9),
            (-stout * 1.5, 0.9),
            (-stout * 1.05, 0.5),
        )
    )
    cap = np.concatenate([arc(0.0, 0.12, 0.92, tall, 0.5, 1.0, 26), arc(0.0, 0.12, 0.92, 0.14, 0.0, 0.5, 14)])
    gills = np.concatenate([arc(0.0, 0.12, 0.8, 0.02, 0.5, 1.0, 6), arc(0.0, 0.12, 0.8, 0.13, 0.0, 0.5, 12)])
    spots = [(0.0, -0.5, 0.2, 0.16), (-0.5, -0.2, 0.17, 0.17), (0.5, -0.22, 0.16, 0.17), (0.02, -0.06, 0.15, 0.12)]
    spots = (
        spots
        if rng.random() < 0.6
        else [(-0.3, -0.44, 0.19, 0.17), (0.36, -0.4, 0.17, 0.17), (-0.02, -0.08, 0.16, 0.13)]
    )
    return [
        Part(Role.BONE, stem),
        Part(Role.MAIN, cap),
        Part(Role.SHADE, gills, line=False),
        *(Part(Role.WHITE, ellipse(*spot, n=18), line=False) for spot in spots),
    ]


def rocket(rng: Random) -> list[Part]:
    """A pointed hull with a dark nose, fins, one or two round windows and a flame."""
    wide, two = rng.uniform(0.3, 0.38), rng.random() < 0.4
    y = np.linspace(-1.0, 0.5, 14)
    half = wide * np.sin(np.pi * (0.02 + 0.74 * (y + 1) / 1.5)) ** 0.8
    hull = np.concatenate([np.stack([half, y], 1), np.stack([-half, y], 1)[::-1]])
    nose = np.concatenate([np.stack([half, y], 1)[:5], np.stack([-half, y], 1)[4::-1]])
    right = np.stack([half, y], 1)[4:]
    shade = np.concatenate([right, right[::-1] * np.array([0.5, 1])])
    flame = smooth(polygon((-0.17, 0.5), (0.17, 0.5), (0.17, 0.72), (0.0, 1.04), (-0.17, 0.72)), 4)
    parts = [Part(Role.FLAME, flame), Part(Role.WHITE, ellipse(0.0, 0.6, 0.075, 0.13, n=12), line=False)]
    for side in (-1, 1):
        fin = polygon((wide * 0.7, 0.02), (wide + 0.34, 0.44), (wide + 0.3, 0.76), (0.16, 0.5)) * np.array([side, 1])
        parts.append(Part(Role.SHADE, fin))
    parts += [Part(Role.MAIN, hull), Part(Role.SHADE, shade, line=False), Part(Role.SHADE, nose)]
    for cy in (-0.28, 0.14) if two else (-0.16,):
        radius = 0.13 if two else 0.18
        parts += [
            Part(Role.INK, ellipse(0.0, cy, radius + 0.05, radius + 0.05), line=False),
            Part(Role.WHITE, ellipse(0.0, cy, radius, radius), line=False),
        ]
    return parts


SUBJECT_PAINTERS: dict[str, Callable[[Random], list[Part]]] = {
    f.__name__: f for f in (sun, tree, house, boat, fish, cat, flower, mountain, cup, star, mushroom, rocket)
}
"""The function that draws each subject, by name."""
