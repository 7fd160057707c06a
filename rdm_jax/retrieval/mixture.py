"""Several databases that are searched as one, each with a fraction of the neighbors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from rdm_jax.core import paths, values
from rdm_jax.core.errors import UserError
from rdm_jax.core.files import sha256_json
from rdm_jax.core.images import resize_and_crop
from rdm_jax.retrieval.database import Database


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Databases and their weights; a single database is a mixture of one.

    A row is identified by the name of its database and its id there, as in `Neighbors`.

    Attributes:
      databases: one or more, with distinct names.
      weights: proportional to the number of neighbors from each database; if None, the best of all are taken.
    """

    databases: Sequence[Database]
    weights: Sequence[float] | None = None

    @staticmethod
    def open(specs: Sequence[str]) -> Mixture:
        """Opens databases by NAME or NAME:WEIGHT, each a name or a folder.

        Raises:
          UserError: a database is unknown, or some have weights and others do not.
        """
        named = [parse_weighted(spec) for spec in specs]
        weights = [weight for _, weight in named if weight is not None]
        if weights and len(weights) < len(named):
            plain = next(name for name, weight in named if weight is None)
            raise UserError(f"database {plain} has no weight, and others have; write {plain}:1 or give none a weight")
        return Mixture([Database.open(name) for name, _ in named], weights or None)

    def __len__(self) -> int:
        return sum(map(len, self.databases))

    @property
    def name(self) -> str:
        """The name of a single database; for several, such as "ink:0.7+charcoal:0.3"."""
        if len(self.databases) == 1:
            return self.databases[0].name
        weights = [f":{weight:g}" for weight in self.weights] if self.weights else [""] * len(self.databases)
        return "+".join(f"{database.name}{weight}" for database, weight in zip(self.databases, weights, strict=True))

    @functools.cached_property
    def digest(self) -> str:
        """The digest of a single database; for several, a hash over their digests and the weights."""
        if len(self.databases) == 1:
            return self.databases[0].digest
        return sha256_json([[database.digest for database in self.databases], self.weights and list(self.weights)])

    def items(self, names: Shaped[np.ndarray, " n"], ids: Integer[np.ndarray, " n"]) -> list[dict[str, Any]]:
        """Returns the items of rows, each given by its database's name and its id there."""
        return [self._by_name[name].items([row])[0] for name, row in zip(names.tolist(), ids.tolist(), strict=True)]

    def thumbnails(
        self, names: Shaped[np.ndarray, " n"], ids: Integer[np.ndarray, " n"]
    ) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns the thumbnails of rows, at the size of the largest."""
        size = max(int(database.manifest["thumbnail_size"]) for database in self.databases)
        thumbnails = np.zeros((len(ids), size, size, 3), np.uint8)
        for name in np.unique(names):
            places = np.flatnonzero(names == name)
            images = self._by_name[str(name)].thumbnails(ids[places])
            thumbnails[places] = [resize_and_crop(image, size) for image in images]
        return thumbnails

    def embeddings(self, names: Shaped[np.ndarray, " n"], ids: Integer[np.ndarray, " n"]) -> np.ndarray:
        """Returns rows [n, d] in float32."""
        rows = zip(names.tolist(), ids.tolist(), strict=True)
        return np.concatenate([self._by_name[name].embeddings([row]) for name, row in rows])

    @functools.cached_property
    def _by_name(self) -> Mapping[str, Database]:
        return {database.name: database for database in self.databases}


def parse_weighted(text: str) -> tuple[str, float | None]:
    """Returns a database's name, folder or address, and the weight after its last colon if there is one."""
    name, colon, weight = text.rpartition(":")
    if not colon or (not paths.is_remote(text) and paths.local(text).exists()):
        return text, None
    try:
        return name, values.parse(float, weight)
    except ValueError:
        return text, None
