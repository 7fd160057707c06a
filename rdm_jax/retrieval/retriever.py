"""From query vectors to neighbours, in one database or several."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import Encoder
from rdm_jax.retrieval.index import Index, make_index


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The nearest rows of each query, best first.

    Attributes:
      ids: [q, k] row numbers, each in its own database.
      scores: [q, k] cosines.
      embeddings: [q, k, d] the rows as the encoder gave them, not normalised.
      databases: [q, k] the name of the database that each comes from.
    """

    ids: Int64[np.ndarray, "q k"]
    scores: Float32[np.ndarray, "q k"]
    embeddings: Float32[np.ndarray, "q k d"]
    databases: Shaped[np.ndarray, "q k"]


@dataclasses.dataclass(frozen=True)
class Retriever:
    """Finds neighbours in databases that one encoder made.

    Attributes:
      encoder: makes the queries.
      databases: where to look, each under a name of its own.
      weights: the share of the k neighbours that each database gives, of any sum; None takes the best of all.
      index: "auto", "exact" or "scann".

    Raises:
      UserError: another encoder made a database, two bear the same name, or the weights do not fit.
    """

    encoder: Encoder
    databases: Sequence[Database]
    weights: Sequence[float] | None = None
    index: str = "auto"

    def __post_init__(self) -> None:
        if not self.databases:
            raise UserError("no database to retrieve from; give one or more")
        names = [database.name for database in self.databases]
        if len(set(names)) < len(names):
            raise UserError(f"databases {', '.join(names)} do not all have different names; give each only once")
        for database in self.databases:
            database.check_encoder(self.encoder.identity)
        if self.weights is not None:
            weights = np.asarray(self.weights, np.float64)
            if (
                weights.shape != (len(names),)
                or not np.isfinite(weights).all()
                or (weights < 0).any()
                or not weights.any()
            ):
                raise UserError(
                    f"weights {', '.join(map(str, self.weights))} do not fit the databases {', '.join(names)}; give "
                    "one weight of 0 or more for each, not all 0"
                )

    def retrieve(self, queries: Float[np.ndarray, "q d"], k: int) -> Neighbors:
        """Returns the k nearest rows of each query vector.

        Args:
          queries: [q, d] vectors of the encoder, of any length.
          k: how many neighbours in all.

        Raises:
          UserError: k is below 1, or above the number of rows that the databases can give.
        """
        total = sum(len(database) for database in self.databases)
        if not 1 <= k <= total:
            names = ", ".join(database.name for database in self.databases)
            raise UserError(f"k {k} is out of range; {names} has {total} rows, give 1 to {total}")
        counts = [min(k, len(d)) for d in self.databases] if self.weights is None else shares(self.weights, k)
        parts = [
            self._from_one(database, index, queries, count)
            for database, index, count in zip(self.databases, self._indexes, counts, strict=True)
            if count
        ]
        return parts[0] if len(parts) == 1 else _merge(parts, k)

    @functools.cached_property
    def _indexes(self) -> list[Index]:
        return [make_index(database, self.index) for database in self.databases]

    def _from_one(self, database: Database, index: Index, queries: np.ndarray, k: int) -> Neighbors:
        if k > len(database):
            raise UserError(
                f"database {database.name!r} has {len(database)} rows, and its weight asks for {k}; lower k or its "
                "weight"
            )
        ids, scores = index.search(queries, k)
        embeddings = database.embeddings(ids.reshape(-1)).reshape(*ids.shape, database.width)
        return Neighbors(ids, scores, embeddings, np.full(ids.shape, database.name))


def shares(weights: Sequence[float], k: int) -> list[int]:
    """Returns how many of k each weight gets: largest remainders, earlier ones first where they are equal."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * k
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: k - counts.sum()]] += 1
    return counts.tolist()


def _merge(parts: Sequence[Neighbors], k: int) -> Neighbors:
    ids = np.concatenate([part.ids for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    embeddings = np.concatenate([part.embeddings for part in parts], axis=1)
    return Neighbors(
        ids=np.take_along_axis(ids, best, axis=1),
        scores=np.take_along_axis(scores, best, axis=1),
        embeddings=np.take_along_axis(embeddings, best[:, :, None], axis=1),
        databases=np.take_along_axis(np.concatenate([part.databases for part in parts], axis=1), best, axis=1),
    )
