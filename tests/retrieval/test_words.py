"""BM25 against its closed form, and the search of captions by words and vectors on databases small enough to see."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import wrapped
from rdm_jax.data.word_tokenizer import entry, word_tokenizer
from rdm_jax.retrieval.bm25 import BM25, LENGTH, SATURATION
from rdm_jax.retrieval.words import TAG_WEIGHT, WordSearch, largest, stems

DOCUMENTS = [["alarm", "clock"], ["alarm", "clock", "off"], ["wall", "clock", "clock"], ["rocket"]]


def closed_form(query: list[str], document: list[str]) -> float:
    """Returns the sum over the query of idf f (k1 + 1) / (f + k1 (1 - b + b |D| / mean))."""
    mean = sum(map(len, DOCUMENTS)) / len(DOCUMENTS)
    total = 0.0
    for term in query:
        n = sum(term in other for other in DOCUMENTS)
        idf = math.log((len(DOCUMENTS) - n + 0.5) / (n + 0.5) + 1)
        f = document.count(term)
        total += idf * f * (SATURATION + 1) / (f + SATURATION * (1 - LENGTH + LENGTH * len(document) / mean))
    return total


@pytest.mark.parametrize("query", [["clock"], ["alarm", "clock"], ["rocket", "clock"], ["clock", "clock"], ["no"], []])
def test_scores_are_the_closed_form(query: list[str]) -> None:
    wanted = [closed_form(query, document) for document in DOCUMENTS]
    np.testing.assert_allclose(BM25.of(DOCUMENTS).scores(query), wanted, rtol=1e-5)


def test_the_fraction_of_a_document_that_is_the_query_is_one() -> None:
    index = BM25.of(DOCUMENTS)
    for number in (0, 1, 3):
        assert index.share(DOCUMENTS[number])[number] == pytest.approx(1, rel=1e-5)
    assert not index.share(["ship"]).any()
    assert 0 < index.share(["ship", "rocket"])[3] < 0.5  # "ship" is nowhere, so it is rarer than "rocket"


def test_an_index_of_nothing_has_no_scores() -> None:
    assert BM25.of([]).scores(["clock"]).shape == (0,)
    assert not BM25.of([[], []]).share(["clock"]).any()


def test_stems_are_singular() -> None:
    assert stems("Alarm-Clocks_off batteries glass bus") == ["alarm", "clock", "off", "battery", "glass", "bus"]


def test_largest_are_in_order_and_ties_by_place() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 5, 40).astype(np.float32)
    for k in (1, 7, 40, 99):
        wanted = sorted(range(40), key=lambda i: (-scores[i], i))[:k]
        assert largest(scores, k).tolist() == wanted


MEANINGS = {"doctor": [1, 0, 0], "physician": [0.9, 0.1, 0], "rocket": [0, 1, 0], "space ship": [0, 0.9, 0.1]}


class Encoder:
    """Has a vector for a few words and none for others."""

    def encode_texts(self, texts: Sequence[str], /) -> np.ndarray:
        return np.array([MEANINGS.get(text.lower(), [0, 0, 0]) for text in texts], np.float32).reshape(-1, 3)


def search(captions: list[str | None], **options: Any) -> WordSearch:
    return WordSearch.of(captions, Encoder(), **options)


CAPTIONS: list[str | None] = ["rocket", "doctor", None, "alarm clock", "rocket", "alarm clock off", "doctor"]


def test_a_word_that_no_caption_has_is_found_by_its_vector() -> None:
    matches = search(CAPTIONS).search(["physician", "space ship"], 2)
    assert matches.ids.tolist() == [[1, 6], [0, 4]]
    assert matches.known.all()


def test_a_word_without_a_vector_is_found_by_the_captions_that_have_it() -> None:
    matches = search(CAPTIONS).search(["Alarm Clocks"], 2)
    assert matches.ids.tolist() == [[3, 5]]
    assert matches.scores[0, 0] > matches.scores[0, 1] > 0


def test_a_tag_stands_for_its_caption() -> None:
    tags = {"alarm clock": ["wake up", "morning"], "rocket": ["launch"]}
    matches = search(CAPTIONS, tags=tags).search(["wake up", "launch"], 1)
    assert matches.ids.tolist() == [[3], [0]]
    np.testing.assert_allclose(matches.scores, TAG_WEIGHT)


def test_words_written_together_and_apart_are_the_same() -> None:
    assert search(["clock", "firefighter", "fire"]).search(["fire fighter"], 1).ids.tolist() == [[1]]


def test_what_nothing_is_near_is_unknown_and_has_nearest_words() -> None:
    index = search(CAPTIONS)
    assert index.search(["xyzzy", "rocket", ""], 1).known.tolist() == [False, True, False]
    assert index.nearest_words("rokcet", 1) == ["rocket"]


def test_a_word_in_pieces_is_unknown_unless_a_caption_or_a_tag_has_it() -> None:
    entries = [*string.ascii_lowercase, entry("rocket"), entry("doctor")]
    vocabulary = wrapped(word_tokenizer(entries)).words
    index = search(["rocket", "quark"], vocabulary=vocabulary, tags={"rocket": ["Weltraum"]})
    assert index.unknown("Rockets, quarks") == []
    assert index.unknown("doctor Krankenhaus") == ["krankenhaus"]
    assert index.unknown("Weltraum") == []
    assert index.search(["rocket", "rocket Krankenhaus"], 1).known.tolist() == [True, False]


def test_only_admitted_rows_are_found() -> None:
    admitted = np.array([False, True, True, True, True, True, True])
    index = search(CAPTIONS, admitted=admitted)
    assert index.search(["rocket"], 1).ids.tolist() == [[4]]


def test_errors_name_what_is_allowed() -> None:
    with pytest.raises(UserError, match="no row has a caption"):
        search([None, None])
    for k in (0, 7):
        with pytest.raises(UserError, match=f"k {k} is out of range; 6 rows have captions, give 1 to 6"):
            search(CAPTIONS).search(["rocket"], k)
