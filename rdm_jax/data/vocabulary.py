"""The words that a tokenizer knows: those that it does not take apart into letters."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from typing import Any

SHORTEST = 3  # letters; shorter words are taken apart by many vocabularies, and mean little

_LETTERS = re.compile(r"[^\W\d_]+")
_SPACE = "Ġ"  # a space, in the alphabet of byte-level vocabularies: before the first letter of a word
WORD_END = "</w>"  # of the last token of a word in OpenAI's vocabulary, and in no vocabulary that is trained here
_NEAREST = 3
_TABLE_SPACE = "▁"  # a space, in the vocabulary of a word table
_SHORTEST_PART = 4  # letters of a word in a compound
_ENDINGS = frozenset(("s", "es", "ed", "d", "ing", "er", "ers", "r", "rs", "ly", "est", "ness"))  # of known words


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The words of a vocabulary of byte pairs.

    Attributes:
      tokenizer: splits words into tokens.
      words: the tokens that are words and not the beginning of longer ones.
      closed: whether all tokens serve to make these words, as after training on few different words: then other words
        are unknown even if they consist of known parts. Otherwise tokens of two letters and more make new words.
    """

    tokenizer: Any
    words: tuple[str, ...]
    closed: bool

    @staticmethod
    def of(tokenizer: Any) -> Vocabulary:
        """Returns the vocabulary of a `tokenizers.Tokenizer`."""
        from tokenizers import Tokenizer

        written = tokenizer.to_str()
        own = Tokenizer.from_str(written)  # without the padding that calls leave behind
        own.no_padding()
        own.no_truncation()
        model = json.loads(written)["model"]
        if model["type"] == "Unigram":
            return _of_word_table(own, [name for name, _ in model["vocab"]])
        pairs = model.get("merges", [])
        merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in pairs]
        parts = {part for pair in merges for part in pair}
        largest = {"".join(pair) for pair in merges} - parts
        words = [token.removeprefix(_SPACE).removesuffix(WORD_END) for token in largest if _is_whole(token)]
        readable = tuple(sorted(word for word in words if len(word) >= SHORTEST and _LETTERS.fullmatch(word)))
        return Vocabulary(own, readable, bool(largest) and len(words) == len(largest))

    def unknown(self, text: str, end: int) -> list[str]:
        """Returns the unknown words that begin before a place of a text, each once."""
        found = dict.fromkeys(match[0].lower() for match in _LETTERS.finditer(text) if match.start() < end)
        return [word for word in found if len(word) >= SHORTEST and not self._knows(word)]

    def nearest(self, word: str) -> list[str]:
        """Returns the known words that are most like another one, the nearest first."""
        alike = [known for known in self.words if abs(len(known) - len(word)) <= max(len(word) // 2, 2)]
        return difflib.get_close_matches(word, alike, n=_NEAREST, cutoff=0.6)

    def _knows(self, word: str) -> bool:
        if word not in self._known:
            tokens = self.tokenizer.encode(word, add_special_tokens=False).tokens
            pieces = sum(token != _SPACE for token in tokens)
            whole = pieces <= 1 or self._is_made_of_words(tokens)
            self._known[word] = whole if self.closed else 2 * pieces <= len(word)
        return self._known[word]

    def _is_made_of_words(self, tokens: list[str]) -> bool:
        """Returns whether a word in two entries of a word table is an inflected word, or one of two words."""
        if len(tokens) != 2 or not tokens[0].startswith(_TABLE_SPACE):
            return False
        first, second = tokens[0].removeprefix(_TABLE_SPACE), tokens[1]
        both = len(first) >= _SHORTEST_PART <= len(second) and second in self._set
        return both or (len(first) >= SHORTEST and second in _ENDINGS)

    @functools.cached_property
    def _set(self) -> frozenset[str]:
        return frozenset(self.words)

    @functools.cached_property
    def _known(self) -> dict[str, bool]:
        """What was decided so far: captions repeat their words."""
        return {}


def _of_word_table(tokenizer: Any, entries: list[str]) -> Vocabulary:
    words = {entry.removeprefix(_TABLE_SPACE) for entry in entries if entry.startswith(_TABLE_SPACE)}
    return Vocabulary(tokenizer, tuple(sorted(w for w in words if len(w) >= SHORTEST and _LETTERS.fullmatch(w))), True)


def _is_whole(token: str) -> bool:
    return token.startswith(_SPACE) or token.endswith(WORD_END)
