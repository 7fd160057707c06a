"""Vectors of texts by a word table (`models.word_table`) in NumPy: nothing is compiled, a word takes microseconds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.data.tokenizer import END, wrapped
from rdm_jax.models.word_table import UNREAD, WordTable

CONTEXT = 16  # tokens of a text, start and end included

_CHUNK = 4096  # texts that are encoded at a time


@dataclass(frozen=True)
class WordVectors:
    """A word table with its tokenizer; it is a `TextEncoder`, and warns of nothing.

    Attributes:
      tokenizer: a `tokenizers.Tokenizer`, see `data.word_tokenizer`.
      rows: float32 [entries of the tokenizer, dim].
      context_length: the most tokens of a text.
    """

    tokenizer: Any
    rows: Float[np.ndarray, "v d"]
    context_length: int = CONTEXT

    @staticmethod
    def of(bundle: Bundle) -> WordVectors:
        """Returns the word table of a bundle.

        Raises:
          UserError: the text tower of the bundle is none.
        """
        bundle.require("clip")
        text = bundle.clip.text
        if not isinstance(text, WordTable) or bundle.tokenizer is None:
            raise UserError(f"the text tower of model {bundle.name!r} is no word table; choose a model with one")
        rows = np.asarray(bundle.params["clip"]["text"]["word_table"])
        return WordVectors(bundle.tokenizer.backend_tokenizer, rows, text.context_length)

    def placed_in(self, bundle: Bundle) -> Bundle:
        """Returns a bundle with this table as the text tower of its CLIP; the image tower and other parts stay.

        Raises:
          UserError: the bundle has no CLIP, or its vectors have another width.
        """
        bundle.require("clip")
        config, params = bundle.config["clip"], bundle.params["clip"]
        if config["embed_dim"] != self.rows.shape[1]:
            raise UserError(
                f"the vectors of model {bundle.name!r} have {config['embed_dim']} numbers, and the word table's have "
                f"{self.rows.shape[1]}; make a table of that width"
            )
        settings = {key: value for key, value in bundle.config.items() if key != "sha256"}
        return Bundle(
            {**settings, "clip": {**config, "text": self.settings}},
            {**bundle.params, "clip": {**params, "text": {"word_table": self.rows}}},
            wrapped(self.tokenizer),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The section of a configuration that describes the text tower."""
        end = self.tokenizer.token_to_id(END)
        return {"kind": "table", "vocab_size": len(self.rows), "context_length": self.context_length, "eos_id": end}

    def encode_texts(self, texts: Sequence[str], /) -> Float[np.ndarray, "n d"]:
        """Returns a vector of unit length for each text, zeros for a text without a known token."""
        vectors = [np.zeros((0, self.rows.shape[1]), np.float32)]
        for start in range(0, len(texts), _CHUNK):
            ids = token_ids(self.tokenizer, texts[start : start + _CHUNK], self.context_length)
            vectors.append(unit(self._read[ids].sum(axis=1)))
        return np.concatenate(vectors)

    @functools.cached_property
    def _read(self) -> np.ndarray:
        """The rows, with zeros for those that are not read."""
        return np.concatenate([np.zeros_like(self.rows[:UNREAD]), self.rows[UNREAD:]])


def token_ids(tokenizer: Any, texts: Sequence[str], length: int = CONTEXT) -> Int[np.ndarray, "n length"]:
    """Returns token ids [n, length], padded with the end token."""
    end = tokenizer.token_to_id(END)
    ids = np.full((len(texts), length), end, np.int32)
    for row, encoding in zip(ids, tokenizer.encode_batch(list(texts)), strict=True):
        kept = encoding.ids[: length - 1]  # the last one is the end token, of longer texts too
        row[: len(kept)] = kept
    return ids
