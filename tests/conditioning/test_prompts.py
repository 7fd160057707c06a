"""Prompts as sequences of tokens against the original programs, and the weights of words in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rdm_jax.conditioning.emphasis import weighted_parts
from rdm_jax.conditioning.prompts import PromptReader
from rdm_jax.core.errors import UserError
from rdm_jax.data.unread import Unread
from rdm_jax.request import LONG_PROMPTS
from tests.helpers.stable_diffusion import data_of, golden_bundle


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def model(request, golden):
    return request.param, golden_bundle(golden, request.param), data_of(golden, request.param)


def reader_of(bundle, long_prompts="truncate"):
    reader = PromptReader.of(bundle, long_prompts)
    assert reader is not None
    return reader


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red boat", [("a red boat", 1.0)]),
        ("", [("", 1.0)]),
        ("a (red:1.2) boat", [("a ", 1.0), ("red", 1.2), (" boat", 1.0)]),
        ("(red) [blue]", [("red", 1.1), (" ", 1.0), ("blue", 1 / 1.1)]),
        ("((red) boat)", [("red", 1.1 * 1.1), (" boat", 1.1)]),
        ("(a (red:0.5) boat:2)", [("a ", 2.0), ("red", 1.0), (" boat", 2.0)]),
        (r"a cat \(sitting\) \[here\] \\", [("a cat (sitting) [here] \\", 1.0)]),
        ("a cat (by the sea", [("a cat ", 1.0), ("by the sea", 1.1)]),
        ("ratio 3:4) and a: b", [("ratio 3:4) and a: b", 1.0)]),
        ("(red:-.5)", [("red", -0.5)]),
    ],
)
def test_weights_of_words(prompt, parts):
    found = weighted_parts(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    np.testing.assert_allclose([weight for _, weight in found], [weight for _, weight in parts])


def test_tokens_and_states_are_those_of_the_original(model, caplog):
    name, bundle, data = model
    reader, unread = reader_of(bundle), Unread()
    rows = [reader.rows(str(text), unread) for text in data["texts"]]
    assert all(len(windows) == 1 for windows in rows)
    np.testing.assert_array_equal(np.stack([windows[0][0] for windows in rows]), data["input_ids"])
    read = reader([str(text) for text in data["texts"]])
    assert read.weights is None
    np.testing.assert_allclose(read.tokens, data["context"], rtol=1e-4, atol=1e-4)
    assert "is too long for the text encoder; this is cut off: 'boat" in caplog.text
    assert reader.pad_id == {"sd1": 530, "sd2": 0}[name]


def test_a_long_prompt_is_read_in_windows(model, caplog):
    _, bundle, data = model
    long = str(data["texts"][3])
    reader = reader_of(bundle, "windows")
    windows = reader.rows(long, Unread())
    words = len(long.split())
    assert len(windows) == -(-words // 75)
    assert sum(int((row == windows[0][0][1]).sum()) for row, _ in windows) == words
    read = reader([long, "a red boat"])
    assert read.tokens.shape[1] == 77 * len(windows) and not caplog.records
    np.testing.assert_array_equal(read.weights, [[1] * read.tokens.shape[1], [1] * 77 + [0] * 77 * (len(windows) - 1)])
    np.testing.assert_allclose(read.tokens[0, :77], data["context"][3], rtol=1e-4, atol=1e-4)


def test_weights_scale_the_states_of_their_words_and_keep_the_mean(model):
    _, bundle, _ = model
    reader = reader_of(bundle)
    plain, weighted, same = reader(["a red boat", "a (red:1.5) boat", "a (red:1) boat"]).tokens
    np.testing.assert_array_equal(plain, same)
    factors = np.ones((77, 1), np.float32)
    factors[2] = 1.5  # the start, "a", "red"
    raw = plain * factors
    np.testing.assert_allclose(weighted, raw * (plain.mean() / raw.mean()), rtol=1e-4, atol=1e-5)


def test_a_model_without_tokenizer_says_how_to_get_one(golden):
    bundle = dataclasses.replace(golden_bundle(golden, "sd1"), tokenizer=None)
    with pytest.raises(UserError, match="has no tokenizer; convert it again with --tokenizer"):
        PromptReader.of(bundle, LONG_PROMPTS[0])
