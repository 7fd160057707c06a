"""The tokenizer of a word table: few entries, long ones, and nothing but words."""

from __future__ import annotations

import itertools
import string

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import tokenize, wrapped
from rdm_jax.data.word_tokenizer import SPACE, SPECIAL, entry, word_tokenizer
from rdm_jax.models.word_table import UNREAD

LETTERS = list(string.ascii_lowercase)
ENTRIES = [*LETTERS, *map(entry, ["alarm", "clock", "alarm clock", "doc", "doctor", "off"]), "tor", "tors", "clock"]
TOKENIZER = word_tokenizer(ENTRIES)


def tokens(text: str) -> list[str]:
    return TOKENIZER.encode(text, add_special_tokens=False).tokens


def fewest(word: str, entries: list[str]) -> int:
    """Returns the smallest number of entries that a word can be split into, by trying all splits."""
    places = range(1, len(word))
    for count in range(len(word)):
        for cuts in itertools.combinations(places, count):
            ends = [0, *cuts, len(word)]
            if all(word[a:b] in entries for a, b in itertools.pairwise(ends)):
                return count + 1
    raise AssertionError(word)


@pytest.mark.parametrize("text", ["doctor", "doctors", "alarm", "clocks", "offclock", "alarm clock", "alarms clock"])
def test_texts_are_split_into_as_few_entries_as_possible(text: str) -> None:
    assert len(tokens(text)) == fewest(SPACE + text.replace(" ", SPACE), [SPACE, *ENTRIES])


def test_of_equally_many_entries_the_longest_is_taken() -> None:
    assert tokens("doctors") == ["▁doctor", "s"]


def test_case_accents_and_punctuation_do_not_matter() -> None:
    for text in ("Alarm-Clock", "  ALARM_clock!", "álarm  clöck"):
        assert tokens(text) == ["▁alarm▁clock"]
    assert tokens("") == tokens(" -- ") == []


def test_other_characters_are_unknown_and_their_neighbors_are_not() -> None:
    ids = tokenize(wrapped(TOKENIZER), ["doctor слон off"], 8)[0].tolist()
    doctor, off = (TOKENIZER.token_to_id(entry(word)) for word in ("doctor", "off"))
    assert (doctor in ids, off in ids) == (True, True)
    assert SPECIAL.index("<|unknown|>") in ids


def test_words_in_pieces_are_unknown_but_inflected_ones_are_not() -> None:
    words = wrapped(TOKENIZER).words
    assert words.unknown("Doctors doctoral alarmclock offclock xyzzy", 99) == ["doctoral", "offclock", "xyzzy"]
    assert words.nearest("dcotor") == ["doctor"]


def test_the_table_does_not_read_the_special_entries() -> None:
    assert [TOKENIZER.token_to_id(mark) for mark in SPECIAL] == list(range(UNREAD))


def test_entries_that_are_too_long_or_twice_are_an_error() -> None:
    for entries in ([*LETTERS, "a"], [*LETTERS, "a" * 33], [SPACE]):
        with pytest.raises(UserError, match=r"entry '(a|a{33}|▁)' occurs twice or is longer than 32 characters"):
            word_tokenizer(entries)
