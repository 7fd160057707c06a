"""The colors of the set of images that databases hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdm_jax.core.images import resize_and_crop
from rdm_jax.core.palette import Palette, palette_of
from rdm_jax.retrieval.database import Database

SAMPLED = 64  # images, evenly from all rows


def palette_of_databases(databases: Sequence[Database]) -> Palette | None:
    """Returns the colors of the images in databases, from a sample of them; None where one keeps no images.

    Raises:
      UserError: a database is damaged.
    """
    if not all(database.has_thumbnails for database in databases):
        return None
    size = max(int(database.manifest["thumbnail_size"]) for database in databases)
    each = max(1, SAMPLED // len(databases))
    samples = [database.thumbnails(_evenly(len(database), each)) for database in databases]
    return palette_of(np.stack([resize_and_crop(image, size) for images in samples for image in images]))


def _evenly(rows: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, min(rows, count)).round().astype(np.int64))
