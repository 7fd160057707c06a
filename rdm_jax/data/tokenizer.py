"""The byte-level BPE tokenizer of a text tower: trained on captions, loaded through transformers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerFast

from rdm_jax.core import files

START, END = "<|startoftext|>", "<|endoftext|>"


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


def load_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Returns the tokenizer of a tokenizer.json, padding with its end token as CLIP's does."""
    return PreTrainedTokenizerFast(tokenizer_file=str(file), bos_token=START, eos_token=END, pad_token=END)


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int) -> Int[np.ndarray, "n length"]:
    """Returns token ids [n, length], longer texts cut so that the end token stays, shorter ones padded."""
    encoded = tokenizer(list(texts), truncation=True, max_length=length, padding="max_length")
    return np.asarray(encoded["input_ids"], np.int32)
