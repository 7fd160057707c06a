"""The engine faiss (https://arxiv.org/abs/2401.08281), for machines without ScaNN; the one file that imports it.

Leaves of an inverted file hold product-quantized residuals of 4 bits, whose tables stay in the processor's registers
(https://arxiv.org/abs/1704.07355).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int64

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.engine import Parameters

FILE = "index.faiss"
BITS = 4  # of each code, for which there are the fast instructions
SEED = 0


class Faiss:
    """An inverted file with product quantization, see `engine.Engine`."""

    name: ClassVar[str] = "faiss"
    label: ClassVar[str] = "faiss"
    advice: ClassVar[str] = "pip install 'rdm_jax[faiss]'"

    def installed(self) -> bool:
        """Returns whether faiss can be imported."""
        return importlib.util.find_spec("faiss") is not None

    def build(self, rows: Float32[np.ndarray, "n d"], parameters: Parameters) -> Any:
        """Returns the searcher of unit rows; `anisotropic_threshold` has no effect."""
        faiss = _faiss()
        if not parameters.has_tree(len(rows)):
            index = faiss.IndexFlatIP(rows.shape[1])
            index.add(rows)
            return index
        padded = _padded(rows, parameters.block)
        width, metric = padded.shape[1], faiss.METRIC_INNER_PRODUCT
        coarse = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFPQFastScan(coarse, width, parameters.leaves, width // parameters.block, BITS, metric)
        sample = min(len(rows), parameters.training_rows)
        index.cp.max_points_per_centroid = max(index.cp.max_points_per_centroid, sample // parameters.leaves + 1)
        index.cp.min_points_per_centroid = 1  # of small leaves faiss would warn on the standard output
        chosen = np.sort(np.random.default_rng(SEED).permutation(len(rows))[:sample])
        index.train(padded[chosen])
        index.add(padded)
        return index

    def save(self, searcher: Any, folder: Path) -> None:
        """Writes a searcher into an empty folder."""
        _faiss().write_index(searcher, str(folder / FILE))

    def load(self, folder: Path) -> Any:
        """Returns a searcher from its folder."""
        return _faiss().read_index(str(folder / FILE))

    def search(
        self, searcher: Any, queries: Float32[np.ndarray, "q d"], count: int, searched: int
    ) -> tuple[Int64[np.ndarray, "q c"], Float32[np.ndarray, "q c"]]:
        """Returns candidates and their approximate products; -1 stands for an empty place."""
        faiss = _faiss()
        if not isinstance(searcher, faiss.IndexIVF):
            scores, ids = searcher.search(queries, count)
        else:
            padded = np.pad(queries, ((0, 0), (0, searcher.d - queries.shape[1])))
            scores, ids = searcher.search(padded, count, params=faiss.SearchParametersIVF(nprobe=max(1, searched)))
        return ids, scores


def _padded(rows: Float32[np.ndarray, "n d"], block: int) -> Float32[np.ndarray, "n d2"]:
    """Returns rows with zeros after their numbers, so that the dimensions that are quantized together divide them."""
    missing = -rows.shape[1] % block
    return np.pad(rows, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(rows)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"faiss is not installed; {Faiss.advice}, or use the index 'exact'") from error
    return faiss
