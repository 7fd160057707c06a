"""Contact sheets: images in rows and columns with labels that never overlap."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from rdm_jax.core import text as text_lines
from rdm_jax.core.fonts import Font

BACKGROUND = (246, 246, 244)
INK = (38, 38, 42)
ELLIPSIS = "..."
BREAKABLE = re.compile(r".*[-(,=/_]")  # as far as a piece of a word is whole


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The positions of images on a sheet, in pixels.

    Attributes:
      cell: (height, width) of an image.
      margin: around everything.
      gap: between columns.
      left: of the first column.
      tops: of the rows.
      bottom: of the last row's labels.
    """

    cell: tuple[int, int]
    margin: int
    gap: int
    left: int
    tops: Sequence[int]
    bottom: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Returns (x, y) of an image's upper left corner."""
        return self.left + column * (self.cell[1] + self.gap), self.tops[row]

    def size(self, columns: int) -> tuple[int, int]:
        """Returns (width, height) of the whole sheet."""
        return self.corner(0, columns)[0] - self.gap + self.margin, self.bottom + self.margin


def grid(
    images: UInt8[np.ndarray, "rows columns h w 3"],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    cell_labels: Sequence[Sequence[str]] | None = None,
    title: str | None = None,
    zoom: int = 2,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws images in rows and columns, with labels to the left, above, and below each image.

    Long labels are wrapped inside their own cell and shortened by an ellipsis after four lines.

    Args:
      images: [rows, columns, h, w, 3] the images; `blank` ones have the background color.
      row_labels: one text for each row, left of it.
      column_labels: one text for each column, above it.
      cell_labels: [rows][columns] one text for each image, below it; line breaks are kept.
      title: one text above the whole sheet.
      zoom: every pixel is drawn as zoom x zoom pixels.

    Raises:
      ValueError: there are no images, or a number of labels does not fit.
    """
    rows, columns, height, width, _ = images.shape
    _check_labels(rows, columns, row_labels, column_labels, cell_labels)
    cell = (height * zoom, width * zoom)
    font = Font(min(18, max(11, cell[1] // 9)))
    title_font = Font(min(26, max(14, cell[1] // 7)))
    gap, margin = max(6, cell[1] // 12), max(12, cell[1] // 7)

    row_width = min(max(cell[1], 140), 260)
    row_lines = [_wrap(text, row_width, font, _fitting(cell[0], font)) for text in row_labels or []]
    label_limit = cell[1] - gap // 2
    column_lines = [_wrap(text, label_limit, font) for text in column_labels or []]
    cell_lines = [[_wrap(text, label_limit, font) for text in texts] for texts in cell_labels or []]
    label_width = max((font.width(line) for lines in row_lines for line in lines), default=0)
    left = margin + (label_width + 2 * gap if label_width else 0)
    title_lines = _wrap(title or "", max(columns * (cell[1] + gap) - gap, 200), title_font, 3)
    top = margin + _band(title_lines, title_font, 2 * gap) + max((_band(c, font, gap) for c in column_lines), default=0)
    bands = [max(_band(lines, font, gap) for lines in texts) for texts in cell_lines] or [0] * rows
    tops = [top + row * (cell[0] + gap) + sum(bands[:row]) for row in range(rows)]
    layout = _Layout(cell, margin, gap, left, tops, tops[-1] + cell[0] + bands[-1])

    sheet_width, sheet_height = layout.size(columns)
    title_width = max((title_font.width(line) for line in title_lines), default=0)
    sheet = Image.new("RGB", (max(sheet_width, left + title_width + margin), sheet_height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (left, margin), title_lines, title_font)
    for column, lines in enumerate(column_lines):
        x, y = layout.corner(0, column)
        _write(draw, (x + cell[1] // 2, y - _band(lines, font, gap)), lines, font, anchor="ma")
    for row, lines in enumerate(row_lines):
        y = layout.corner(row, 0)[1] + (cell[0] - _band(lines, font, 0)) // 2
        _write(draw, (left - 2 * gap, y), lines, font, anchor="ra")
    for row, column in np.ndindex(rows, columns):
        x, y = layout.corner(row, column)
        sheet.paste(_zoomed(images[row, column], zoom), (x, y))
        if cell_lines:
            _write(draw, (x + cell[1] // 2, y + cell[0] + gap // 2), cell_lines[row][column], font, anchor="ma")
    return np.array(sheet)


def blank(height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an image in the sheet's background color, for empty cells."""
    return np.broadcast_to(np.array(BACKGROUND, np.uint8), (height, width, 3)).copy()


def in_rows(images: UInt8[np.ndarray, "n h w 3"], columns: int) -> UInt8[np.ndarray, "rows columns h w 3"]:
    """Lays images out in rows of `columns`, the last row padded with blank ones."""
    count, height, width, _ = images.shape
    missing = -count % columns
    filled = np.concatenate([images, np.stack([blank(height, width)] * missing)]) if missing else images
    return filled.reshape(-1, columns, height, width, 3)


def _check_labels(
    rows: int,
    columns: int,
    row_labels: Sequence[str] | None,
    column_labels: Sequence[str] | None,
    cell_labels: Sequence[Sequence[str]] | None,
) -> None:
    if rows * columns == 0:
        raise ValueError("a sheet needs at least one image")
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} row labels for {rows} rows")
    if column_labels is not None and len(column_labels) != columns:
        raise ValueError(f"{len(column_labels)} column labels for {columns} columns")
    if cell_labels is not None and (len(cell_labels) != rows or any(len(texts) != columns for texts in cell_labels)):
        raise ValueError(f"cell labels do not form {rows} rows of {columns}")


def _fitting(height: int, font: Font) -> int:
    return max(1, height // font.line_height)


def _band(lines: Sequence[str], font: Font, space: int) -> int:
    return len(lines) * font.line_height + space if lines else 0


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    lines: Sequence[str],
    font: Font,
    anchor: str = "la",
) -> None:
    x, y = corner
    for number, line in enumerate(lines):
        font.write(draw, (x, y + number * font.line_height), line, INK, anchor)


def _zoomed(image: UInt8[np.ndarray, "h w 3"], zoom: int) -> Image.Image:
    return Image.fromarray(np.repeat(np.repeat(image, zoom, axis=0), zoom, axis=1))


def _wrap(text: str, width: int, font: Font, max_lines: int = 4) -> list[str]:
    """Breaks a text at spaces, and a word that is too long behind its punctuation, into lines of at most `width`."""
    lines: list[str] = []
    for paragraph in text_lines.lines(text):
        line = ""
        for word in paragraph.split():
            for piece in _pieces(word, width, font):
                joined = f"{line} {piece}" if line else piece
                if not line or font.width(joined) <= width:
                    line = joined
                else:
                    lines.append(line)
                    line = piece
        if line:
            lines.append(line)
    if len(lines) <= max_lines:
        return lines
    return [*lines[: max_lines - 1], _shortened(lines[max_lines - 1], width, font)]


def _pieces(word: str, width: int, font: Font) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.width(pieces[-1] + letter) > width:
            head = BREAKABLE.match(pieces[-1])
            kept = head.end() if head else len(pieces[-1])
            pieces[-1:] = [pieces[-1][:kept], pieces[-1][kept:]]
        pieces[-1] += letter
    return pieces


def _shortened(line: str, width: int, font: Font) -> str:
    while line and font.width(line + ELLIPSIS) > width:
        line = line[:-1]
    return line.rstrip() + ELLIPSIS
