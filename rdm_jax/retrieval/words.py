"""Finds the rows of a database whose captions mean what a text means: by the words themselves and by their vectors.

A caption's score is its cosine to the text, plus the fraction of the text's words that it has (BM25), plus a constant
if the text is one of its tags. Sums rank better than reciprocal ranks do; benchmarks/words.py compares them with their
parts. Equal scores are in the order of the database.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.data.vocabulary import Vocabulary
from rdm_jax.retrieval.bm25 import BM25

CAPTION_WEIGHT = 1.0
"""Of the fraction of a text's words that a caption has; cosines have 1."""
TAG_WEIGHT = 0.3
"""Of captions of which the text is a tag."""
NEAR = 0.4
"""Nothing is near a text whose best score is lower."""

_WORD = re.compile(r"[^\W_]+")
_NO_TAGS: Mapping[str, Sequence[str]] = {}


@runtime_checkable
class TextEncoder(Protocol):
    """Maps texts to vectors; the encoder of a database is one."""

    def encode_texts(self, texts: Sequence[str], /) -> np.ndarray:
        """Maps n texts to float32 [n, d]."""
        ...


@dataclasses.dataclass(frozen=True)
class Matches:
    """The rows that fit each text best, best first.

    Attributes:
      ids: [q, k] rows of the database.
      scores: [q, k] of their captions.
      known: [q] whether something is near the text, and no word of it is unknown.
    """

    ids: Int64[np.ndarray, "q k"]
    scores: Float32[np.ndarray, "q k"]
    known: Bool[np.ndarray, " q"]


@dataclasses.dataclass(frozen=True)
class WordSearch:
    """Searches the captions of a database; of a caption that many rows have, all rows are equally good.

    Attributes:
      captions: the different captions, in the order of their first rows.
      rows: the rows of each caption, ascending.
      vectors: [n, d] of the captions, at unit length.
      encoder: of the texts, the one that made the vectors.
      tags: {caption: other words for it}, in lower case.
      vocabulary: the words that the encoder knows; None if it is not known which.
    """

    captions: Sequence[str]
    rows: Sequence[np.ndarray]
    vectors: Float[np.ndarray, "n d"]
    encoder: TextEncoder
    tags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    vocabulary: Vocabulary | None = None

    @staticmethod
    def of(
        captions: Sequence[str | None],
        encoder: TextEncoder,
        *,
        tags: Mapping[str, Sequence[str]] = _NO_TAGS,
        vocabulary: Vocabulary | None = None,
        admitted: Bool[np.ndarray, " n"] | None = None,
    ) -> WordSearch:
        """Returns the search of captions; encodes the different ones.

        Args:
          captions: of each row, None where there is none (`Database.column("caption").to_pylist()`).
          encoder: of captions and texts.
          tags: {caption: other words for it}, in lower case (`data.icons.tags.shipped_tags`).
          vocabulary: the words that the encoder knows (`CaptionTokenizer.words`).
          admitted: which rows may be found (`Database.mask`); all if None.

        Raises:
          UserError: no admitted row has a caption.
        """
        rows: dict[str, list[int]] = {}
        for row, caption in enumerate(captions):
            if caption and (admitted is None or admitted[row]):
                rows.setdefault(caption, []).append(row)
        if not rows:
            raise UserError("no row has a caption to search for words; choose a database with captions, or other rows")
        vectors = unit(encoder.encode_texts(list(rows)), np.float32)
        return WordSearch(list(rows), [np.array(found) for found in rows.values()], vectors, encoder, tags, vocabulary)

    def search(self, texts: Sequence[str], k: int) -> Matches:
        """Returns the k best rows for each text.

        Args:
          texts: words or short phrases.
          k: at most the number of rows with captions.

        Raises:
          UserError: k is out of range.
        """
        available = sum(map(len, self.rows))
        if not 1 <= k <= available:
            raise UserError(f"k {k} is out of range; {available} rows have captions, give 1 to {available}")
        ids = np.zeros((len(texts), k), np.int64)
        scores = np.zeros((len(texts), k), np.float32)
        for place, total in enumerate(self.scores(texts)):
            best = largest(total, k)
            counts = [len(self.rows[caption]) for caption in best]
            ids[place] = np.concatenate([self.rows[caption] for caption in best])[:k]
            scores[place] = np.repeat(total[best], counts)[:k]
        known = [bool(best >= NEAR) and not self.unknown(text) for text, best in zip(texts, scores[:, 0], strict=True)]
        return Matches(ids, scores, np.array(known, bool))

    def scores(self, texts: Sequence[str]) -> Float32[np.ndarray, "q n"]:
        """Returns the score of every caption for each text: the cosine, and the words that they have in common."""
        return self.cosines(texts) + self.lexical(texts)

    def cosines(self, texts: Sequence[str]) -> Float32[np.ndarray, "q n"]:
        """Returns the cosine of every caption to each text."""
        return unit(self.encoder.encode_texts(list(texts)), np.float32) @ self.vectors.T

    def lexical(self, texts: Sequence[str]) -> Float32[np.ndarray, "q n"]:
        """Returns what the words of every caption and its tags add for each text."""
        return np.array([self._lexical(stems(text)) for text in texts], np.float32).reshape(len(texts), -1)

    def unknown(self, text: str) -> list[str]:
        """Returns the words of a text that neither the encoder nor a caption nor a tag has."""
        if self.vocabulary is None or joined(stems(text)) in self._tagged:
            return []
        terms = self._index.postings
        return [word for word in self.vocabulary.unknown(text, len(text)) if not terms.keys() & set(stems(word))]

    def nearest_words(self, text: str, count: int = 3) -> list[str]:
        """Returns the words of captions that are most like a text: in spelling first, then by vector."""
        alike = [term for term in self._index.terms if abs(len(term) - len(text)) <= 2]
        spelled = difflib.get_close_matches(text.lower(), alike, count, cutoff=0.6)
        order = largest(self.cosines([text])[0], count)
        near = [*map(str, spelled), *(self.captions[i] for i in order)]
        return list(dict.fromkeys(near))[:count]

    def _lexical(self, terms: list[str]) -> Float32[np.ndarray, " n"]:
        score = CAPTION_WEIGHT * self._index.share(terms)
        if joined(terms, "") in self._index.postings:  # "fire fighter" is a firefighter
            score = np.maximum(score, CAPTION_WEIGHT * self._index.share([joined(terms, "")]))
        score[self._tagged.get(joined(terms), [])] += TAG_WEIGHT
        return score

    @functools.cached_property
    def _index(self) -> BM25:
        return BM25.of([stems(caption) for caption in self.captions])

    @functools.cached_property
    def _tagged(self) -> Mapping[str, list[int]]:
        """The captions with each tag."""
        found: dict[str, list[int]] = {}
        for number, caption in enumerate(self.captions):
            for tag in {joined(stems(tag)) for tag in self.tags.get(caption.lower(), ())}:
                found.setdefault(tag, []).append(number)
        return found


def joined(terms: Sequence[str], by: str = " ") -> str:
    """Returns stems as one text."""
    return by.join(terms)


def stems(text: str) -> list[str]:
    """Returns the words of a text in lower case and the singular (the S stemmer of Harman, JASIS 42(1), 1991)."""
    return [_singular(word) for word in _WORD.findall(text.lower())]


def largest(scores: Float[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k"]:
    """Returns the places of the k largest scores, or of all, the largest first and equal ones by place."""
    k = min(k, len(scores))
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]


def _singular(word: str) -> str:
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word
