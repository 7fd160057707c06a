"""BM25: how well the words of a document match a query (Robertson and Zaragoza, 2009, doi:10.1561/1500000019)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

SATURATION = 1.2  # k1: how little further occurrences of a word add
LENGTH = 0.75  # b: how much long documents are penalized


@dataclasses.dataclass(frozen=True)
class BM25:
    """An index of documents by their terms.

    Attributes:
      count: the number of documents.
      mean_length: of the documents, in terms.
      postings: for each term, the documents with it and what it contributes to the score of each.
    """

    count: int
    mean_length: float
    postings: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @staticmethod
    def of(documents: Sequence[Sequence[str]]) -> BM25:
        """Returns the index of documents, each a sequence of terms, repeated ones included."""
        lengths = np.array([len(terms) for terms in documents], np.float32)
        mean = float(lengths.mean()) if lengths.any() else 1.0
        places: dict[str, list[tuple[int, int]]] = {}
        for number, terms in enumerate(documents):
            for term, occurrences in Counter(terms).items():
                places.setdefault(term, []).append((number, occurrences))
        postings = {}
        for term, found in places.items():
            numbers, occurrences = np.array(found, np.int32).T
            weight = _weight(occurrences.astype(np.float32), lengths[numbers] / mean)
            postings[term] = numbers, (_idf(len(documents), len(found)) * weight).astype(np.float32)
        return BM25(len(documents), mean, postings)

    def scores(self, terms: Sequence[str]) -> Float32[np.ndarray, " n"]:
        """Returns the score of every document, 0 without a term of the query."""
        total = np.zeros(self.count, np.float32)
        for term in terms:
            numbers, weights = self.postings.get(term, _NOWHERE)
            total[numbers] += weights
        return total

    def share(self, terms: Sequence[str]) -> Float32[np.ndarray, " n"]:
        """Returns the scores divided by that of a document that is the query; a term that is nowhere counts as rare."""
        found = (len(self.postings.get(term, _NOWHERE)[0]) for term in terms)
        ideal = sum(_idf(self.count, n) for n in found) * float(_weight(1.0, len(terms) / self.mean_length))
        return self.scores(terms) / np.float32(max(ideal, 1e-9))

    @functools.cached_property
    def terms(self) -> list[str]:
        """The terms of all documents, in alphabetical order."""
        return sorted(self.postings)


_NOWHERE = np.zeros(0, np.int32), np.zeros(0, np.float32)


def _idf(documents: int, with_term: int) -> float:
    """Returns the inverse document frequency, in the form that is never negative."""
    return math.log(1 + (documents - with_term + 0.5) / (with_term + 0.5))


def _weight(occurrences, length):
    """Returns what the occurrences of a term in a document count, before its inverse document frequency.

    Args:
      occurrences: of the term.
      length: of the document, divided by the mean length.
    """
    return occurrences * (SATURATION + 1) / (occurrences + SATURATION * (1 - LENGTH + LENGTH * length))
