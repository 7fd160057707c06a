"""Foreign tokenizers against OpenAI's algorithm, written here once more, and against transformers'."""

from __future__ import annotations

import gzip
import html
import itertools
import json
import os
import subprocess
import sys
from typing import Any

import ftfy
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert.tokenizer import lower_cased, read_tokenizer
from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import END, START, split, tokenize
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import tiny

MERGES = ["r e", "re d</w>", "b o", "a t</w>", "bo at</w>", "Ã ©</w>", "c a", "ca f"]
TEXTS = [
    "A red  boat!",
    "“A red boat” — \u2018café\u2019",
    "a red &amp; a blue boat",
    "a red &amp;amp; &amp;lt;boat&amp;gt;",
    "<b> &eacute; &amp;amp;",
    "cafÃ© in the sea",
    "The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.",
    "ﬁne \uff32\uff25\uff24 ﾊﾝｶｸ",
    " \t a\u00a0red\u2003boat\r\n\x85 ",
    "ÉTÉ À LA MER",
    "red\x1b[36;44mboat\x1b[m",
    "a boat <|endoftext|> red",
    "猫と舟 🚀 it's 42",
    "",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("merges") / "merges.txt"
    path.write_text("\n".join(["#version", *MERGES, ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def original():
    """The function from a text to the ids of OpenAI's tokenizer."""
    import regex

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in printable]
    symbols = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(other)}
    base = [symbols[byte] for byte in [*printable, *other]]
    merges = [tuple(line.split()) for line in MERGES]
    tokens = [*base, *(f"{one}</w>" for one in base), *map("".join, merges), START, END]
    ids, ranks = {token: n for n, token in enumerate(tokens)}, {pair: n for n, pair in enumerate(merges)}
    words = regex.compile(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
    )

    def bpe(word):
        if word in (START, END):
            return [word]
        parts = [symbols[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                together = tuple(parts[i : i + 2]) == best
                joined.append("".join(best) if together else parts[i])
                i += 2 if together else 1
            parts = joined
        return parts

    def encode(text):
        text = ftfy.fix_text(text)
        text = html.unescape(html.unescape(text)).strip()
        text = regex.sub(r"\s+", " ", text).strip().lower()
        return [ids[part] for word in words.findall(text) for part in bpe(word)]

    return encode


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_cleaned_and_split_as_openais_program_does(file, original, text):
    tokenizer = read_tokenizer(file)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == original(text)
    assert tokenizer.encode(text, add_special_tokens=False) == original(text)


def test_the_cleaning_survives_saving_and_opening(file, original, tmp_path):
    tokenizer = read_tokenizer(file)
    whole = tiny.bundle()
    Bundle({"name": "clip", "clip": whole.config["clip"]}, {"clip": whole.params["clip"]}, tokenizer).save(
        tmp_path / "one"
    )
    Bundle.open(tmp_path / "one").save(tmp_path / "two")
    bundle = Bundle.open(tmp_path / "two")
    assert bundle.tokenizer is not None
    start, end, length = bundle.tokenizer.bos_token_id, bundle.tokenizer.eos_token_id, 8
    expected = [[start, *original(text)[: length - 2], end] for text in TEXTS]
    expected = [[*row, *[end] * (length - len(row))] for row in expected]
    np.testing.assert_array_equal(tokenize(bundle.tokenizer, TEXTS, length), expected)
    np.testing.assert_array_equal(ClipEncoder(bundle).tokenize(TEXTS)[0], expected)


def test_clean_texts_have_the_tokens_of_transformers(file, tmp_path):
    from transformers import CLIPTokenizer

    tokenizer = read_tokenizer(file)
    (tmp_path / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()), encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes(file.read_bytes())
    theirs = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    folder = read_tokenizer(tmp_path)
    for text in ["a red boat!", "café, 42 boats", "it's"]:
        assert folder(text)["input_ids"] == tokenizer(text)["input_ids"] == theirs(text)["input_ids"]
    assert folder("“A red boat”")["input_ids"] == tokenizer('"a red boat"')["input_ids"]


def test_a_tokenizer_that_is_trained_here_takes_texts_as_they_are():
    tokenizer = tiny.bundle().tokenizer
    assert tokenizer is not None
    assert tokenizer.tokenize("“a”") != tokenizer.tokenize('"a"')


def test_symbols_that_look_like_line_ends_are_parts_of_merges(tmp_path):
    vocabulary = {token: n for n, token in enumerate(["a", "\x85", "\u2028", "a\x85", "a\x85\u2028", START, END])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_bytes("#version\r\na \x85\r\na\x85 \u2028\r\n".encode())
    assert len(read_tokenizer(tmp_path)) == len(vocabulary)


def test_merges_may_be_compressed_whatever_their_name(file, tmp_path):
    for name in ("bpe.txt.gz", "bpe"):
        (tmp_path / name).write_bytes(gzip.compress(file.read_bytes()))
        assert read_tokenizer(tmp_path / name).get_vocab() == read_tokenizer(file).get_vocab()


@pytest.mark.slow
def test_the_locale_has_no_effect(file, original):
    code = f"from pathlib import Path; from rdm_jax.convert.tokenizer import read_tokenizer\n\
print(read_tokenizer(Path({str(file)!r}))('caf\\xe9', add_special_tokens=False)['input_ids'])"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert json.loads(result.stdout) == original("café")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not pairs of symbols"),
        (b"#version\na b c\n", "not pairs of symbols"),
        (b"#version\nzz a\n", "out of vocabulary"),
        (b"#version\n\xe9 a\n", "not UTF-8"),
        (b"\x1f\x8b\x08garbage", "not a readable tokenizer"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content, reason):
    (tmp_path / "merges.txt").write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_tokenizer(tmp_path / "merges.txt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "1", '{"a": "x"}', "{", '{"version": 1}'])
@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / "merges.txt").write_text("#version\na b\n", encoding="utf-8")
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="not a readable tokenizer") as caught:
        read_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["The thin inn, then", "  two   spaces\nnewline", "Caf\u00e9 3.14 & it's"])
def test_gpt2s_merges_alone_are_its_tokenizer(tmp_path, text):
    from transformers import GPT2Tokenizer

    merges = [("t", "h"), ("i", "n"), ("th", "e"), ("\u0120", "t"), ("\u0120t", "h"), ("\u0120th", "in"), ("n", "n")]
    file = tmp_path / "vocab.bpe"
    file.write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n", encoding="utf-8")
    opened = read_tokenizer(file)
    arguments: Any = {"vocab": opened.get_vocab(), "merges": merges}
    original = GPT2Tokenizer(**arguments)
    assert opened.bos_token is None and opened.eos_token_id == len(opened) - 1 == 256 + len(merges)
    assert split(opened, text)[0] == original(text)["input_ids"]
    lower = lower_cased(opened)
    assert split(lower, text)[0] == original(text.lower())["input_ids"]
