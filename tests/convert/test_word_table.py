"""The distillation of a sentence encoder that is a known table, and the choice of words and pairs."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert.icon_words import bundle_of, common_words, text_counts, written_out
from rdm_jax.convert.word_table import (
    choose_words,
    distill,
    furthest_pairs,
    principal,
    reduced,
    without_rare_pieces,
    word_counts,
)
from rdm_jax.core.vectors import unit
from rdm_jax.data.icons.wordnet import WordNet
from rdm_jax.data.word_tokenizer import entry, word_tokenizer
from rdm_jax.retrieval.word_vectors import WordVectors

WORDS = ["alarm", "clock", "red", "hot", "dog", "fire", "truck", "bell"]
PIECES = ["[CLS]", "##s", "##ing", "##9", *WORDS, "truth", "99"]


def test_words_of_the_encoder_and_common_other_ones_are_chosen() -> None:
    counts = {"alarm": 5, "clock": 9, "webhook": 2, "rare": 1}
    dictionary = {"truck": 1, "insomnia": 4, "arcane": 1}
    entries = choose_words(PIECES, counts, dictionary, ["insomnia", "two words"])
    whole = [one[1:] for one in entries if one.startswith("▁") and len(one) > 2]
    assert whole == ["clock", "alarm", "webhook", "insomnia", "truck"]
    assert {"ing", "s", "▁a", "9"} <= set(entries)
    assert len(entries) == len(set(entries))


def test_pieces_that_few_texts_need_are_left_out() -> None:
    entries = [*choose_words(PIECES, {}, {}, []), entry("alarm"), "xx"]
    kept = without_rare_pieces(entries, ["alarming", "clocking", "axx"], least=2)
    assert set(entries) - set(kept) == {"xx"}


def test_projected_vectors_keep_their_angles_where_they_span_few_directions() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 3)) @ random.normal(size=(3, 20)) + random.normal(size=20)
    mean, directions = principal(vectors, 3)
    found, wanted = reduced(vectors, mean, directions), unit(vectors - vectors.mean(axis=0))
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-5)


def toy_texts() -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Returns all texts of one and two words and the sums of secret rows; "hot dog" is something else."""
    random = np.random.default_rng(1)
    secret = dict(
        zip(WORDS, random.normal(size=(len(WORDS), 6)) * random.uniform(0.5, 3, (len(WORDS), 1)), strict=True)
    )
    texts = [*WORDS, *(" ".join(pair) for pair in itertools.permutations(WORDS, 2))]
    vectors = np.stack([np.sum([secret[word] for word in text.split()], axis=0) for text in texts])
    vectors[texts.index("hot dog")] = random.normal(size=6)
    return texts, unit(vectors, np.float32), secret


def test_sums_of_the_fitted_rows_point_along_the_targets() -> None:
    texts, targets, _ = toy_texts()
    entries = choose_words(PIECES, {}, dict.fromkeys(WORDS, 9), [])
    counts = dict.fromkeys(texts, 5)
    table = distill(entries, texts, targets, counts, steps=300, pairs=1)
    assert table.tokenizer.token_to_id(entry("hot dog")) is not None  # the one that no sum explains
    cosines = (table.encode_texts(texts) * targets).sum(axis=1)
    assert cosines.min() > 0.97
    assert table.encode_texts([]).shape == (0, 6)
    assert not table.encode_texts(["слон"]).any()


def test_the_pairs_that_are_most_wrong_come_first() -> None:
    tokenizer = word_tokenizer(choose_words(PIECES, {}, dict.fromkeys(WORDS, 9), []))
    rows = np.random.default_rng(2).normal(size=(tokenizer.get_vocab_size(), 6)).astype(np.float32)
    table = WordVectors(tokenizer, rows)
    counts = {"red dog": 9, "red bell": 9, "fire bell": 2, "red": 9}
    right = table.encode_texts(list(counts))
    vectors = dict(zip(counts, right, strict=True)) | {"red bell": -right[1], "fire bell": -right[2]}
    assert furthest_pairs(table, counts, vectors, 5) == ["red bell", "red dog"]


def test_texts_are_counted_over_captions_and_tags() -> None:
    counts = text_counts({"bell": 3, "a b c d e f g": 9}, {"bell": ["alarm", "ring"], "clock": ["alarm"]})
    assert counts == {"bell": 3, "alarm": 2, "ring": 1, "clock": 0}
    assert word_counts(["red bell", "red red"]) == {"red": 2, "bell": 1}


def test_a_word_that_the_encoder_would_take_apart_comes_with_its_definition() -> None:
    definitions = dict.fromkeys(["antelope", "dog", "webhook", "guinea pig"], "an animal")
    read = {word: written_out(word, {"dog"}, {"webhook": 2}, definitions) for word in (*definitions, "xyzzy")}
    changed = {word for word in read if read[word] != word}
    assert changed == {"antelope"}
    assert read["antelope"] == "antelope: an animal"


def test_well_known_words_are_common_without_those_that_follow_from_their_stems() -> None:
    counts = Counter(["walk", "walked", "bake", "baker", "omelet", "gizzard", "obscure thing", "dog", "arcane"])
    words = WordNet(counts, {"omelet": "food", "gizzard": "body", "dog": "animal"}, {}, {})
    sizes = {"walk": 10, "walked": 10, "bake": 35, "baker": 35, "omelet": 50, "dog": 10, "arcane": 50}
    assert set(common_words(words, sizes)) == {"walk", "bake", "omelet", "dog"}


def test_a_table_is_a_bundle_with_the_smallest_image_tower(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(choose_words(PIECES, {}, dict.fromkeys(WORDS, 9), []))
    rows = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 8)).astype(np.float32)
    bundle_of(WordVectors(tokenizer, rows)).save(tmp_path / "model")
    found = WordVectors.of(Bundle.open(tmp_path / "model")).encode_texts(["red dog", "bell"])
    np.testing.assert_allclose(found, WordVectors(tokenizer, rows).encode_texts(["red dog", "bell"]), atol=0.02)
