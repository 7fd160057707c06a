"""The sheets of a run: all images side by side, and each with its neighbors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from rdm_jax.cli.content import ContentRecord
from rdm_jax.cli.records import marked
from rdm_jax.core import sheets
from rdm_jax.generator import Result
from rdm_jax.retrieval.mixture import Mixture

# A single row of samples is wrapped after so many.
COLUMNS = 8
# The most samples of one database in a sheet of several databases.
MOST_COLUMNS = 16
# Rows beyond so many pixels are cut off, except the first.
SHEET_PIXELS = 50_000_000
SHEET_SIDE = 128


def grid_sheet(results: Sequence[tuple[str, Result]]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns a sheet of prompts by samples; with several databases, of databases by the samples of all prompts.

    Args:
      results: (the database's name, "" where there is only one, and its result).
    """
    if len(results) > 1:
        images = np.stack([result.images[:MOST_COLUMNS] for _, result in results])
        images = images[: rows_that_fit(images)]
        prompts = marked(results[0][1])[: images.shape[1]]
        styles = [style for style, _ in results[: len(images)]]
        return sheets.grid(images, row_labels=styles, column_labels=prompts, zoom=zoom_of(images))
    result = results[0][1]
    count = result.request.num_images
    labels, images = marked(result)[::count], result.images.reshape(-1, count, *result.images.shape[1:])
    if len(images) == 1:
        images = sheets.in_rows(images[0], min(COLUMNS, count))
        labels = labels + [""] * (len(images) - 1)
    images = images[: rows_that_fit(images)]
    return sheets.grid(images, row_labels=labels[: len(images)], zoom=zoom_of(images))


def neighbor_sheet(
    result: Result, database: Mixture, content: ContentRecord | None = None
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Returns a sheet with a row for each image: what showed its content, and the thumbnails of its neighbors.

    Args:
      result: the images.
      database: that the neighbors are from.
      content: of the images; None where the model has no such role.
    """
    assert result.neighbors is not None
    ids, scores, names = result.neighbors.ids, result.neighbors.scores, result.neighbors.databases
    height, width = result.images.shape[1:3]
    width_of_row = 1 + ids.shape[1] + (content is not None)
    fitting = rows_that_fit(np.broadcast_to(result.images[:, None], (len(ids), width_of_row, height, width, 3)))
    cells, texts = [], []
    several = len(database.databases) > 1
    for image, index, row, origins, cosines in zip(
        result.images[:fitting], result.indices, ids, names, scores, strict=False
    ):
        shown, marks = _shown(content, index, height, width)
        thumbnails = [fitted(thumbnail, height, width) for thumbnail in database.thumbnails(origins, row)]
        cells.append(np.stack([image, *shown, *thumbnails]))
        pairs = zip(cosines, origins.tolist(), strict=True)
        texts.append(["", *marks, *(f"{cosine:.3f}{f' {name}' if several else ''}" for cosine, name in pairs)])
    numbered = (f"neighbor {place}" for place in range(1, ids.shape[1] + 1))
    columns = ["sample", *(["content"] if content else []), *numbered]
    return sheets.grid(
        np.stack(cells),
        row_labels=marked(result)[:fitting],
        column_labels=columns,
        cell_labels=texts,
        title=f"neighbors in {database.name}",
        zoom=zoom_of(result.images),
    )


def _shown(
    content: ContentRecord | None, index: int, height: int, width: int
) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[str]]:
    """Returns the cell of what showed an image's content, and its label; none without content."""
    if content is None:
        return [], []
    image, score = content.shown(index)
    return [fitted(image, height, width)], [f"{score:.3f}"]


def zoom_of(images: np.ndarray) -> int:
    """Returns how often a sheet repeats each pixel of images [..., h, w, 3], so that small ones can be seen."""
    return max(1, SHEET_SIDE // images.shape[-2])


def rows_that_fit(images: np.ndarray) -> int:
    """Returns how many rows of images [rows, columns, h, w, 3] a sheet has, so that it stays small enough to open."""
    rows, columns, height, width = images.shape[:4]
    return min(rows, max(1, SHEET_PIXELS // (columns * height * width * zoom_of(images) ** 2)))


def fitted(image: UInt8[np.ndarray, "_ _ 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an image as a cell of a sheet, as large as fits, with the sheet's background around it."""
    size = (width, height)
    return np.asarray(ImageOps.pad(Image.fromarray(image), size, Image.Resampling.BICUBIC, color=sheets.BACKGROUND))
