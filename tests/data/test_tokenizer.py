from pathlib import Path

import numpy as np
import pytest

from rdm_jax.data.tokenizer import load_tokenizer, tokenize, train_tokenizer


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


def test_words_of_the_captions_are_single_tokens(tokenizer) -> None:
    assert len(tokenizer("red boat", add_special_tokens=False)["input_ids"]) == 2
