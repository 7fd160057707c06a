"""File names of words: valid on every system, and different."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdm_jax.core.file_names import file_name, file_names

PLAIN = st.text(st.characters(codec="utf-8"), max_size=200)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("rocket", "rocket"),
        ("Paper plane", "paper-plane"),
        ("arrow_left", "arrow-left"),
        ("  C++ / C#  ", "c-c"),
        ("../../etc/passwd", "etc-passwd"),
        ("Café", "café"),
        ("Cafe\u0301", "café"),
        ("ロケット", "ロケット"),
        ("!?", "icon"),
        ("CON", "con-icon"),
        ("com1", "com1-icon"),
        (".hidden", "hidden"),
    ],
)
def test_a_word_has_a_name(word, name):
    assert file_name(word) == name


def test_taken_names_get_numbers():
    words = ["rocket", "Rocket", "rocket!", "rocket 2", "rocket-2"]
    assert list(file_names(words)) == ["rocket", "rocket-2", "rocket-3", "rocket-2-2", "rocket-2-3"]


@given(st.lists(PLAIN, max_size=8))
def test_names_are_different_and_valid(words):
    names = list(file_names(words))
    assert len({unicodedata.normalize("NFKC", name).casefold() for name in names}) <= len(set(names)) == len(words)
    for name in names:
        assert 0 < len(name.encode()) < 180
        assert not set(name) & set('/\\:*?"<>|\0 .') and name == unicodedata.normalize("NFC", name)


def test_ten_thousand_equal_words_are_quick():
    assert len(set(file_names(["rocket"] * 10_000))) == 10_000
