"""The tokenizer of a text tower: byte-level BPE, trained on captions or converted, or a converted WordPiece."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerFast

from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError
from rdm_jax.data.unread import Unread
from rdm_jax.data.vocabulary import WORD_END, Vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"
BERT_MARKS = "[CLS]", "[SEP]", "[PAD]"


class CaptionTokenizer(PreTrainedTokenizerFast):
    """A tokenizer that cleans a text as the programs did that its text tower was trained with.

    OpenAI's vocabulary implies the cleaning of OpenAI's program, which no tokenizer.json can describe; tokenizers that
    are trained here take every text as it is, and their own normalizer is in the file.
    """

    @functools.cached_property
    def cleans(self) -> bool:
        """Whether texts are cleaned."""
        return getattr(self.backend_tokenizer.model, "end_of_word_suffix", None) == WORD_END

    @functools.cached_property
    def words(self) -> Vocabulary:
        """The words that are known."""
        return Vocabulary.of(self.backend_tokenizer)

    def cleaned(self, given: Any) -> Any:
        """Returns a text, or the texts of a list, as they are split into tokens."""
        if isinstance(given, list | tuple):
            return [self.cleaned(one) for one in given]
        return openai_cleaned(given) if self.cleans and isinstance(given, str) else given

    def _encode_plus(self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Cleans the texts on every way to the tokens: a call, `encode` and `tokenize`."""
        return super()._encode_plus(self.cleaned(text), self.cleaned(text_pair), *args, **kwargs)


@functools.lru_cache(maxsize=64)  # `encode` has a text cleaned for its own offsets, and again on its way to the tokens
def openai_cleaned(given: str) -> str:
    """Returns a text as OpenAI's CLIP cleans it: broken encodings and HTML entities repaired, in lower case.

    This is `whitespace_clean(basic_clean(text)).lower()` of https://github.com/openai/CLIP (clip/simple_tokenizer.py),
    which the programs of CompVis call too.
    """
    import ftfy

    repaired = html.unescape(html.unescape(ftfy.fix_text(given)))
    return re.sub(r"\s+", " ", repaired).strip().lower()


def train_tokenizer(captions: Iterable[str], vocab_size: int, file: Path) -> None:
    """Trains a lower-casing byte-level BPE with CLIP's two special tokens and writes tokenizer.json.

    Args:
      captions: the text to learn from; every byte stays encodable whatever it holds.
      vocab_size: at most this many tokens, at least 258 (256 bytes and two marks).
      file: where tokenizer.json goes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[START, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(captions)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(t, tokenizer.token_to_id(t)) for t in (START, END)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    files.write_bytes(file, tokenizer.to_str(pretty=True).encode())


def load_tokenizer(file: Path) -> CaptionTokenizer:
    """Returns the tokenizer of a tokenizer.json; see `wrapped`."""
    from tokenizers import Tokenizer

    return wrapped(Tokenizer.from_str(text.read(file)))


def wrapped(tokenizer: Any) -> CaptionTokenizer:
    """Returns a `tokenizers.Tokenizer` with the marks of its kind.

    WordPiece has BERT's marks and padding; others have CLIP's two marks, and pad with the end token. GPT-2's has no
    start token.
    """
    from tokenizers.models import WordPiece

    first = START if tokenizer.token_to_id(START) is not None else None
    start, end, padding = BERT_MARKS if isinstance(tokenizer.model, WordPiece) else (first, END, END)
    return CaptionTokenizer(tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=padding)


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int) -> Int[np.ndarray, "n length"]:
    """Returns token ids [n, length]; warns of what is lost, see `encode`."""
    unread = Unread()
    rows, _ = encode(tokenizer, texts, length, unread)
    unread.warn()
    return rows


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int, unread: Unread
) -> tuple[Int[np.ndarray, "n length"], list[str]]:
    """Returns token ids, int32 [n, length], and for each text the tail that is cut off, "" if none.

    A row has the start token, the text's tokens, the end token, and more end tokens as padding. The text tower reads
    out at the first end token, so the padding has no effect.

    Args:
      tokenizer: with a start and an end token.
      texts: any number of them.
      length: of a row; longer texts are cut so that the end token stays.
      unread: counts what is cut off, and the words that are not known.

    Raises:
      UserError: a text is no valid Unicode.
    """
    rows = np.full((len(texts), length), tokenizer.eos_token_id, np.int32)
    words: Vocabulary | None = getattr(tokenizer, "words", None)
    tails = []
    for row, given in zip(rows, texts, strict=True):
        ids, starts, read = split(tokenizer, given)
        kept = ids[: length - 2]
        row[: len(kept) + 1] = [tokenizer.bos_token_id, *kept]
        end = starts[len(kept)] if len(ids) > len(kept) else len(read)
        tails.append(read[end:].strip())
        unread.add(given, tails[-1], words.unknown(read, end) if words else [], words)
    return rows, tails


def split(tokenizer: PreTrainedTokenizerFast, given: str) -> tuple[list[int], list[int], str]:
    """Returns a text's tokens without marks, where each begins in the text as it is read, and that text.

    Raises:
      UserError: the text is no valid Unicode.
    """
    _check_unicode(given)
    read = tokenizer.cleaned(given) if isinstance(tokenizer, CaptionTokenizer) else given
    encoded = tokenizer(given, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]], read


def _check_unicode(given: str) -> None:
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text {given!r} is no valid Unicode at character {error.start + 1}; write it anew"
        ) from None
