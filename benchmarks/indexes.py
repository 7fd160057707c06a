"""The indexes that benchmarks/retrieval.py compares, ours and those that a user would otherwise take, and their rows.

Each is built, opened and asked in processes of its own, which others watch: `alone`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from rdm_jax.core import files
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import MANIFEST, SCHEMA
from rdm_jax.retrieval.shards import EMBEDDINGS, ITEMS, shard_name

WIDTH, LATENT, CLUSTERS = 512, 64, 20_000
SHARD, BLOCK = 65_536, 16_384
K, QUERIES, SINGLES, REPEATS = 10, 256, 128, 5
KINDS = ("pictures", "texts")
TARGET = 0.99
MB = 1e6

Setting = Mapping[str, int]
# (queries [q, d], k) to the ids [q, k] of their nearest rows.
Ask = Callable[[Float32[np.ndarray, "q d"], int], Int64[np.ndarray, "q k"]]


# Rows and queries.


@functools.cache
def _space() -> dict[str, np.ndarray]:
    """Returns what all vectors share: like CLIP's, they lie around a mean, in clusters of a space of few dimensions."""
    generator = np.random.default_rng(0)
    normal = functools.partial(generator.standard_normal, dtype=np.float32)
    return {
        "projection": normal((LATENT, WIDTH)) / np.float32(math.sqrt(LATENT)),
        "centres": normal((CLUSTERS, LATENT)),
        "pictures": np.float32(0.7) * normal(WIDTH),
        "texts": np.float32(0.7) * normal(WIDTH),
    }


def _vectors(generator: np.random.Generator, count: int, kind: str) -> Float32[np.ndarray, "n d"]:
    """Returns vectors of one kind; texts lie around another mean, and between two clusters each instead of near one."""
    space, normal = _space(), functools.partial(generator.standard_normal, dtype=np.float32)
    centres = space["centres"][generator.integers(0, CLUSTERS, count)]
    if kind == "texts":
        centres = (centres + space["centres"][generator.integers(0, CLUSTERS, count)]) / np.float32(math.sqrt(2))
    latents = centres + np.float32(0.6) * normal((count, LATENT))
    return latents @ space["projection"] + space[kind] + np.float32(0.35) * normal((count, WIDTH))


def rows(number: int, count: int = SHARD) -> Float32[np.ndarray, "n d"]:
    """Returns the first rows of shard `number`, the same in a database of any size."""
    return _vectors(np.random.default_rng([1, number]), SHARD, "pictures")[:count]


@functools.cache
def queries(kind: str) -> Float32[np.ndarray, "q d"]:
    """Returns the queries of a kind, none of them a row."""
    return _vectors(np.random.default_rng([2, KINDS.index(kind)]), QUERIES, kind)


def write_database(
    folder: Path, lengths: Sequence[int], content: Callable[[int, int], np.ndarray] | None = rows
) -> Database:
    """Writes a database with empty files of items, which opening and searching do not read, and returns it.

    Args:
      folder: that does not exist yet.
      lengths: how many rows each shard has.
      content: a shard's number and length to its rows; None leaves zeros, in files that take no room on the disk.
    """
    hashes, shards = {}, []
    with files.new_directory(folder) as made:
        for number, length in enumerate(lengths):
            names = {kind: shard_name(kind, number, len(lengths)) for kind in (EMBEDDINGS, ITEMS)}
            (made / names[ITEMS]).touch()
            array = np.lib.format.open_memmap(made / names[EMBEDDINGS], "w+", np.float16, (length, WIDTH))
            if content is not None:
                array[:] = content(number, length)
                array.flush()
            shards.append({"rows": length, **names})
            told = f"{folder.name} {number} {length}"
            hashes |= {name: hashlib.sha256(f"{told} {kind}".encode()).hexdigest() for kind, name in names.items()}
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
        files.write_json(made / MANIFEST, manifest)
    return Database.open(folder)


def shard_lengths(count: int) -> list[int]:
    """Returns how many rows each shard of a database has."""
    return [min(SHARD, count - start) for start in range(0, count, SHARD)]


