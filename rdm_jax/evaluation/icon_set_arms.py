"""The arms of icon set expansion: a model, and what it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.conditioning.roles import two_roles
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.data.icons.held_out import HELD_OUT
from rdm_jax.evaluation.icon_set_bench import Bench, Cell, Icons, other_icon
from rdm_jax.generator import Generator
from rdm_jax.retrieval.encoder import RetrievalEncoder
from rdm_jax.retrieval.retriever import Neighbors, Retriever, map_neighbors


@dataclasses.dataclass(frozen=True)
class WithoutRows(Retriever):
    """A retriever of one database that leaves out rows, others for each query.

    Attributes:
      excluded: the rows that each query does not get.
    """

    excluded: Sequence[Int[np.ndarray, " _"]] = ()

    def at_most(self, k: int) -> int:
        """Returns k, or the number of rows that every query may get if that is less."""
        return super().at_most(min(k, len(self.databases[0]) - self._most))

    def retrieve(self, queries: Float[np.ndarray, "q d"], k: int, *, default: bool = False) -> Neighbors:
        """Returns the k nearest rows of each query that are not excluded for it.

        Raises:
          UserError: k is out of range.
          ValueError: there are more or fewer queries than lists of excluded rows.
        """
        if len(queries) != len(self.excluded):
            raise ValueError(f"{len(queries)} queries, and rows are excluded for {len(self.excluded)}")
        k = self.at_most(k) if default else k
        available = len(self.databases[0]) - self._most
        if k > available:
            raise UserError(f"k {k} is out of range; without the rows left out there are {available}")
        found = super().retrieve(queries, k + self._most)
        out = np.stack([np.isin(ids, rows) for ids, rows in zip(found.ids, self.excluded, strict=True)])
        places = np.argsort(out, axis=1, kind="stable")[:, :k]
        return map_neighbors(lambda part: np.take_along_axis(part, _like(places, part), axis=1), found)

    @property
    def _most(self) -> int:
        return max(map(len, self.excluded), default=0)


def _like(places: Int[np.ndarray, "q k"], part: np.ndarray) -> np.ndarray:
    """Returns places with as many axes as the array whose rows they name."""
    return places.reshape(*places.shape, *[1] * (part.ndim - 2))


def style_retriever(bench: Bench, encoder: RetrievalEncoder, cells: Sequence[Cell]) -> WithoutRows:
    """Returns the retriever of the database of the cells' style, each query without the icons that match its word.

    Raises:
      UserError: another encoder made the database.
    """
    icons = bench.styles[cells[0].style]
    assert icons.database is not None
    return WithoutRows(encoder, [icons.database], excluded=[bench.removed(cell) for cell in cells])


@dataclasses.dataclass(frozen=True, eq=False)
class ModelArm:
    """Images of a model.

    Attributes:
      name: its key in the results.
      title: its name in a table.
      generator: the model.
      bench: with the databases.
      options: of `Generator.sample`: guidance, seed, candidates, ...
      named: whether the prompt names the style, and style neighbors come from the content database.
    """

    name: str
    title: str
    generator: Generator
    bench: Bench
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    named: bool = False

    def generate(self, cells: Sequence[Cell], progress: ProgressCallback) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the image of each cell: one call of the model for each style, with the same noise for all styles.

        Raises:
          UserError: an option or a database does not fit the model.
        """
        images: dict[int, np.ndarray] = {}
        for rows in by_style(cells):
            begin = len(images)

            def report(done: int, total: int, begin: int = begin, count: int = len(rows)) -> None:
                progress(begin + count * done // max(total, 1), len(cells))

            result = self._sample([cells[row] for row in rows], report)
            images.update(zip(rows, result, strict=True))
        return np.stack([images[row] for row in range(len(cells))])

    def _sample(self, cells: Sequence[Cell], progress: ProgressCallback) -> UInt8[np.ndarray, "n h w 3"]:
        content = self.bench.content.database
        assert content is not None
        options = {"content_database": content} if two_roles(self.generator.bundle) else {}
        if self.named:
            prompts = [f"{cell.word}, {HELD_OUT.get(cell.style, cell.style)}" for cell in cells]
            database: Any = content
        else:
            prompts = [cell.word for cell in cells]
            database = style_retriever(self.bench, self.generator.encoder, cells)
        options |= self.options
        return self.generator.sample(prompts, database=database, progress=progress, **options).images


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalArm:
    """The style's own icon that is nearest to the word: the style without the concept.

    Attributes:
      bench: with the style databases.
      encoder: of the words.
    """

    bench: Bench
    encoder: RetrievalEncoder
    name: str = "retrieval"
    title: str = "retrieval alone: the style's nearest icon"

    def generate(self, cells: Sequence[Cell], progress: ProgressCallback) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns the nearest icon of each cell's style."""
        images: dict[int, np.ndarray] = {}
        for rows in by_style(cells):
            chosen = [cells[row] for row in rows]
            queries = self.encoder.encode_texts([cell.word for cell in chosen])
            found = style_retriever(self.bench, self.encoder, chosen).retrieve(queries, 1)
            images.update(zip(rows, self.bench.styles[chosen[0].style].images[found.ids[:, 0]], strict=True))
            progress(len(images), len(cells))
        return np.stack([images[row] for row in range(len(cells))])


@dataclasses.dataclass(frozen=True, eq=False)
class ContentArm:
    """Another set's icon of the word: the concept without the style.

    Attributes:
      bench: with the content database.
      encoder: of the words that are no caption there, for which the nearest icon is taken.
    """

    bench: Bench
    encoder: RetrievalEncoder
    name: str = "content"
    title: str = "content alone: another set's icon"

    def generate(self, cells: Sequence[Cell], progress: ProgressCallback) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns an icon of each cell's word, another one for each cell."""
        icons = self.bench.content
        rows = [other_icon(icons, number, cell.word) for number, cell in enumerate(cells)]
        missing = sorted({cell.word for cell, row in zip(cells, rows, strict=True) if row is None})
        nearest = dict(zip(missing, self._nearest(icons, missing), strict=True))
        found = [nearest[cell.word] if row is None else row for cell, row in zip(cells, rows, strict=True)]
        progress(len(cells), len(cells))
        return icons.images[np.array(found, np.int64)]

    def _nearest(self, icons: Icons, words: Sequence[str]) -> list[int]:
        if not words:
            return []
        assert icons.database is not None
        found = Retriever(self.encoder, [icons.database]).retrieve(self.encoder.encode_texts(words), 1)
        return found.ids[:, 0].tolist()


def by_style(cells: Sequence[Cell]) -> list[list[int]]:
    """Returns the positions of the cells of each style."""
    groups: dict[str, list[int]] = {}
    for row, cell in enumerate(cells):
        groups.setdefault(cell.style, []).append(row)
    return list(groups.values())
