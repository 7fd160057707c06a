"""How much an image is like its nearest icon: the overlap of their ink, whatever their colors, in any small shift."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.conditioning.structure import ink
from rdm_jax.core.images import to_float
from rdm_jax.core.progress import ProgressCallback, StageProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.evaluation.icon_set_bench import Bench, Cell, other_icon
from rdm_jax.evaluation.similarity import block_means
from rdm_jax.evaluation.statistics import Proportion

SIDE = 32  # of the ink that is compared, in pixels
SHIFT = 1  # in these pixels, on each axis
CANDIDATES = 32  # icons whose overlap is measured, the most similar ones at a quarter of the pixels
BATCH = 512
READ = 4096  # images of a database at once
QUANTILE = 0.99  # of real icons of different sets are less alike than a copy and its icon

_ink = jax.jit(ink)


def inks(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n side side"]:
    """Returns the ink of images in at most `SIDE` pixels on each side, in levels of 255."""
    parts = []
    for start in range(0, len(images), BATCH):
        batch = np.asarray(images[start : start + BATCH])
        padded = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), np.uint8)])
        shapes = np.asarray(_ink(to_float(padded)))[: len(batch), ..., None]
        parts.append(np.rint(255 * block_means(shapes, max(1, shapes.shape[1] // SIDE))[..., 0]).astype(np.uint8))
    return np.concatenate(parts)


def overlap(shape: UInt8[np.ndarray, "h w"], others: UInt8[np.ndarray, "n h w"]) -> Float[np.ndarray, " n"]:
    """Returns the ink that a shape shares with each of the others over the ink of both, in the best of small shifts.

    It is the Jaccard index of fuzzy sets, sum(min) / sum(max): 1 for equal shapes, 0 for shapes without common ink.
    """
    padded = np.pad(shape.astype(np.int32), SHIFT)
    height, width = shape.shape
    both = shape.sum(dtype=np.int64) + others.sum(axis=(1, 2), dtype=np.int64)
    common = np.zeros(len(others), np.int64)
    for down in range(2 * SHIFT + 1):
        for right in range(2 * SHIFT + 1):
            moved = padded[down : down + height, right : right + width]
            common = np.maximum(common, np.minimum(moved[None], others).sum(axis=(1, 2), dtype=np.int64))
    return common / np.maximum(both - common, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class InkIndex:
    """The ink of many icons, to find the one that overlaps an image most.

    Attributes:
      shapes: of each icon.
    """

    shapes: UInt8[np.ndarray, "n side side"]

    def nearest(
        self,
        shapes: UInt8[np.ndarray, "m side side"],
        excluded: Sequence[Int[np.ndarray, " _"]] | None = None,
        progress: ProgressCallback | None = None,
    ) -> Float[np.ndarray, " m"]:
        """Returns the overlap of each shape with the icon that it overlaps most, among those alike in outline.

        Args:
          shapes: of the images.
          excluded: the icons that do not count, for each shape.
          progress: called with (shapes done, all shapes).
        """
        found = np.zeros(len(shapes))
        for row, shape in enumerate(shapes):
            similar = self._coarse @ _coarse(shape[None])[0]
            if excluded is not None:
                similar[excluded[row]] = -np.inf
            count = min(CANDIDATES, int(np.isfinite(similar).sum()))
            if count:
                places = np.argpartition(-similar, count - 1)[:count]
                found[row] = overlap(shape, self.shapes[places]).max()
            if progress:
                progress(row + 1, len(shapes))
        return found

    @functools.cached_property
    def _coarse(self) -> Float[np.ndarray, "n d"]:
        return _coarse(self.shapes)


def _coarse(shapes: UInt8[np.ndarray, "n side side"]) -> Float[np.ndarray, "n d"]:
    """Returns shapes at half their size as vectors of length 1."""
    side = max(1, shapes.shape[1] // (SIDE // 2))
    return unit(block_means(shapes[..., None], side).reshape(len(shapes), -1).astype(np.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class Inks:
    """The ink of all icons of a bench.

    Attributes:
      content: of the content database.
      styles: {style: that of its icons}.
    """

    content: InkIndex
    styles: Mapping[str, InkIndex]

    @staticmethod
    def of(bench: Bench, progress: StageProgressCallback) -> Inks:
        """Returns the ink of all icons, which are read."""
        every = [*bench.styles.items(), ("", bench.content)]
        total, found, done = sum(len(icons) for _, icons in every), {}, 0
        for name, icons in every:
            parts = []
            for start in range(0, len(icons), READ):
                parts.append(inks(icons.images[np.arange(start, min(start + READ, len(icons)))]))
                done += len(parts[-1])
                progress("reading icons", done, total)
            found[name] = InkIndex(np.concatenate(parts))
        return Inks(found.pop(""), found)


@dataclasses.dataclass(frozen=True, eq=False)
class Copies:
    """What counts as a copy of an icon of either database.

    Real icons of different sets are alike by nature: an arrow is an arrow. A copy is more alike than `QUANTILE` of
    them: of the designers' own icons of the cells, compared with the content database, and of other sets' icons of the
    same words, compared with each style database as images are.

    Attributes:
      bench: with the cells.
      inks: of its icons.
      real: {"content" or "style": the overlap of each real icon with the nearest icon of that database}.
    """

    bench: Bench
    inks: Inks
    real: Mapping[str, Float[np.ndarray, " n"]]

    @staticmethod
    def of(bench: Bench, icons: Inks, progress: StageProgressCallback) -> Copies:
        """Returns the thresholds of a bench."""
        own = [icons.styles[cell.style].shapes[row] for cell in bench.cells for row in bench.own(cell)[:1]]
        rows = [other_icon(bench.content, number, cell.word) for number, cell in enumerate(bench.cells)]
        known = [(cell, row) for cell, row in zip(bench.cells, rows, strict=True) if row is not None]
        cells, others = [cell for cell, _ in known], [icons.content.shapes[row] for _, row in known]
        real = {
            "content": _content_overlaps(icons, _stacked(own), progress),
            "style": _style_overlaps(bench, icons, _stacked(others), cells),
        }
        return Copies(bench, icons, {name: found for name, found in real.items() if len(found)})

    @property
    def thresholds(self) -> dict[str, float]:
        """{database: the overlap that a copy exceeds}, of the databases that real icons could be compared with."""
        return {name: float(np.quantile(found, QUANTILE)) for name, found in self.real.items()}

    def rates(self, shapes: UInt8[np.ndarray, "n side side"], progress: StageProgressCallback) -> dict[str, Any]:
        """Returns how many of the images of all cells are copies, and their median overlap, by database.

        Args:
          shapes: the ink of the images.
          progress: called with (stage, done, total).
        """
        found = {
            "content": _content_overlaps(self.inks, shapes, progress),
            "style": _style_overlaps(self.bench, self.inks, shapes, self.bench.cells),
        }
        return self._described(found)

    def record(self) -> dict[str, Any]:
        """Returns the thresholds, and what is measured of real icons, as JSON."""
        return {"quantile": QUANTILE, "thresholds": self.thresholds, "real": self._described(self.real)}

    def _described(self, found: Mapping[str, Float[np.ndarray, " n"]]) -> dict[str, Any]:
        return {
            name: {
                **Proportion(int((found[name] > threshold).sum()), len(found[name])).to_json(),
                "median": float(np.median(found[name])),
            }
            for name, threshold in self.thresholds.items()
        }


def _content_overlaps(
    icons: Inks, shapes: UInt8[np.ndarray, "n side side"], progress: StageProgressCallback
) -> Float[np.ndarray, " n"]:
    return icons.content.nearest(shapes, progress=lambda *at: progress("comparing with all icons", *at))


def _style_overlaps(
    bench: Bench, icons: Inks, shapes: UInt8[np.ndarray, "n side side"], cells: Sequence[Cell]
) -> Float[np.ndarray, " n"]:
    """Returns the overlap of each cell's shape with the nearest icon of its style that the cell is given."""
    found = np.zeros(len(shapes))
    for style, index in icons.styles.items():
        rows = [row for row, cell in enumerate(cells) if cell.style == style]
        found[rows] = index.nearest(shapes[rows], [bench.removed(cells[row]) for row in rows])
    return found


def _stacked(shapes: Sequence[UInt8[np.ndarray, "side side"]]) -> UInt8[np.ndarray, "n side side"]:
    return np.stack(shapes) if shapes else np.zeros((0, SIDE, SIDE), np.uint8)
