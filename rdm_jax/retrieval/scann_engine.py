"""The engine ScaNN (https://arxiv.org/abs/1908.10396); the one file that imports it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int64

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.engine import Parameters

# From this number of queries on, several threads search.
PARALLEL_QUERIES = 16
PICKLE = "scann_docids.pkl"


class Scann:
    """A tree of leaves with anisotropic quantization, see `engine.Engine`."""

    name: ClassVar[str] = "scann"
    label: ClassVar[str] = "ScaNN"
    advice: ClassVar[str] = "pip install scann (it has wheels for x86-64 Linux)"

    def installed(self) -> bool:
        """Returns whether ScaNN can be imported."""
        return importlib.util.find_spec("scann") is not None

    def build(self, rows: Float32[np.ndarray, "n d"], parameters: Parameters) -> Any:
        """Returns the searcher of unit rows; this needs about three times their memory."""
        builder = _scann().builder(rows, min(len(rows), 10), "dot_product")
        if not parameters.has_tree(len(rows)):
            return builder.score_brute_force().build()
        sample = min(len(rows), parameters.training_rows)
        tree = builder.tree(parameters.leaves, parameters.searched, training_sample_size=sample)
        threshold = parameters.anisotropic_threshold
        return tree.score_ah(parameters.block, anisotropic_quantization_threshold=threshold).build()

    def save(self, searcher: Any, folder: Path) -> None:
        """Writes a searcher into an empty folder."""
        searcher.serialize(str(folder), relative_path=True)

    def load(self, folder: Path) -> Any:
        """Returns a searcher from its folder; raises UserError if there is a pickle, which ScaNN would run."""
        # The indexes that this package writes have no pickle of names.
        if (folder / PICKLE).exists():
            raise UserError(
                f"index {folder} contains a pickle, which is not opened; make it again with rdm database tune"
            )
        return _scann().load_searcher(str(folder))

    def search(
        self, searcher: Any, queries: Float32[np.ndarray, "q d"], count: int, searched: int
    ) -> tuple[Int64[np.ndarray, "q c"], Float32[np.ndarray, "q c"]]:
        """Returns candidates and their approximate products."""
        options = {"final_num_neighbors": count, **({"leaves_to_search": searched} if searched else {})}
        if len(queries) == 1:
            ids, scores = searcher.search(queries[0], **options)
            missing = (0, count - len(ids))
            return np.pad(ids.astype(np.int64), missing, constant_values=-1)[None], np.pad(scores, missing)[None]
        if len(queries) < PARALLEL_QUERIES:
            ids, scores = searcher.search_batched(queries, **options)
        else:
            per_thread = -(-len(queries) // (os.cpu_count() or 1))
            ids, scores = searcher.search_batched_parallel(queries, batch_size=per_thread, **options)
        return np.asarray(ids, np.int64), np.asarray(scores, np.float32)


def _scann() -> Any:
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as error:
        raise UserError(f"ScaNN is not installed; {Scann.advice}, or use the index 'faiss' or 'exact'") from error
    return scann_ops_pybind
