"""Neighbors that the user chooses: pinned, dropped, weighted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.conditioning import Weights
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.generator import Generator, Plan
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.opening import open_retriever
from rdm_jax.retrieval.retriever import Neighbors, map_neighbors

Row = tuple[str, int]
"""The name of a database and an id in it."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the user decided about single neighbors.

    Attributes:
      pinned: rows that every query has, before those that it retrieves.
      dropped: rows that no query has.
      weights: how often a row counts in every attention; 1 where there is none.
    """

    pinned: tuple[Row, ...] = ()
    dropped: frozenset[Row] = frozenset()
    weights: Mapping[Row, float] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pinned or self.dropped or self.weights)

    def pin(self, row: Row) -> Choice:
        """Returns the choice with a row pinned, or no longer pinned if it was."""
        others = tuple(one for one in self.pinned if one != row)
        pinned = others if row in self.pinned else (*others, row)
        return dataclasses.replace(self, pinned=pinned, dropped=self.dropped - {row})

    def drop(self, row: Row) -> Choice:
        """Returns the choice with a row dropped."""
        pinned = tuple(one for one in self.pinned if one != row)
        return dataclasses.replace(self, pinned=pinned, dropped=self.dropped | {row})

    def weigh(self, row: Row, weight: float) -> Choice:
        """Returns the choice with the weight of a row."""
        others = {one: given for one, given in self.weights.items() if one != row}
        return dataclasses.replace(self, weights=others if weight == 1 else {**others, row: float(weight)})

    def apply(self, generator: Generator, plan: Plan, database: Mixture) -> Plan:
        """Returns a plan with the chosen neighbors, in its record and its condition.

        Args:
          generator: the model.
          plan: of the queries.
          database: that its neighbors are from.

        Raises:
          UserError: the rows that are left are too few, or weights are given for several prompts.
        """
        if not self or plan.neighbors is None:
            return plan
        known = {one.name for one in database.databases}
        pinned = [row for row in self.pinned if row[0] in known]
        neighbors = self._neighbors(generator, plan, database, pinned)
        request = plan.request
        if self.weights:
            if len(plan.queries) > 1:
                raise UserError("weights of single neighbors need one prompt; give one, or set the weights to 1")
            rows = zip(neighbors.databases[0].tolist(), neighbors.ids[0].tolist(), strict=True)
            values = [self.weights.get((str(name), int(row)), 1.0) for name, row in rows]
            request = dataclasses.replace(request, conditions=(*request.conditions, Weights(of_neighbors=values)))
        return dataclasses.replace(plan, neighbors=neighbors, request=request).checked()

    def _neighbors(self, generator: Generator, plan: Plan, database: Mixture, pinned: list[Row]) -> Neighbors:
        """Returns the pinned rows and the best others of each query, as many as before."""
        assert plan.neighbors is not None
        count = plan.neighbors.ids.shape[1]
        retriever = open_retriever(generator.encoder, database)
        excluded = self.dropped | set(pinned)
        found = retriever.retrieve(plan.queries, min(count + len(excluded), len(database)))
        first, kept = pinned[:count], []
        for query in range(len(plan.queries)):
            rows = zip(found.databases[query].tolist(), found.ids[query].tolist(), strict=True)
            good = [place for place, row in enumerate(rows) if row not in excluded][: count - len(first)]
            if len(good) + len(first) < count:
                raise UserError(f"{count} neighbors are wanted, and fewer are left; drop fewer, or lower their number")
            kept.append(good)
        places = np.array(kept, np.int64).reshape(len(kept), -1)
        rest = map_neighbors(lambda part: part[np.arange(len(part))[:, None], places], found)
        if not first:
            return rest
        return map_neighbors(
            lambda one, other: np.concatenate([one, other], axis=1), _pinned(first, plan.queries, database), rest
        )


def _pinned(rows: list[Row], queries: np.ndarray, database: Mixture) -> Neighbors:
    """Returns the same rows for every query."""
    names, ids = np.array([name for name, _ in rows]), np.array([row for _, row in rows], np.int64)
    vectors = database.embeddings(names, ids)
    shape: Any = (len(queries), len(rows))
    scores = (unit(queries) @ unit(vectors).T).astype(np.float32)
    embeddings = np.broadcast_to(vectors, (*shape, vectors.shape[1]))
    return Neighbors(np.broadcast_to(ids, shape), scores, embeddings, np.broadcast_to(names, shape))
