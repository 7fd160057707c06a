from __future__ import annotations

from rdm_jax.data.icons import words


def test_the_numbers_of_words():
    assert len(set(words.CONCRETE_CONCEPTS)) == len(set(words.ABSTRACT_CONCEPTS)) == 50
    assert len(set(words.CONCRETE_UNSEEN)) == len(set(words.ABSTRACT_UNSEEN)) == 100
    assert len(set(words.CONCEPTS)) == 100
    assert len(set(words.UNSEEN_WORDS)) == len(set(words.FOREIGN_WORDS)) == 200


def test_the_sets_of_words_are_disjoint():
    assert not any(words.is_unseen(word) for word in (*words.CONCEPTS, *words.FOREIGN_WORDS))
    assert not set(words.CONCEPTS) & set(words.FOREIGN_WORDS)


def test_an_unseen_word_is_one_of_the_words_of_a_caption():
    assert words.is_unseen("pizza")
    assert words.is_unseen("slice of pizza hot")
    assert not words.is_unseen("pizzeria")
    assert not words.is_unseen("")
    assert all(words.is_unseen(word) for word in words.UNSEEN_WORDS)
