"""The contact sheet of an extended icon set: the new icons beside existing ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.cli import records, run_sheets
from rdm_jax.core import images, sheets
from rdm_jax.retrieval.mixture import Mixture

COLUMNS = 4  # of new icons, and as many of existing ones
SIDE = 128  # the longest side of a cell; an icon that was rendered larger is shown smaller


def contact_sheet(
    folder: Path, entries: Sequence[Mapping[str, Any]], database: Mixture | None
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns a sheet with a run's images to the left and, to the right, the images that were most often neighbors.

    Args:
      folder: of the run.
      entries: of its images, from `records.run_entry`; as many of the first ones are shown as fit.
      database: that neighbors are from; None without.

    Raises:
      UserError: a file or the database cannot be read.
    """
    first = images.read_image(folder / entries[0]["file"])
    height, width = (max(1, round(side * min(1.0, SIDE / max(first.shape)))) for side in first.shape[:2])
    all_rows = -(-len(entries) // COLUMNS)
    rows = run_sheets.rows_that_fit(np.broadcast_to(np.uint8(0), (all_rows, 2 * COLUMNS, height, width, 3)))
    shown = entries[: rows * COLUMNS]
    new = [images.read_image(folder / entry["file"]) for entry in shown]
    columns, labels = [_cells(new, rows, height, width)], [_texts([_label(entry) for entry in shown], rows)]
    titles = ["new", *[""] * (COLUMNS - 1)]
    if database is not None:
        names, ids = _most_used(entries, rows * COLUMNS)
        captions = [item["caption"] or item["path"] for item in database.items(names, ids)]
        columns.append(_cells(list(database.thumbnails(names, ids)), rows, height, width))
        labels.append(_texts(captions, rows))
        titles += [f"in {database.name}", *[""] * (COLUMNS - 1)]
    cells = np.concatenate(columns, axis=1)
    texts = [[text for part in row for text in part] for row in zip(*labels, strict=True)]
    return sheets.grid(cells, column_labels=titles, cell_labels=texts, zoom=run_sheets.zoom_of(cells))


def _label(entry: Mapping[str, Any]) -> str:
    """Returns an image's prompt, marked where no content is near it."""
    known = entry.get("content", {}).get("known", True)
    return entry["prompt"] if known else f"{entry['prompt']} {records.UNKNOWN}"


def _most_used(entries: Sequence[Mapping[str, Any]], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the databases and the rows that were neighbors of the most images."""
    counts = Counter((one["database"], one["id"]) for entry in entries for one in entry["neighbors"])
    best = [row for row, _ in counts.most_common(most)]
    return np.array([name for name, _ in best]), np.array([row for _, row in best], np.int64)


def _cells(found: Sequence[np.ndarray], rows: int, height: int, width: int) -> UInt8[np.ndarray, "rows columns h w 3"]:
    """Lays images out in a number of rows, with blank ones at the end."""
    blank = [sheets.blank(height, width)] * (rows * COLUMNS - len(found))
    fitted = [run_sheets.fitted(image, height, width) for image in found]
    return np.stack([*fitted, *blank]).reshape(rows, COLUMNS, height, width, 3)


def _texts(labels: Sequence[str], rows: int) -> list[list[str]]:
    filled = [*labels, *[""] * (rows * COLUMNS - len(labels))]
    return [filled[row * COLUMNS : (row + 1) * COLUMNS] for row in range(rows)]
