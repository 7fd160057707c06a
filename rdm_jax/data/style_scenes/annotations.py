"""The objects of an image of the set, and the label of each of its pixels: the layout from which it was drawn.

An example depends on its split, its index and the seed alone, so that its layout is found again without its pixels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import UInt8

from rdm_jax.data.style_scenes.builder import laid_out
from rdm_jax.data.style_scenes.layout import Layout
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles.brush import labels
from rdm_jax.data.style_scenes.vocabulary import SIZE, SUBJECTS

GROUND, FLOOR = "ground", "floor"
OBJECTS = (*SUBJECTS, FLOOR)  # the classes of objects
LABELS = (GROUND, FLOOR, *SUBJECTS)  # those of pixels


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What an image shows.

    Attributes:
      boxes: (class, (left, top, width, height)) of each object; the class is an index in `OBJECTS`, the box a fraction
        of the image.
      labels: an index in `LABELS` of each pixel; subject and floor are seen where they are not hidden.
    """

    boxes: tuple[tuple[int, tuple[float, float, float, float]], ...]
    labels: UInt8[np.ndarray, "64 64"]


def annotation(split: str, index: int, seed: int = 0) -> Annotation:
    """Returns the annotation of an example; see `builder.example`."""
    subject, layout = laid_out(split, index, seed)
    roles = labels(layout, SIZE)
    shown = np.where(roles > Role.FLOOR, LABELS.index(subject), roles).astype(np.uint8)
    parts = {
        OBJECTS.index(subject): tuple(part for part in layout if part.role != Role.FLOOR),
        OBJECTS.index(FLOOR): tuple(part for part in layout if part.role == Role.FLOOR),
    }
    return Annotation(tuple((number, _box(own)) for number, own in parts.items() if own), shown)


def _box(parts: Layout) -> tuple[float, float, float, float]:
    """Returns the box around parts within the image."""
    points = np.clip(np.concatenate([part.points for part in parts]), 0.0, 1.0)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right - left, bottom - top
