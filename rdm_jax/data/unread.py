"""What a text encoder does not read of its texts, and the warnings of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdm_jax.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

FEW = 8  # so many texts or words have a line each; more of them have one line together
SHOWN = 400  # characters of a text in a line


class Unread:
    """Counts texts that are cut off and words that are unknown, over one batch of texts or many."""

    def __init__(self) -> None:
        self._texts = self._cuts = 0
        self._tails: dict[str, str] = {}
        self._words: dict[str, str] = {}  # a word, and the first text with it
        self._vocabulary: Vocabulary | None = None

    def add(self, text: str, tail: str, words: list[str], vocabulary: Vocabulary | None) -> None:
        """Counts one text.

        Args:
          text: as it was given.
          tail: what is cut off, "" if nothing is.
          words: of the rest, which the encoder does not know.
          vocabulary: that the words are not in.
        """
        self._texts += 1
        self._cuts += bool(tail)
        if tail and len(self._tails) <= FEW:
            self._tails[text] = tail
        for word in words:
            self._words.setdefault(word, text)
        self._vocabulary = vocabulary

    def warn(self) -> None:
        """Logs a line for each text that is cut and each unknown word, or one line for many of them."""
        if len(self._tails) > FEW:
            text, tail = next(iter(self._tails.items()))
            logger.warning(
                "%d of %d texts are too long for the text encoder; the first is %r, and this is cut off: %r",
                *(self._cuts, self._texts, _shortened(text), _shortened(tail)),
            )
        else:
            for text, tail in self._tails.items():
                logger.warning(
                    "the text %r is too long for the text encoder; this is cut off: %r",
                    *(_shortened(text), _shortened(tail)),
                )
        if len(self._words) > FEW:
            word, text = next(iter(self._words.items()))
            logger.warning(
                "the text encoder does not know %d words of %d texts and reads them in pieces; the first is %r in %r%s",
                *(len(self._words), self._texts, word, _shortened(text), self._suggestion(word)),
            )
        else:
            for word in self._words:
                logger.warning(
                    "the text encoder does not know the word %r and reads it in pieces%s",
                    *(word, self._suggestion(word)),
                )

    def _suggestion(self, word: str) -> str:
        near = self._vocabulary.nearest(word) if self._vocabulary else []
        return f"; the nearest words that it knows: {', '.join(near)}" if near else ""


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
