"""What shows the content of a query: images that mean the prompt, or the image that was given as the query."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rdm_jax.conditioning.roles import StyleReferences, neighbor_images
from rdm_jax.core.images import fit
from rdm_jax.core.vectors import unit
from rdm_jax.data.icons.tags import shipped_tags
from rdm_jax.data.selection import Selection
from rdm_jax.models.word_table import WordTable
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors, Retriever, map_neighbors
from rdm_jax.retrieval.word_vectors import WordVectors
from rdm_jax.retrieval.words import WordSearch

POOL = 64  # rows of the best captions, of which those are taken that fit best

Fit = Callable[[Neighbors], Float[np.ndarray, " n"]]
"""How well the n rows of one query fit it; higher is better."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What shows each query's content.

    Attributes:
      neighbors: [q, c] rows of the content databases, best first; -1 stands for an image that the user gave.
      images: [q, c, h, w, 3] their images, at the size of those that are made.
      known: [q] whether anything is near the query.
      nearest: of each query that nothing is near, the nearest known words.
    """

    neighbors: Neighbors
    images: UInt8[np.ndarray, "q c h w 3"]
    known: Bool[np.ndarray, " q"]
    nearest: Sequence[Sequence[str]]

    def take(self, rows: Sequence[int] | Int[np.ndarray, " r"]) -> Content:
        """Returns the content of some queries."""
        rows = np.asarray(rows, np.int64)
        neighbors = map_neighbors(lambda part: part[rows], self.neighbors)
        return Content(neighbors, self.images[rows], self.known[rows], [self.nearest[int(row)] for row in rows])

    def replaced(
        self, rows: Int[np.ndarray, " r"], neighbors: Neighbors, images: UInt8[np.ndarray, "r c h w 3"], known: bool
    ) -> Content:
        """Returns the content with other neighbors and images of some queries.

        Args:
          rows: the queries.
          neighbors: [r, c] of these.
          images: of the neighbors.
          known: whether the user chose them, so that nothing is missing where no word was near.
        """

        def put(part: np.ndarray, changed: np.ndarray) -> np.ndarray:
            """Returns an array with the rows changed; names may be longer than those before."""
            whole = part.astype(np.result_type(part, changed))
            whole[rows] = changed
            return whole

        near = self.known | (known & np.isin(np.arange(len(self.known)), rows))
        nearest = [() if good else words for good, words in zip(near, self.nearest, strict=True)]
        return Content(map_neighbors(put, self.neighbors, neighbors), put(self.images, images), near, nearest)

    @staticmethod
    def joined(parts: Sequence[Content]) -> Content:
        """Returns the content of the queries of several, in this order; all have as many images for each."""
        return Content(
            map_neighbors(lambda *several: np.concatenate(several), *(part.neighbors for part in parts)),
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.known for part in parts]),
            [words for part in parts for words in part.nearest],
        )


@dataclasses.dataclass(frozen=True)
class ContentSearch:
    """Finds content for queries, by words where the databases have captions, otherwise by vectors.

    Attributes:
      encoder: of the model.
      retriever: of the content databases.
      searches: of each database's captions; None for one without.
    """

    encoder: ClipEncoder
    retriever: Retriever
    searches: Sequence[WordSearch | None]

    @staticmethod
    def of(encoder: ClipEncoder, retriever: Retriever) -> ContentSearch:
        """Returns the search of a retriever's databases."""
        searches = [_word_search(database, encoder, retriever.selection) for database in retriever.databases]
        return ContentSearch(encoder, retriever, searches)

    def find(
        self,
        prompts: Sequence[str],
        queries: Float[np.ndarray, "q d"],
        given: Sequence[UInt8[np.ndarray, "_ _ 3"] | None],
        count: int,
        size: tuple[int, int],
        style: StyleReferences | None = None,
    ) -> Content:
        """Returns the content of queries: rows of the best captions, of which those nearest to the style come first.

        A design of the same kind is easier to bring into a style: a filled one where the style is filled.

        Args:
          prompts: their texts.
          queries: their vectors.
          given: the image that a query is, which is its own content; None where it is a text.
          count: c, the content neighbors of each.
          size: (height, width) of the images that are made.
          style: the style neighbors of the queries; without them, rows of equal captions are sorted by how near they
            are to the query.
        """
        found, known, nearest = [], [], []
        for place, (prompt, query, image) in enumerate(zip(prompts, queries, given, strict=True)):
            if image is not None:
                best, is_known, words = self._given(query, count), True, []
            else:
                best, is_known, words = self._search(prompt, query, count, self._fit(query, style, place))
            found.append(best)
            known.append(is_known)
            nearest.append(words)
        neighbors = map_neighbors(lambda *parts: np.concatenate(parts), *found)
        images = np.zeros((*neighbors.ids.shape, *size, 3), np.uint8)
        for place, image in enumerate(given):
            stored = self.retriever.databases
            images[place] = neighbor_images(stored, found[place], size)[0] if image is None else fit(image, *size)
        return Content(neighbors, images, np.array(known, bool), nearest)

    def _given(self, query: np.ndarray, count: int) -> Neighbors:
        shape = (1, count)
        embeddings = np.tile(query.astype(np.float32), (*shape, 1))
        return Neighbors(np.full(shape, -1, np.int64), np.ones(shape, np.float32), embeddings, np.full(shape, ""))

    def _fit(self, query: np.ndarray, style: StyleReferences | None, place: int) -> Fit:
        """Returns what measures how well rows fit a query: its style, or else its vector."""
        if style is None:
            return lambda rows: (unit(rows.embeddings) @ unit(query.astype(np.float32)))[0]

        def near(rows: Neighbors) -> Float[np.ndarray, " n"]:
            images = neighbor_images(self.retriever.databases, rows, style.style.size)[0]
            return style.agreement(images, np.full(len(images), place))

        return near

    def _search(self, prompt: str, query: np.ndarray, count: int, fit: Fit) -> tuple[Neighbors, bool, list[str]]:
        """Returns the best rows of all databases for one prompt."""
        if all(search is None for search in self.searches):
            return self.retriever.retrieve(query[None], count, default=True), True, []
        parts, known, words = [], False, []
        for database, search in zip(self.retriever.databases, self.searches, strict=True):
            if search is None:
                continue
            matches = search.search([prompt], min(POOL, sum(map(len, search.rows))))
            parts.append((database, matches.ids[0], matches.scores[0]))
            known |= bool(matches.known[0])
            words += [] if matches.known[0] else search.nearest_words(prompt)
        return _best(parts, count, fit), known, [] if known else words


