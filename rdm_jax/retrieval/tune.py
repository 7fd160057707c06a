"""Choosing an index: recall against exact search and time a query, on pictures and on texts.

Texts lie apart from the pictures that an index was learned from, so that its recall on pictures says little of theirs;
the target is to be met on both.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int64

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import RetrievalEncoder
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.index import Index
from rdm_jax.retrieval.scann_index import ScannIndex

QUERIES = 256
SINGLES = 50
# Shares of the leaves that are tried.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
# How many candidates are compared exactly.
CANDIDATES = (100, 400, 1600)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one setting of an index gave.

    Attributes:
      name: of the setting.
      index: with it.
      recall: of each kind of query, the share of the exact neighbours that it finds.
      single_ms: median time of one query.
      batch_ms: time a query when all come at once.
    """

    name: str
    index: Index
    recall: Mapping[str, float]
    single_ms: float
    batch_ms: float

    @property
    def worst(self) -> float:
        """The recall of the kind of query that it serves worst."""
        return min(self.recall.values())


def picture_queries(database: Database, count: int = QUERIES, seed: int = 0) -> Float[np.ndarray, "q d"]:
    """Returns queries like new pictures of the database's kind: steps from a row towards another of its neighbours.

    A row itself would be found by its own quantised self; a point between a row and a neighbour lies where pictures of
    the database's kind lie and is none of its rows.
    """
    generator = np.random.default_rng(seed)
    ids = generator.choice(len(database), min(count, len(database)), replace=False)
    rows = database.embeddings(ids)
    near, _ = ExactIndex(database.rows).search(rows, min(4, len(database)))
    return 0.5 * (rows + database.embeddings(near[:, -1]))


def text_queries(
    database: Database, encoder: RetrievalEncoder, texts: Sequence[str] = (), count: int = QUERIES, seed: int = 0
) -> Float[np.ndarray, "q d"]:
    """Returns the vectors of given texts, or of different captions of the database; none where it has none."""
    known = list(dict.fromkeys(texts))
    if not known:
        captions = sorted(set(database.column("caption").to_pylist()) - {None, ""})
        order = np.random.default_rng(seed).permutation(len(captions))[:count]
        known = [captions[i] for i in order]
    return encoder.encode_texts(known)


def tune(
    database: Database,
    queries: Mapping[str, Float[np.ndarray, "q d"]],
    k: int = 10,
    target: float = 0.99,
    index: ScannIndex | None = None,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> tuple[list[Trial], Trial]:
    """Measures exact search and settings of an index, and returns all trials and the best of them.

    The best is the quickest that meets the target on every kind of query, exact search among them.

    Args:
      database: what is searched.
      queries: vectors of each kind, by its name.
      k: neighbours that are looked for.
      target: the recall that is wanted, in (0, 1].
      index: whose settings are tried; exact search alone is measured if None.
      tell: called with each trial.

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
    tell(trials[0])
    for sweep in _sweeps(index):
        for name, setting in sweep:
            trials.append(_trial(name, setting, queries, truth, k))
            tell(trials[-1])
            if trials[-1].worst >= target:
                break
        if trials[-1].worst >= target:  # more candidates would only take longer
            break
    good = [trial for trial in trials if trial.worst >= target]
    return trials, min(good, key=lambda trial: trial.single_ms)


def recall(found: Int64[np.ndarray, "q k"], truth: Int64[np.ndarray, "q k"]) -> float:
    """Returns the share of the true neighbours that were found."""
    return float(np.mean([np.isin(true, row).mean() for row, true in zip(found, truth, strict=True)]))


def _sweeps(index: ScannIndex | None) -> list[list[tuple[str, ScannIndex]]]:
    """Returns the settings that are tried: for each number of candidates, ever more leaves."""
    if index is None:
        return []
    leaves = index.parameters.leaves
    counts = sorted({max(1, round(share * leaves)) for share in SHARES})
    return [
        [(f"{count}/{leaves} leaves, {candidates} rows", _with(index, count, candidates)) for count in counts]
        for candidates in CANDIDATES
    ]


def _with(index: ScannIndex, searched: int, candidates: int) -> ScannIndex:
    parameters = dataclasses.replace(index.parameters, searched=searched, candidates=candidates)
    return dataclasses.replace(index, parameters=parameters)


def _trial(
    name: str,
    index: Index,
    queries: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    k: int,
) -> Trial:
    found = {kind: index.search(vectors, k)[0] for kind, vectors in queries.items()}
    together = np.concatenate(list(queries.values()))
    index.search(together[:1], k)
    singles = [
        _seconds(lambda row=row: index.search(together[row : row + 1], k)) for row in range(min(SINGLES, len(together)))
    ]
    batch = _seconds(lambda: index.search(together, k)) / len(together)
    scores = {kind: recall(found[kind], truth[kind]) for kind in queries}
    return Trial(name, index, scores, 1000 * statistics.median(singles), 1000 * batch)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
