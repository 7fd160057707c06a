"""The sheet of a grid: a cell for each pair of values, with the values beside rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rdm_jax.core import sheets
from rdm_jax.sweep.axes import PROMPT
from rdm_jax.sweep.plan import Sweep

GAP = 2  # pixels between the images of one cell
SHOWN_SIDE = 128  # small cells are enlarged to about this width
SHEET_PIXELS = 50_000_000  # cells of a larger sheet are reduced


def sheet(sweep: Sweep, images: Sequence[UInt8[np.ndarray, "_ _ _ 3"]]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns a sheet with a cell for each pair of values, and the values beside rows and columns.

    Args:
      sweep: the grid.
      images: of each cell; several of one cell are side by side in it.
    """
    across, *rest = sweep.axes
    cells = _same_size([_together(one) for one in images])
    shrink = math.ceil(math.sqrt(sum(one.size / 3 for one in cells) / SHEET_PIXELS))
    stacked = np.stack([np.asarray(Image.fromarray(one).reduce(shrink)) for one in cells])
    axes = [f"{across.key} across", *(f"{down.key} down" for down in rest)]
    shared = [] if PROMPT in {axis.name for axis in sweep.axes} else [", ".join(sweep.plans[0].prompts)]
    return sheets.grid(
        stacked.reshape(-1, len(across.texts), *stacked.shape[1:]),
        row_labels=rest[0].labels if rest else None,
        column_labels=across.labels,
        title=": ".join([*shared, ", ".join(axes)]),
        zoom=max(1, SHOWN_SIDE // stacked.shape[-2]),
    )


def _together(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns the images of a cell as one, about as many across as down."""
    count, height, width, _ = images.shape
    rows = sheets.in_rows(images, math.ceil(math.sqrt(count)))
    whole = sheets.blank(rows.shape[0] * (height + GAP) - GAP, rows.shape[1] * (width + GAP) - GAP)
    for row, column in np.ndindex(rows.shape[:2]):
        y, x = row * (height + GAP), column * (width + GAP)
        whole[y : y + height, x : x + width] = rows[row, column]
    return whole


def _same_size(cells: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Returns cells at the size of the largest, the background around smaller ones."""
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    filled = []
    for cell in cells:
        y, x = (height - cell.shape[0]) // 2, (width - cell.shape[1]) // 2
        whole = sheets.blank(height, width)
        whole[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
        filled.append(whole)
    return filled