def _best(parts: Sequence[tuple[Database, np.ndarray, np.ndarray]], count: int, fit: Fit) -> Neighbors:
    """Returns the rows of the best captions; among those of equal captions the ones that fit best."""
    ids = np.concatenate([rows for _, rows, _ in parts])
    scores = np.concatenate([score for _, _, score in parts]).astype(np.float32)
    embeddings = np.concatenate([database.embeddings(rows) for database, rows, _ in parts])
    names = np.concatenate([np.full(len(rows), database.name) for database, rows, _ in parts])
    grades = scores.round(4)
    # Only rows that are as good as the last one taken, or better, need to be compared.
    good = np.flatnonzero(grades >= np.sort(grades)[::-1][min(count, len(grades)) - 1])
    rows = Neighbors(ids[good][None], scores[good][None], embeddings[good][None], names[good][None])
    fits = fit(rows) if len(good) > 1 else np.zeros(1)
    best = np.resize(np.lexsort((-fits, -grades[good]))[:count], count)
    return map_neighbors(lambda part: part[:, best], rows)


def _word_search(database: Database, encoder: ClipEncoder, selection: Selection) -> WordSearch | None:
    """Returns the search of a database's captions; None if it has none."""
    captions = database.column("caption").to_pylist()
    admitted = database.mask(selection)
    if not any(caption and good for caption, good in zip(captions, admitted, strict=True)):
        return None
    bundle = encoder.bundle
    if not isinstance(bundle.clip.text, WordTable):
        return WordSearch.of(captions, encoder, admitted=admitted)
    known: Any = bundle.tokenizer.words if bundle.tokenizer else None
    words = WordVectors.of(bundle)
    return WordSearch.of(captions, words, tags=shipped_tags(), vocabulary=known, admitted=admitted)
