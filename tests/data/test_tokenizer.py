import logging
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.data.tokenizer import CaptionTokenizer, load_tokenizer, tokenize, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = Path(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.json"
    train_tokenizer(["a red boat on a blue ground", "a mosaic of a green tree"], 300, file)
    return load_tokenizer(file)


@pytest.mark.parametrize("text", ["a red boat", "été à la mer", "猫と舟 🚀", "don't!  stop 42"])
def test_any_text_comes_back_lower_cased_with_single_spaces_between_words(tokenizer, text: str) -> None:
    back = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_rows_start_end_and_are_padded(tokenizer) -> None:
    rows = tokenize(tokenizer, ["a red boat", "a red boat on a blue ground and much else besides"], 8)
    assert rows.shape == (2, 8) and rows.dtype == np.int32
    assert list(rows[:, 0]) == [tokenizer.bos_token_id] * 2
    assert rows[0, -1] == rows[1, -1] == tokenizer.eos_token_id


def test_the_words_of_a_closed_vocabulary_are_those_of_the_captions(tokenizer) -> None:
    words = tokenizer.words
    assert words.closed and set(words.words) == {"red", "boat", "blue", "ground", "mosaic", "green", "tree"}
    text = "a red boat, Boats of a MOSAIC on zeppelins at 42"
    assert words.unknown(text, len(text)) == ["boats", "zeppelins"]
    assert words.unknown(text, text.index("zeppelins")) == ["boats"]
    assert words.nearest("boats") == ["boat"] and words.nearest("xyzzyx") == []


def test_words_of_an_open_vocabulary_may_be_of_several_parts(tmp_path) -> None:
    captions = [f"{first}{second}" for first in ("green", "tree", "house") for second in ("house", "boat", "light")]
    train_tokenizer(captions, 276, tmp_path / "tokenizer.json")
    words = load_tokenizer(tmp_path / "tokenizer.json").words
    assert not words.closed
    assert words.unknown("greenhouse zxyqw ab", 99) == ["zxyqw"]


def test_the_embedded_model_knows_the_words_of_its_own_captions() -> None:
    tokenizer = Bundle.open("style-scenes", parts=()).tokenizer
    assert isinstance(tokenizer, CaptionTokenizer)
    text = "a red boat in the style of a mosaic: a yellow mushroom on a white ground"
    assert tokenizer.words.unknown(text, len(text)) == []
    assert tokenizer.words.unknown("two yellow mushrooms", 20) == ["two", "mushrooms"]
    assert tokenizer.words.nearest("mushrooms") == ["mushroom"]


def test_captions_of_training_that_are_cut_have_one_line(tokenizer, caplog) -> None:
    with caplog.at_level(logging.WARNING, "rdm_jax"):
        tokenize(tokenizer, [f"a red boat on a blue ground {number}" for number in range(100)], 6)
    (record,) = caplog.records
    assert record.getMessage().startswith("100 of 100 texts are too long")


def test_words_of_the_captions_are_single_tokens(tokenizer) -> None:
    assert len(tokenizer("red boat", add_special_tokens=False)["input_ids"]) == 2
