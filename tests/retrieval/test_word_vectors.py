"""The word table in NumPy against the network, and from folders and bundles."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import wrapped
from rdm_jax.data.word_tokenizer import entry, word_tokenizer
from rdm_jax.models import build_clip
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.word_vectors import WordVectors, token_ids

TOKENIZER = word_tokenizer([*string.ascii_lowercase, *map(entry, ["red", "alarm", "clock", "alarm clock"])])
ROWS = np.random.default_rng(0).normal(size=(TOKENIZER.get_vocab_size(), 8)).astype(np.float32)
TEXTS = ["red", "Red alarm-clocks", "", "слон", "a b c d e f g h i j k l m n o p q r", "clock слон"]


def clip_bundle(text: dict[str, Any]) -> Bundle:
    vision = {"kind": "vit", "width": 16, "layers": 1, "heads": 1, "patch_size": 8, "image_size": 16}
    clip = {
        "embed_dim": 8,
        "vision": vision,
        "text": {"vocab_size": len(ROWS), "context_length": 16, "eos_id": 1, **text},
    }
    network = build_clip(clip)
    inputs = [jnp.zeros(one.shape, one.dtype) for one in network.smallest_inputs]
    params: Any = network.init(jax.random.key(0), *inputs)["params"]
    if text["kind"] == "table":
        params = {**params, "text": {"word_table": ROWS}}
    config = {"name": "words", "clip": {**clip, "mean": [0.5] * 3, "std": [0.5] * 3}}
    return Bundle(config, {"clip": params}, wrapped(TOKENIZER))


@pytest.mark.slow
def test_vectors_are_those_of_the_network() -> None:
    bundle = clip_bundle({"kind": "table"})
    np.testing.assert_allclose(
        WordVectors.of(bundle).encode_texts(TEXTS), ClipEncoder(bundle).encode_texts(TEXTS), atol=1e-6
    )


@pytest.mark.slow
def test_a_table_takes_the_place_of_a_text_tower(tmp_path: Path) -> None:
    words = WordVectors(TOKENIZER, ROWS)
    before = clip_bundle({"kind": "transformer", "width": 8, "layers": 1, "heads": 1})
    bundle = words.placed_in(before)
    image = np.zeros((1, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(ClipEncoder(bundle).encode_images(image), ClipEncoder(before).encode_images(image))
    bundle.save(tmp_path / "model", "float32")
    opened = WordVectors.of(Bundle.open(tmp_path / "model"))
    np.testing.assert_array_equal(opened.encode_texts(TEXTS), words.encode_texts(TEXTS))
    assert opened.encode_texts([]).shape == (0, 8)


def test_long_texts_end_with_the_end_token() -> None:
    assert token_ids(TOKENIZER, ["a b c d"], 4)[0, -1] == TOKENIZER.token_to_id("<|endoftext|>")


def test_bundles_without_a_table_and_tables_of_another_width_are_errors() -> None:
    bundle = clip_bundle({"kind": "transformer", "width": 8, "layers": 1, "heads": 1})
    with pytest.raises(UserError, match="text tower of model 'words' is no word table"):
        WordVectors.of(bundle)
    with pytest.raises(UserError, match="have 8 numbers, and the word table's have 4"):
        WordVectors(TOKENIZER, ROWS[:, :4]).placed_in(bundle)
