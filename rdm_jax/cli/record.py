"""What the record inside a PNG holds; a file of others may hold anything there."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float

from rdm_jax.cli.content import ContentRows
from rdm_jax.core.errors import UserError
from rdm_jax.core.rendition import Rendition
from rdm_jax.core.schema import matching, read, section_values, within

Digest = Annotated[str, matching(r"[0-9a-f]{64}", "the SHA-256 in 64 hexadecimal digits")]


@dataclasses.dataclass(frozen=True)
class Part:
    """A database of a mixture."""

    name: str
    sha256: Digest


@dataclasses.dataclass(frozen=True)
class Identity:
    """A model or a database, and the parts of a mixture."""

    name: str
    sha256: Digest
    parts: tuple[Mapping[str, str], ...] = ()
    weights: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """The model, and how it was opened."""

    name: str
    sha256: Digest
    head: str = ""
    dtype: str = "float32"
    overrides: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NeighborRows:
    """The neighbors' rows, their cosines, and of a mixture the name of each one's database."""

    ids: tuple[int, ...]
    scores: tuple[float, ...]
    databases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Record:
    """The whole record; database, neighbors, rendition and content are checked on their own, as there may be none."""

    schema: int
    versions: Mapping[str, str]
    model: Model
    database: Any
    request: Mapping[str, Any]
    options: Mapping[str, Any]
    labels: Mapping[str, Any]
    prompt: str
    index: Annotated[int, within(0, 2**31 - 1)]
    query: str
    neighbors: Any
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    negative_prompt: str = ""
    rendition: Any = None
    content: Any = None


def check(record: Mapping[str, Any]) -> None:
    """Raises UserError for the first value of a record that is missing, of another type or out of range."""
    read(Record, record)
    for name, part in (("database", Identity), ("neighbors", NeighborRows)):
        if record[name] is not None:
            read(part, section_values(name, record[name]))
    for name, check_part in (("rendition", Rendition.from_json), ("content", ContentRows.of)):
        if record.get(name) is not None:
            check_part(section_values(name, record[name]))
    database, neighbors = record["database"], record["neighbors"]
    with_neighbors = record["request"].get("condition", "neighbors") != "text"
    if (database is not None, neighbors is not None) != (with_neighbors, with_neighbors):
        raise UserError("its condition, its database and its neighbors contradict each other")
    if database is not None:
        _check_rows(database, neighbors)


def _check_rows(database: Mapping[str, Any], neighbors: Mapping[str, Any]) -> None:
    """Raises UserError unless the neighbors are as many as their scores, and of the databases."""
    parts = database.get("parts", [])
    for part in parts:
        read(Part, part)
    if database.get("weights") and len(database["weights"]) != len(parts):
        raise UserError("it has not as many weights as databases")
    names, origins = {part["name"] for part in parts}, neighbors.get("databases", [])
    if len({len(neighbors["ids"]), len(neighbors["scores"]), *([len(origins)] if parts else [])}) > 1:
        raise UserError("it has not as many scores or databases as neighbors")
    if parts and not set(origins) <= names:
        raise UserError("it has neighbors from a database that it does not name")


def query_vector(record: Mapping[str, Any]) -> Float[np.ndarray, " d"]:
    """Returns the query vector of a record; raises UserError if it is damaged."""
    try:
        vector = np.frombuffer(base64.b64decode(record["query"], validate=True), "<f4").astype(np.float32)
    except ValueError as error:
        raise UserError(f"its query vector is damaged ({error})") from error
    if not np.isfinite(vector).all():
        raise UserError("its query vector is not finite")
    return vector


def encoded_vector(vector: Float[np.ndarray, " d"]) -> str:
    """Returns a query vector as a record holds it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
