"""The tokenizer of a foreign CLIP: tokenizer.json, Hugging Face's vocabulary and merges, or OpenAI's merges alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import END, START, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# OpenAI's tokenizer uses only the first merges of its file: 49152 tokens less 2 x 256 bytes and two special tokens.
OPENAI_MERGES = 49152 - 256 - 2


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Returns the tokenizer of a file (tokenizer.json, or OpenAI's bpe_simple_vocab_16e6.txt.gz) or of a folder.

    Raises:
      UserError: there is no tokenizer, or it cannot be read.
    """
    try:
        if path.is_dir():
            return _from_folder(path)
        return load_tokenizer(path) if path.suffix == ".json" else _from_openai(path)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception on a damaged file
        raise UserError(
            f"{path} is not a readable tokenizer ({error}); give a tokenizer.json or OpenAI's merges file"
        ) from error


def _from_folder(folder: Path) -> PreTrainedTokenizerFast:
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder / "tokenizer.json")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = (folder / "merges.txt").read_text().splitlines()
        return _clip_tokenizer(json.loads((folder / "vocab.json").read_text()), _pairs(lines))
    raise UserError(f"{folder} has no tokenizer.json and no vocab.json with merges.txt; give one by --tokenizer")


def _from_openai(path: Path) -> PreTrainedTokenizerFast:
    """Returns OpenAI's tokenizer: bytes, bytes at the end of a word, merges in order, and two special tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    merges = _pairs(text.splitlines()[: OPENAI_MERGES + 1])
    symbols = list(bytes_to_unicode().values())
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), START, END]
    return _clip_tokenizer({token: number for number, token in enumerate(tokens)}, merges)


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    """Returns the merges of a file's lines; the first line is the version."""
    pairs = [tuple(line.split()) for line in lines[1:] if line.strip()]
    if any(len(pair) != 2 for pair in pairs) or not pairs:
        raise ValueError("its lines are not pairs of symbols")
    return [(first, second) for first, second in pairs]


def _clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    from transformers import CLIPTokenizer

    arguments: dict[str, Any] = {"vocab": vocabulary, "merges": merges}
    return CLIPTokenizer(**arguments)
