"""The random rows and queries of benchmarks/retrieval.py, and their exact neighbors."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from rdm_jax.core import files
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import MANIFEST, SCHEMA
from rdm_jax.retrieval.shards import EMBEDDINGS, ITEMS, shard_name

WIDTH, LATENT, CLUSTERS = 512, 64, 20_000
SHARD, BLOCK = 65_536, 16_384
K, QUERIES = 10, 256
KINDS = ("images", "texts")


@functools.cache
def _space() -> dict[str, np.ndarray]:
    """Returns what all vectors depend on: like CLIP's, they lie around a mean, in clusters of few dimensions."""
    generator = np.random.default_rng(0)
    normal = functools.partial(generator.standard_normal, dtype=np.float32)
    return {
        "projection": normal((LATENT, WIDTH)) / np.float32(math.sqrt(LATENT)),
        "centers": normal((CLUSTERS, LATENT)),
        "images": np.float32(0.7) * normal(WIDTH),
        "texts": np.float32(0.7) * normal(WIDTH),
    }


def _vectors(generator: np.random.Generator, count: int, kind: str) -> Float32[np.ndarray, "n d"]:
    """Returns vectors of one kind; texts lie around another mean, each between two clusters instead of near one."""
    space, normal = _space(), functools.partial(generator.standard_normal, dtype=np.float32)
    centers = space["centers"][generator.integers(0, CLUSTERS, count)]
    if kind == "texts":
        centers = (centers + space["centers"][generator.integers(0, CLUSTERS, count)]) / np.float32(math.sqrt(2))
    latents = centers + np.float32(0.6) * normal((count, LATENT))
    return latents @ space["projection"] + space[kind] + np.float32(0.35) * normal((count, WIDTH))


def rows(number: int, count: int = SHARD) -> Float32[np.ndarray, "n d"]:
    """Returns the first rows of shard `number`, the same in a database of any size."""
    return _vectors(np.random.default_rng([1, number]), SHARD, "images")[:count]


@functools.cache
def queries(kind: str) -> Float32[np.ndarray, "q d"]:
    """Returns the queries of a kind; none of them is a row."""
    return _vectors(np.random.default_rng([2, KINDS.index(kind)]), QUERIES, kind)


def write_database(
    folder: Path, lengths: Sequence[int], content: Callable[[int, int], np.ndarray] | None = rows
) -> Database:
    """Writes a database whose item files, which opening and searching do not read, are empty; returns it.

    Args:
      folder: does not exist yet.
      lengths: the number of rows of each shard.
      content: (number of a shard, length) to its rows; None leaves zeros in sparse files.
    """
    hashes, shards = {}, []
    with files.new_directory(folder) as new:
        for number, length in enumerate(lengths):
            names = {kind: shard_name(kind, number, len(lengths)) for kind in (EMBEDDINGS, ITEMS)}
            (new / names[ITEMS]).touch()
            array = np.lib.format.open_memmap(new / names[EMBEDDINGS], "w+", np.float16, (length, WIDTH))
            if content is not None:
                array[:] = content(number, length)
                array.flush()
            shards.append({"rows": length, **names})
            shard = f"{folder.name} {number} {length}"
            hashes |= {name: hashlib.sha256(f"{shard} {kind}".encode()).hexdigest() for kind, name in names.items()}
        manifest = {
            "schema": SCHEMA,
            "name": folder.name,
            "count": sum(lengths),
            "width": WIDTH,
            "dtype": "float16",
            "encoder": {"name": "random", "sha256": "0" * 64, "width": WIDTH},
            "thumbnail_size": 64,
            "sources": [],
            "shards": shards,
            "files": hashes,
        }
        files.write_json(new / MANIFEST, manifest)
    return Database.open(folder)


def shard_lengths(count: int) -> list[int]:
    """Returns the number of rows of each shard of a database."""
    return [min(SHARD, count - start) for start in range(0, count, SHARD)]


def prepare(folder: Path, count: int) -> None:
    """Writes the rows of one size and the exact neighbors of all queries, unless the files exist."""
    if not (folder / "database").exists():
        write_database(folder / "database", shard_lengths(count))
    if not (folder / "truth.npz").exists():
        database = Database.open(folder / "database")
        blocks = ((start, block) for start, block in unit_blocks(database))
        ids = nearest(np.concatenate([queries(kind) for kind in KINDS]), blocks, K)
        with files.replaced(folder / "truth.npz") as path, open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **dict(zip(KINDS, np.split(ids, len(KINDS)), strict=True)))


def unit_blocks(database: Database, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number of the first row, rows of length 1) for each block of a database."""
    for start in range(0, len(database), size):
        yield start, unit(database.rows[start : start + size], np.float32)


def nearest(queries: np.ndarray, blocks: Iterator[tuple[int, np.ndarray]], k: int) -> Int64[np.ndarray, "q k"]:
    """Returns the ids of the rows with the greatest inner products, best first, by NumPy alone."""
    ids = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start, block in blocks:
        products = queries @ block.T
        best = np.argpartition(products, -k, axis=1)[:, -k:] if len(block) > k else np.argsort(products, axis=1)
        ids = np.concatenate([ids, best + start], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(products, best, axis=1)], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, axis=1)
