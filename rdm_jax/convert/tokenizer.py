"""Foreign tokenizers: tokenizer.json, Hugging Face's vocabulary and merges, OpenAI's merges, or BERT's vocabulary."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from rdm_jax.convert.settings import read_settings
from rdm_jax.core import text
from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import BERT_MARKS, END, START, CaptionTokenizer, load_tokenizer, wrapped
from rdm_jax.data.vocabulary import WORD_END

# OpenAI's tokenizer uses only the first merges of its file: 49152 tokens less 2 x 256 bytes and two special tokens.
OPENAI_MERGES = 49152 - 256 - 2

UNKNOWN = "[UNK]"  # of a WordPiece, for words that it has no pieces of
_GZIP = b"\x1f\x8b"


def read_tokenizer(path: Path) -> CaptionTokenizer:
    """Returns the tokenizer of a file or a folder.

    A file is a tokenizer.json, OpenAI's bpe_simple_vocab_16e6.txt.gz, GPT-2's merges (vocab.bpe), or the vocab.txt of a
    lower-casing BERT.

    Raises:
      UserError: there is no tokenizer, or it cannot be read.
    """
    try:
        if path.is_dir():
            return _from_folder(path)
        if path.suffix == ".json":
            return load_tokenizer(path)
        return _from_bert(path) if _is_bert(path) else _from_openai(path)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception on a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} is not a readable tokenizer ({reason}); give a tokenizer.json, OpenAI's merges file, or BERT's "
            "vocab.txt"
        ) from error


def tokenizer_of(path: Path | None, size: int) -> CaptionTokenizer | None:
    """Returns the tokenizer of a file or a folder, for a text tower of `size` tokens; None without a path.

    Raises:
      UserError: it cannot be read, or has another number of tokens.
    """
    if path is None:
        return None
    opened = read_tokenizer(path)
    if len(opened) != size:
        raise UserError(f"the tokenizer {path} has {len(opened)} tokens and the text tower {size}; give its own one")
    return opened


def has_tokenizer(folder: Path) -> bool:
    """Returns whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def padding_of(folder: Path, tokenizer: CaptionTokenizer) -> int | None:
    """Returns the id of the token that pads in a tokenizer's folder; None if its settings name none."""
    settings = read_settings(folder / "tokenizer_config.json") or {}
    token = settings.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    return tokenizer.get_vocab().get(token) if isinstance(token, str) else None


def _from_folder(folder: Path) -> CaptionTokenizer:
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder / "tokenizer.json")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = text.lines(text.read(folder / "merges.txt"))
        vocabulary = text.read_json(folder / "vocab.json")
        if not isinstance(vocabulary, dict) or not all(isinstance(number, int) for number in vocabulary.values()):
            raise ValueError("vocab.json is no table of tokens with their numbers")
        make = _clip_tokenizer if START in vocabulary else _gpt2_tokenizer
        return make(vocabulary, _pairs(lines))
    raise UserError(f"{folder} has no tokenizer.json and no vocab.json with merges.txt; give one by --tokenizer")


def _is_bert(path: Path) -> bool:
    """Returns whether a file lists BERT's tokens, one in each line."""
    with path.open("rb") as file:
        return file.readline().strip() == BERT_MARKS[2].encode()


def _from_bert(path: Path) -> CaptionTokenizer:
    """Returns the WordPiece tokenizer of bert-base-uncased with the tokens of a file."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokens = text.lines(text.read(path))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    missing = [mark for mark in (*BERT_MARKS, UNKNOWN) if mark not in vocabulary]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer)


def _from_openai(path: Path) -> CaptionTokenizer:
    """Returns the tokenizer of OpenAI's merges.

    CLIP's has bytes, bytes at the end of a word, merges in order, and two special tokens; GPT-2's has bytes, merges and
    one special token.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    data = path.read_bytes()
    lines = text.lines(text.decode(gzip.decompress(data) if data.startswith(_GZIP) else data))
    symbols = list(bytes_to_unicode().values())
    if not any(line.rstrip().endswith(WORD_END) for line in lines[1 : len(symbols)]):
        merges = _pairs(lines)
        return _gpt2_tokenizer({token: n for n, token in enumerate([*symbols, *map("".join, merges), END])}, merges)
    merges = _pairs(lines[: OPENAI_MERGES + 1])
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), START, END]
    return _clip_tokenizer({token: number for number, token in enumerate(tokens)}, merges)


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    """Returns the merges of a file's lines; the first line is the version."""
    pairs = [tuple(line.strip(" ").split(" ")) for line in lines[1:] if line]
    if any(len(pair) != 2 for pair in pairs) or not pairs:
        raise ValueError("its lines are not pairs of symbols")
    return [(first, second) for first, second in pairs]


def _clip_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> CaptionTokenizer:
    from transformers import CLIPTokenizer

    arguments: dict[str, Any] = {"vocab": vocabulary, "merges": merges}
    return wrapped(CLIPTokenizer(**arguments).backend_tokenizer)


def _gpt2_tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> CaptionTokenizer:
    """Returns GPT-2's byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return wrapped(tokenizer)


def lower_cased(tokenizer: CaptionTokenizer) -> CaptionTokenizer:
    """Returns a tokenizer that reads texts in lower case, as GLIDE's program does with GPT-2's."""
    from tokenizers import Tokenizer, normalizers

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.normalizer = normalizers.Lowercase()
    return wrapped(copy)
