"""Chooses an index by its recall against exact search and its time per query, on images and on texts.

The embeddings of texts lie apart from those of the images that an index is trained on, so its recall on images does not
predict its recall on texts. The target must be met on both.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.approximate_index import ApproximateIndex
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import RetrievalEncoder
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index

QUERIES = 256
SINGLES = 50
# The fractions of the leaves that are searched in the trials.
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
# The numbers of candidates that are compared exactly in the trials.
CANDIDATES = (100, 400, 1600)


@dataclasses.dataclass(frozen=True)
class Trial:
    """The measurements of one setting of an index.

    Attributes:
      name: the name of the setting.
      index: the index with the setting.
      recall: for each kind of query, the fraction of the exact neighbors that are found.
      single_ms: the median time of one query.
      batch_ms: the time per query if all queries are searched at once.
    """

    name: str
    index: Index
    recall: Mapping[str, float]
    single_ms: float
    batch_ms: float

    @property
    def worst(self) -> float:
        """The lowest recall of any kind of query."""
        return min(self.recall.values())


def image_queries(database: Database, count: int = QUERIES, seed: int = 0) -> Float[np.ndarray, "q d"]:
    """Returns queries that resemble new images of the database's kind: midpoints of a row and one of its neighbors.

    A row itself would be found by its own quantized vector. A point between a row and a neighbor lies where images of
    this kind lie, and is not a row.
    """
    generator = np.random.default_rng(seed)
    ids = generator.choice(len(database), min(count, len(database)), replace=False)
    rows = database.embeddings(ids)
    near, _ = ExactIndex(database.rows).search(rows, min(4, len(database)))
    return 0.5 * (rows + database.embeddings(near[:, -1]))


def text_queries(
    database: Database, encoder: RetrievalEncoder, texts: Sequence[str] = (), count: int = QUERIES, seed: int = 0
) -> Float[np.ndarray, "q d"]:
    """Returns the vectors of the texts, or of distinct captions of the database if there are no texts."""
    texts = list(dict.fromkeys(texts))
    if not texts:
        captions = sorted(set(database.column("caption").to_pylist()) - {None, ""})
        order = np.random.default_rng(seed).permutation(len(captions))[:count]
        texts = [captions[i] for i in order]
    return encoder.encode_texts(texts)


def tune(
    database: Database,
    queries: Mapping[str, Float[np.ndarray, "q d"]],
    k: int = 10,
    target: float = 0.99,
    index: ApproximateIndex | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> tuple[list[Trial], Trial]:
    """Measures exact search and settings of an index, and returns all trials and the best of them.

    The best is the fastest setting, or exact search, that meets the target on every kind of query.

    Args:
      database: the rows to search.
      queries: [q, d] vectors of each kind, by the name of the kind.
      k: the number of neighbors.
      target: the required recall, in (0, 1].
      index: the index whose settings are measured; only exact search is measured if None.
      on_trial: called with each trial.

    Raises:
      UserError: the target is out of range, or there are no queries.
    """
    if not 0 < target <= 1:
        raise UserError(f"target {target} is out of range; give a recall in (0, 1], such as 0.99")
    queries = {name: vectors for name, vectors in queries.items() if len(vectors)}
    if not queries:
        raise UserError("there are no queries; the database has no captions, give texts by --queries FILE")
    exact = ExactIndex(database.rows)
    truth = {name: exact.search(vectors, k)[0] for name, vectors in queries.items()}
    trials = [_trial("exact", exact, queries, truth, k)]
    on_trial(trials[0])
    for sweep in _sweeps(index):
        for name, setting in sweep:
            trials.append(_trial(name, setting, queries, truth, k))
            on_trial(trials[-1])
            if trials[-1].worst >= target:
                break
        if trials[-1].worst >= target:  # more candidates would only be slower
            break
    good = [trial for trial in trials if trial.worst >= target]
    return trials, min(good, key=lambda trial: trial.single_ms)


def recall(ids: Int64[np.ndarray, "q k"], truth: Int64[np.ndarray, "q k"]) -> float:
    """Returns the fraction of the true neighbors that were found."""
    return float(np.mean([np.isin(true, row).mean() for row, true in zip(ids, truth, strict=True)]))


def _sweeps(index: ApproximateIndex | None) -> list[list[tuple[str, ApproximateIndex]]]:
    """Returns the settings of the trials: for each number of candidates, an increasing number of leaves."""
    if index is None:
        return []
    leaves = index.parameters.leaves
    counts = sorted({max(1, round(fraction * leaves)) for fraction in FRACTIONS})
    return [
        [(f"{count}/{leaves} leaves, {candidates} rows", _with(index, count, candidates)) for count in counts]
        for candidates in CANDIDATES
    ]


def _with(index: ApproximateIndex, searched: int, candidates: int) -> ApproximateIndex:
    parameters = dataclasses.replace(index.parameters, searched=searched, candidates=candidates)
    return dataclasses.replace(index, parameters=parameters)


def _trial(
    name: str,
    index: Index,
    queries: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    k: int,
) -> Trial:
    ids = {kind: index.search(vectors, k)[0] for kind, vectors in queries.items()}
    together = np.concatenate(list(queries.values()))
    index.search(together[:1], k)  # compiles
    singles = [
        _seconds(lambda row=row: index.search(together[row : row + 1], k)) for row in range(min(SINGLES, len(together)))
    ]
    batch = _seconds(lambda: index.search(together, k)) / len(together)
    scores = {kind: recall(ids[kind], truth[kind]) for kind in queries}
    return Trial(name, index, scores, 1000 * statistics.median(singles), 1000 * batch)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