def prepare(folder: Path, count: int) -> None:
    """Writes the rows of one size and their exact neighbours, unless they are there."""
    if not (folder / "database").exists():
        write_database(folder / "database", shard_lengths(count))
    if not (folder / "truth.npz").exists():
        database = Database.open(folder / "database")
        blocks = ((start, block) for start, block in unit_blocks(database))
        found = nearest(np.concatenate([queries(kind) for kind in KINDS]), blocks, K)
        with files.replaced(folder / "truth.npz") as path, open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **dict(zip(KINDS, np.split(found, len(KINDS)), strict=True)))


def unit_blocks(database: Database, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the rows of a database at length 1, block by block, each with the number of its first row."""
    for start in range(0, len(database), size):
        yield start, unit(database.rows[start : start + size], np.float32)


def nearest(queries: np.ndarray, blocks: Iterator[tuple[int, np.ndarray]], k: int) -> Int64[np.ndarray, "q k"]:
    """Returns the ids of the rows with the greatest products, best first: what NumPy does of itself."""
    ids = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start, block in blocks:
        found = queries @ block.T
        best = np.argpartition(found, -k, axis=1)[:, -k:] if found.shape[1] > k else np.argsort(found, axis=1)
        ids = np.concatenate([ids, best + start], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(found, best, axis=1)], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, axis=1)


def recall(found: Int64[np.ndarray, "q k"], truth: Int64[np.ndarray, "q k"]) -> float:
    """Returns the share of the true neighbours that were found."""
    return float(np.mean([np.isin(true, row).mean() for row, true in zip(found, truth, strict=True)]))


# The indexes.


@dataclasses.dataclass(frozen=True)
class Contender:
    """An index that is measured.

    Attributes:
      name: in the tables.
      library: the module that it needs.
      limit: rows above which it is not measured.
      open: (database, folder of what was built) to a function from a setting to one that asks.
      build: writes into a folder what `open` reads; None where nothing is made ahead.
      held: how many bytes a row the index itself takes, where nothing is written.
      sweeps: (database) to sequences of settings, each from quick to thorough; nothing is tuned where there are none.
    """

    name: str
    library: str
    limit: int
    open: Callable[[Database, Path], Callable[[Setting], Ask]]
    build: Callable[[Database, Path], None] | None = None
    held: int = 0
    sweeps: Callable[[Database], list[list[dict[str, int]]]] = lambda _: []


def _geometric(low: int, high: int, ratio: float = 1.25) -> list[int]:
    steps = math.ceil(math.log(high / low, ratio)) if high > low else 0
    return sorted({min(high, round(low * ratio**i)) for i in range(steps + 1)})


def _open_exact(database: Database, _: Path) -> Callable[[Setting], Ask]:
    from rdm_jax.retrieval.exact_index import ExactIndex

    index = ExactIndex(database.rows)
    return lambda _: lambda queries, k: index.search(queries, k)[0]


def _build_scann(database: Database, _: Path) -> None:
    from rdm_jax.retrieval.scann_index import ScannIndex, store

    store(database, ScannIndex.build(database.rows))


def _open_scann(database: Database, _: Path) -> Callable[[Setting], Ask]:
    from rdm_jax.retrieval.scann_index import ScannIndex

    index = ScannIndex.open(database)

    def configure(setting: Setting) -> Ask:
        chosen = dataclasses.replace(index, parameters=dataclasses.replace(index.parameters, **setting))
        return lambda queries, k: chosen.search(queries, k)[0]

    return configure


def _scann_sweeps(database: Database) -> list[list[dict[str, int]]]:
    leaves = int(database.manifest["index"]["parameters"]["leaves"])
    searched = _geometric(max(1, leaves // 200), leaves) if leaves else []
    return [
        [{"candidates": candidates, "searched": n} for n in searched] for candidates in (50, 100, 200, 400, 800, 1600)
    ]


def _open_numpy(database: Database, _: Path) -> Callable[[Setting], Ask]:
    held = np.empty((len(database), WIDTH), np.float32)
    for start, block in unit_blocks(database):
        held[start : start + len(block)] = block

    def ask(queries: np.ndarray, k: int) -> np.ndarray:
        return nearest(queries, ((start, held[start : start + SHARD]) for start in range(0, len(held), SHARD)), k)

    return lambda _: ask


def _faiss() -> Any:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return faiss


def _filled(database: Database, index: Any) -> Any:
    for _, block in unit_blocks(database):
        index.add(block)
    return index


def _asked(index: Any) -> Callable[[Setting], Ask]:
    def configure(setting: Setting) -> Ask:
        for name, value in setting.items():
            _faiss().ParameterSpace().set_index_parameter(index, name, value)
        return lambda queries, k: index.search(unit(queries, np.float32), k)[1]

    return configure


def _open_flat(database: Database, _: Path) -> Callable[[Setting], Ask]:
    return _asked(_filled(database, _faiss().IndexFlatIP(WIDTH)))


def _open_faiss(_: Database, folder: Path) -> Callable[[Setting], Ask]:
    return _asked(_faiss().read_index(str(folder / "index.faiss")))


def _lists(count: int) -> int:
    """Returns 4 sqrt(n) lists, as faiss advises, or as many as its 39 training rows each allow."""
    return min(4 * math.isqrt(count), count // 39)


def _build_inverted(quantisation: str, database: Database, folder: Path) -> None:
    """Writes inverted lists of 64 bytes a row; "np" leaves out polysemous codes: long training, no use here."""
    faiss, count = _faiss(), len(database)
    index = faiss.index_factory(WIDTH, f"IVF{_lists(count)},{quantisation},RFlat", faiss.METRIC_INNER_PRODUCT)
    chosen = np.random.default_rng(3).choice(count, min(count, 64 * _lists(count)), replace=False)
    index.train(unit(database.rows[np.sort(chosen)], np.float32))
    faiss.write_index(_filled(database, index), str(folder / "index.faiss"))


def _inverted_sweeps(database: Database) -> list[list[dict[str, int]]]:
    probes = _geometric(1, _lists(len(database)))
    return [[{"k_factor_rf": factor, "nprobe": n} for n in probes] for factor in (5, 10, 20, 40)]


def _build_graph(database: Database, folder: Path) -> None:
    faiss = _faiss()
    index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 128
    faiss.write_index(_filled(database, index), str(folder / "index.faiss"))


def _graph_sweeps(_: Database) -> list[list[dict[str, int]]]:
    return [[{"efSearch": n} for n in _geometric(10, 4096)]]


MILLION = 1_000_000
FAISS = functools.partial(Contender, library="faiss", limit=MILLION)
CONTENDERS: Mapping[str, Contender] = {
    "exact": Contender("ours, exact", "rdm_jax.retrieval.index", MILLION, _open_exact),
    "scann": Contender(
        "ours, ScaNN",
        "rdm_jax.retrieval.scann_index",
        100 * MILLION,
        _open_scann,
        _build_scann,
        sweeps=_scann_sweeps,
    ),
    "numpy": Contender("NumPy", "numpy", MILLION, _open_numpy, held=4 * WIDTH),
    "faiss-flat": FAISS("faiss flat", open=_open_flat, held=4 * WIDTH),
    "faiss-ivfpq": FAISS(
        "faiss IVF-PQ, refined",
        open=_open_faiss,
        build=functools.partial(_build_inverted, "PQ64np"),
        sweeps=_inverted_sweeps,
    ),
    "faiss-fastscan": FAISS(
        "faiss IVF-PQ fast scan, refined",
        open=_open_faiss,
        build=functools.partial(_build_inverted, "PQ128x4fs"),
        sweeps=_inverted_sweeps,
    ),
    "faiss-hnsw": FAISS("faiss HNSW", open=_open_faiss, build=_build_graph, sweeps=_graph_sweeps),
}


# What is measured.


def built(key: str, folder: Path) -> dict[str, Any]:
    """Builds an index and returns its seconds and bytes; runs in a process of its own."""
    contender, database = CONTENDERS[key], Database.open(folder / "database")
    importlib.import_module(contender.library)
    own = folder / key
    own.mkdir(exist_ok=True)
    if contender.build is None:
        return {"seconds": None, "bytes": contender.held * len(database)}
    begin = time.perf_counter()
    contender.build(database, own)
    seconds = time.perf_counter() - begin
    places = [own, folder / "database" / "index"] if key == "scann" else [own]
    written = sum(path.stat().st_size for place in places for path in place.rglob("*") if path.is_file())
    return {"seconds": seconds, "bytes": written}


def asked(key: str, folder: Path, setting: Setting | None, kind: str) -> dict[str, Any]:
    """Opens an index, tunes it on a kind of queries unless a setting is given, and times it on them, in its process."""
    contender, database = CONTENDERS[key], Database.open(folder / "database")
    importlib.import_module(contender.library)
    truth, near = np.load(folder / "truth.npz"), queries(kind)
    bare = memory(os.getpid())["RssAnon"]
    begin = time.perf_counter()
    configure = contender.open(database, folder / key)
    configure({})(near[:1], K)
    opened, resting = time.perf_counter() - begin, memory(os.getpid())["RssAnon"]
    if setting is None:
        setting = tuned(configure, contender.sweeps(database), truth[kind], kind)
    ask = configure(setting)
    found = {kind: ask(queries(kind), K) for kind in KINDS}
    _singles(ask, kind, 16)
    return {
        "rows": len(database),
        "bare": bare,
        "opened": opened,
        "resting": resting,
        "single": statistics.median(_singles(ask, kind, SINGLES)),
        "batch": statistics.median(_seconds(lambda: ask(near, K)) for _ in range(REPEATS)),
        "recall": {kind: recall(found[kind], truth[kind]) for kind in KINDS},
        "setting": dict(setting),
    }


def tuned(
    configure: Callable[[Setting], Ask],
    sweeps: list[list[dict[str, int]]],
    truth: Int64[np.ndarray, "q k"],
    kind: str,
) -> Setting:
    """Returns the quickest setting that finds the target's share of the neighbours of a kind of queries.

    Of each sweep it is the first that does; a sweep ends where more effort finds no more.
    """
    tried: list[tuple[bool, float, dict[str, int]]] = []
    for sweep in sweeps:
        before = [0.0, 0.0]
        for setting in sweep:
            ask = configure(setting)
            share = recall(ask(queries(kind), K), truth)
            if share >= TARGET:
                tried.append((True, -statistics.median(_singles(ask, kind, 48)), setting))
                break
            tried.append((False, share, setting))
            if share - before[-2] < 1e-4:
                break
            before.append(share)
    return max(tried, key=lambda trial: trial[:2])[2] if tried else {}


def _singles(ask: Ask, kind: str, count: int) -> list[float]:
    near = queries(kind)
    return [_seconds(lambda i=i: ask(near[i : i + 1], K)) for i in range(count)]


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(key: str, folder: Path, threads: int, kind: str) -> dict[str, Any]:
    """Returns what an index costs, and what it gives where the target is met on a kind of queries.

    Builds and settings are kept in its folder for the next time.
    """
    own = folder / key
    own.mkdir(exist_ok=True)
    path = own / "built.json"
    if not path.exists():
        made, peaks = alone(threads, built, key, folder)
        files.write_json(path, {**made, "peaks": peaks})
    told = json.loads(path.read_text())
    settings = told.get("settings", {})
    found, peaks = alone(threads, asked, key, folder, settings.get(kind), kind)
    files.write_json(path, {**told, "settings": {**settings, kind: found["setting"]}})
    return {**found, "built": told, "peaks": peaks}


# Processes.


def memory(process: int) -> dict[str, float]:
    """Returns the resident bytes of a process: its own (RssAnon), and the most with those of files (VmHWM)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        lines = []
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key: 1024.0 * int(told.get(key, "0 kB").split()[0]) for key in ("RssAnon", "VmHWM")}


def alone(threads: int, work: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, float]]:
    """Runs a function in a fresh process of so many threads and returns its result and its peaks of memory, in bytes.

    This process reads them every 20 ms: within the other one, libraries that hold Python's lock would hide theirs.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, threads, work, arguments))
    process.start()
    sender.close()
    peaks = {"RssAnon": 0.0, "VmHWM": 0.0}
    while not receiver.poll(0.02):
        peaks = {key: max(value, peaks[key]) for key, value in memory(process.pid or 0).items()}
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{work.__name__}{arguments} ended with status {process.exitcode}, see above") from None
    process.join()
    return result, peaks


def _answer(sender: Connection, threads: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    sender.send(work(*arguments))
