"""Neighbors that the user chooses, of each role: pinned, dropped, weighted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.conditioning import Weights
from rdm_jax.conditioning.content import Content
from rdm_jax.conditioning.roles import StyleReferences, neighbor_images
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.generator import Generator, Plan
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.opening import open_retriever
from rdm_jax.retrieval.retriever import Neighbors, map_neighbors

Row = tuple[str, int]
"""The name of a database and an id in it."""
STYLE, CONTENT = "style", "content"
"""The roles of neighbors; those of a model with one role are chosen as style neighbors are."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the user decided about single neighbors of one role.

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


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the user decided about the neighbors of both roles.

    Attributes:
      style: of style neighbors, and of a model with one role.
      content: of content neighbors; these have no weights.
    """

    style: Choice = dataclasses.field(default_factory=Choice)
    content: Choice = dataclasses.field(default_factory=Choice)

    def of(self, role: str) -> Choice:
        """Returns the choice of a role."""
        return self.content if role == CONTENT else self.style

    def replaced(self, role: str, choice: Choice) -> Choices:
        """Returns the choices with that of one role replaced."""
        return dataclasses.replace(self, **{CONTENT if role == CONTENT else STYLE: choice})

    def apply(self, generator: Generator, plan: Plan, style: Mixture | None, content: Mixture | None) -> Plan:
        """Returns a plan with the chosen neighbors, in its record and its condition.

        Args:
          generator: the model.
          plan: of the queries.
          style: the database that its neighbors are from; None where it has none.
          content: the database that its content neighbors are from; None where it has none.

        Raises:
          UserError: the rows that are left are too few, or weights are given for several prompts.
        """
        if self.content and plan.content is not None and content is not None:
            plan = generator.with_content(plan, _content(generator, plan, plan.content, content, self.content))
        if self.style and plan.neighbors is not None and style is not None:
            plan = _styled(generator, plan, style, self.style)
        return plan.checked()


def _styled(generator: Generator, plan: Plan, database: Mixture, choice: Choice) -> Plan:
    """Returns a plan with the chosen style neighbors, and a condition of their weights."""
    assert plan.neighbors is not None
    count = plan.neighbors.ids.shape[1]
    retriever = open_retriever(generator.encoder, database)
    found = retriever.retrieve(plan.queries, _most(choice, database, count))
    found, places = _ordered(choice, database, plan.queries, found)
    if any(len(good) < count for good in places):
        raise UserError(f"{count} neighbors are wanted, and fewer are left; drop fewer, or lower their number")
    neighbors = _taken(found, [good[:count] for good in places])
    request = plan.request
    if choice.weights:
        if len(plan.queries) > 1:
            raise UserError("weights of single neighbors need one prompt; give one, or set the weights to 1")
        values = [choice.weights.get(row, 1.0) for row in _rows(neighbors, 0)]
        request = dataclasses.replace(request, conditions=(*request.conditions, Weights(of_neighbors=values)))
    return dataclasses.replace(plan, neighbors=neighbors, request=request)


def _content(generator: Generator, plan: Plan, content: Content, database: Mixture, choice: Choice) -> Content:
    """Returns the content of a plan's queries with the chosen rows; what the user gave as an image stays."""
    texts = np.flatnonzero(content.neighbors.ids[:, 0] >= 0)
    if not len(texts):
        return content
    count, queries = content.neighbors.ids.shape[1], plan.queries[texts]
    prompts, most = [plan.prompts[row] for row in texts], _most(choice, database, count)
    height, width = content.images.shape[2:4]
    given = [None] * len(prompts)
    style = _references(plan, texts)
    found = generator.find_content(database, prompts, queries, given, most, (height, width), style).neighbors
    found, places = _ordered(choice, database, queries, found)
    if not all(places):
        raise UserError("no content neighbor is left; drop fewer, or choose another content database")
    # Where fewer are left, the images of a prompt take those in turn.
    chosen = _taken(found, [np.resize(good, count).tolist() for good in places])
    images = neighbor_images(database.databases, chosen, (height, width))
    return content.replaced(texts, chosen, images, known=bool(choice.pinned))


def _references(plan: Plan, rows: np.ndarray) -> StyleReferences | None:
    """Returns what the style of content is compared with, as where the plan was made."""
    if plan.builder.style is None or plan.neighbors is None:
        return None
    return StyleReferences(plan.builder.style, map_neighbors(lambda part: part[rows], plan.neighbors))


def _most(choice: Choice, database: Mixture, count: int) -> int:
    """Returns how many rows to retrieve so that `count` are left once the excluded ones are taken away."""
    return min(count + len(choice.dropped) + len(choice.pinned), len(database))


def _ordered(
    choice: Choice, database: Mixture, queries: np.ndarray, found: Neighbors
) -> tuple[Neighbors, list[list[int]]]:
    """Returns the pinned rows before those that were found, and the places of each query's rows, best first."""
    known = {one.name for one in database.databases}
    pinned = [row for row in choice.pinned if row[0] in known]
    if pinned:
        found = map_neighbors(
            lambda one, other: np.concatenate([one, other], axis=1), _pinned(pinned, queries, database), found
        )
    places = []
    for query in range(len(queries)):
        first = {row: place for place, row in reversed([*enumerate(_rows(found, query))])}
        places.append(sorted(place for row, place in first.items() if row not in choice.dropped))
    return found, places


def _rows(found: Neighbors, query: int) -> list[Row]:
    """Returns what a query retrieved, best first."""
    return [(str(name), int(row)) for name, row in zip(found.databases[query], found.ids[query], strict=True)]


def _taken(found: Neighbors, places: list[list[int]]) -> Neighbors:
    """Returns the neighbors at some places of each query, as many for each."""
    chosen = np.array(places, np.int64)
    return map_neighbors(lambda part: part[np.arange(len(part))[:, None], chosen], found)


def _pinned(rows: list[Row], queries: np.ndarray, database: Mixture) -> Neighbors:
    """Returns the same rows for every query."""
    names, ids = np.array([name for name, _ in rows]), np.array([row for _, row in rows], np.int64)
    vectors = database.embeddings(names, ids)
    shape: Any = (len(queries), len(rows))
    scores = (unit(queries) @ unit(vectors).T).astype(np.float32)
    embeddings = np.broadcast_to(vectors, (*shape, vectors.shape[1]))
    return Neighbors(np.broadcast_to(ids, shape), scores, embeddings, np.broadcast_to(names, shape))
