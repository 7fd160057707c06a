"""Content neighbors on the command line: what an image's record holds of them, and content from a record."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.roles import neighbor_images
from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import read, within
from rdm_jax.generator import Plan
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Neighbors

GIVEN = -1  # the row of an image that the user gave as the query


@dataclasses.dataclass(frozen=True)
class ContentRows:
    """What showed the content of a query, as the record of an image holds it.

    Attributes:
      ids: the rows, which the query's images take in turn; `GIVEN` for an image that the user gave.
      scores: how near their captions or vectors are to the query.
      databases: the name of each one's database; "" for an image that the user gave.
      sha256: of each database, by its name.
      image: the image that the user gave, a PNG file in base64; "" without.
      known: whether anything is near the query; otherwise the rows are what is least far.
      nearest: of a query that nothing is near, the nearest known words.
    """

    ids: Annotated[tuple[int, ...], within(GIVEN)]
    scores: tuple[float, ...]
    databases: tuple[str, ...]
    sha256: Mapping[str, str]
    image: str = ""
    known: bool = True
    nearest: tuple[str, ...] = ()

    @staticmethod
    def of(value: Mapping[str, Any]) -> ContentRows:
        """Returns the rows of a record; raises UserError if they are damaged."""
        rows = ContentRows(**read(ContentRows, value))
        if not rows.ids or len({len(rows.ids), len(rows.scores), len(rows.databases)}) > 1:
            raise UserError("its content has not as many scores or databases as rows")
        if GIVEN in rows.ids:
            rows.given_image()
        elif not set(rows.databases) <= rows.sha256.keys():
            raise UserError("its content is from a database that it does not name")
        return rows

    def given_image(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image that the user gave."""
        try:
            return images.decode(base64.b64decode(self.image, validate=True))
        except ValueError as error:
            raise UserError(f"the image of its content is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class ContentRecord:
    """The content of a run's images.

    Attributes:
      plan: the run's, with content.
      databases: that the content is from; None where the user gave it all.
    """

    plan: Plan
    databases: Mixture | None

    @staticmethod
    def of(plan: Plan, bundle: Bundle, names: Sequence[str]) -> ContentRecord | None:
        """Returns the content of a plan; None if it has none.

        Args:
          plan: the plan.
          bundle: of its model.
          names: of the content databases; none stands for the model's own.
        """
        if plan.content is None:
            return None
        own = bundle.config["sampling"].get("content_database")
        chosen = list(names) or ([own] if own else [])
        return ContentRecord(plan, Mixture.open(chosen) if chosen else None)

    @property
    def used(self) -> Neighbors:
        """The neighbors that show the content of the run's images."""
        assert self.plan.content is not None
        return self.plan.content.neighbors

    def shown(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
        """Returns the image that showed the content of the image with an index, and its score."""
        content, query = self.plan.content, self.plan.rows[self.plan.indices.index(index)]
        assert content is not None
        turn = int(self.plan.turns([index])[0]) % content.images.shape[1]
        return content.images[query, turn], float(content.neighbors.scores[query, turn])

    def rows(self, index: int) -> dict[str, Any]:
        """Returns what an image's record holds of the content of its query."""
        content, query = self.plan.content, self.plan.rows[self.plan.indices.index(index)]
        assert content is not None
        ids, names = content.neighbors.ids[query].tolist(), content.neighbors.databases[query].tolist()
        digests = {one.name: one.digest for one in self.databases.databases} if self.databases else {}
        given = base64.b64encode(images.encode(content.images[query, 0])).decode() if GIVEN in ids else ""
        scores = content.neighbors.scores[query].tolist()
        sha256 = {name: digests[name] for name in names if name}
        known, nearest = bool(content.known[query]), tuple(content.nearest[query])
        rows = ContentRows(tuple(ids), tuple(scores), tuple(names), sha256, given, known, nearest)
        return dataclasses.asdict(rows)


def recorded_content(
    value: Mapping[str, Any], databases: Sequence[str], size: tuple[int, int]
) -> tuple[Neighbors, UInt8[np.ndarray, "1 c h w 3"], bool]:
    """Returns the content of a record: the rows, their images, and whether their databases are the recorded ones.

    Args:
      value: the record's content.
      databases: names or folders to take in place of the recorded names.
      size: (height, width) of the images.

    Raises:
      UserError: a database is not found, or has no such row.
    """
    rows = ContentRows.of(value)
    ids, names = np.array([rows.ids], np.int64), np.array([rows.databases])
    found = Neighbors(ids, np.array([rows.scores], np.float32), np.zeros((*ids.shape, 0), np.float32), names)
    if GIVEN in rows.ids:
        shown = images.fit(rows.given_image(), *size)
        return found, np.broadcast_to(shown, (1, len(rows.ids), *shown.shape)).copy(), True
    opened = Mixture.open(list(databases) or list(dict.fromkeys(rows.databases))).databases
    missing = set(rows.databases) - {one.name for one in opened}
    if missing:
        raise UserError(f"the content is from database {min(missing)!r}; give it by --content-database")
    same = all(one.digest == rows.sha256[one.name] for one in opened if one.name in rows.databases)
    return found, neighbor_images(opened, found, size), same
