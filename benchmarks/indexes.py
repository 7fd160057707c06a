"""The indexes that benchmarks/retrieval.py compares: those of rdm_jax and their alternatives.

Each index is built, opened and searched in processes of its own, whose memory is recorded (`run_alone`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from index_rows import KINDS, SHARD, WIDTH, K, nearest, queries, unit_blocks
from jaxtyping import Float32, Int64

from rdm_jax.core import files
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.tune import recall

SINGLES, REPEATS = 128, 5
TARGET = 0.99
MB = 1e6

Setting = Mapping[str, int]
# (queries [q, d], k) to the ids [q, k] of their nearest rows.
Search = Callable[[Float32[np.ndarray, "q d"], int], Int64[np.ndarray, "q k"]]


# The indexes.


@dataclasses.dataclass(frozen=True)
class Contender:
    """An index that is measured.

    Attributes:
      name: in the tables.
      library: the module that it needs.
      limit: the number of rows above which it is not measured.
      open: (database, folder of the built index) to a function from a setting to a search.
      build: writes into a folder what `open` reads; None for an index that is not built ahead.
      row_bytes: the bytes that an index that is not built ahead takes for each row.
      sweeps: (database) to sequences of settings, each from fast to thorough; empty if there is nothing to tune.
    """

    name: str
    library: str
    limit: int
    open: Callable[[Database, Path], Callable[[Setting], Search]]
    build: Callable[[Database, Path], None] | None = None
    row_bytes: int = 0
    sweeps: Callable[[Database], list[list[dict[str, int]]]] = lambda _: []


def _geometric(low: int, high: int, ratio: float = 1.25) -> list[int]:
    steps = math.ceil(math.log(high / low, ratio)) if high > low else 0
    return sorted({min(high, round(low * ratio**i)) for i in range(steps + 1)})


def _open_exact(database: Database, _: Path) -> Callable[[Setting], Search]:
    from rdm_jax.retrieval.exact_index import ExactIndex

    index = ExactIndex(database.rows)
    return lambda _: lambda queries, k: index.search(queries, k)[0]


def _build_engine(name: str, database: Database, folder: Path) -> None:
    from rdm_jax.retrieval.approximate_index import ApproximateIndex, engine_of

    index = ApproximateIndex.build(database.rows, engine=engine_of(name))
    for number, searcher in enumerate(index.searchers):
        (folder / str(number)).mkdir()
        index.engine.save(searcher, folder / str(number))
    (folder / PARAMETERS).write_text(json.dumps(dataclasses.asdict(index.parameters)))


def _open_engine(name: str, database: Database, folder: Path) -> Callable[[Setting], Search]:
    from rdm_jax.retrieval.approximate_index import ApproximateIndex, engine_of
    from rdm_jax.retrieval.engine import Parameters

    engine = engine_of(name)
    parameters = Parameters(**json.loads((folder / PARAMETERS).read_text()))
    shards = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: int(path.name))
    index = ApproximateIndex(database.rows, [engine.load(path) for path in shards], parameters, engine)

    def configure(setting: Setting) -> Search:
        chosen = dataclasses.replace(index, parameters=dataclasses.replace(index.parameters, **setting))
        return lambda queries, k: chosen.search(queries, k)[0]

    return configure


def _engine_sweeps(database: Database) -> list[list[dict[str, int]]]:
    from rdm_jax.retrieval.engine import Parameters

    leaves = Parameters.of(*database.rows.shape).leaves
    searched = _geometric(max(1, leaves // 200), leaves) if leaves else []
    return [
        [{"candidates": candidates, "searched": n} for n in searched] for candidates in (50, 100, 200, 400, 800, 1600)
    ]


def _open_numpy(database: Database, _: Path) -> Callable[[Setting], Search]:
    rows = np.empty((len(database), WIDTH), np.float32)
    for start, block in unit_blocks(database):
        rows[start : start + len(block)] = block

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return nearest(queries, ((start, rows[start : start + SHARD]) for start in range(0, len(rows), SHARD)), k)

    return lambda _: search


def _faiss() -> Any:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return faiss


def _filled(database: Database, index: Any) -> Any:
    for _, block in unit_blocks(database):
        index.add(block)
    return index


def _configurable(index: Any) -> Callable[[Setting], Search]:
    def configure(setting: Setting) -> Search:
        for name, value in setting.items():
            _faiss().ParameterSpace().set_index_parameter(index, name, value)
        return lambda queries, k: index.search(unit(queries, np.float32), k)[1]

    return configure


def _open_flat(database: Database, _: Path) -> Callable[[Setting], Search]:
    return _configurable(_filled(database, _faiss().IndexFlatIP(WIDTH)))


def _open_faiss(_: Database, folder: Path) -> Callable[[Setting], Search]:
    return _configurable(_faiss().read_index(str(folder / "index.faiss")))


def _lists(count: int) -> int:
    """Returns 4 sqrt(n) lists, as faiss recommends, or as many as have 39 training rows each."""
    return min(4 * math.isqrt(count), count // 39)


def _build_inverted(quantization: str, database: Database, folder: Path) -> None:
    """Writes inverted lists of 64 bytes per row; "np" omits polysemous codes, which train long and are not used."""
    faiss, count = _faiss(), len(database)
    index = faiss.index_factory(WIDTH, f"IVF{_lists(count)},{quantization},RFlat", faiss.METRIC_INNER_PRODUCT)
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


def _ours(engine: str, label: str) -> Contender:
    """Returns an engine of approximate search of this package."""
    build, open_ = functools.partial(_build_engine, engine), functools.partial(_open_engine, engine)
    library = f"rdm_jax.retrieval.{engine}_engine"
    return Contender(label, library, 100 * MILLION, open_, build, sweeps=_engine_sweeps)


MILLION = 1_000_000
PARAMETERS = "parameters.json"
FAISS = functools.partial(Contender, library="faiss", limit=MILLION)
CONTENDERS: Mapping[str, Contender] = {
    "exact": Contender("rdm_jax, exact", "rdm_jax.retrieval.index", MILLION, _open_exact),
    "scann": _ours("scann", "rdm_jax, ScaNN"),
    "faiss": _ours("faiss", "rdm_jax, faiss"),
    "numpy": Contender("NumPy", "numpy", MILLION, _open_numpy, row_bytes=4 * WIDTH),
    "faiss-flat": FAISS("faiss flat", open=_open_flat, row_bytes=4 * WIDTH),
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


# Measurements.


def build(key: str, folder: Path) -> dict[str, Any]:
    """Builds an index and returns the seconds and the bytes; runs in a process of its own."""
    contender, database = CONTENDERS[key], Database.open(folder / "database")
    importlib.import_module(contender.library)
    own = folder / key
    own.mkdir(exist_ok=True)
    if contender.build is None:
        return {"seconds": None, "bytes": contender.row_bytes * len(database)}
    begin = time.perf_counter()
    contender.build(database, own)
    seconds = time.perf_counter() - begin
    written = sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
    return {"seconds": seconds, "bytes": written}


def search(key: str, folder: Path, setting: Setting | None, kind: str) -> dict[str, Any]:
    """Opens an index, tunes it on a kind of queries unless a setting is given, and times it; in its own process."""
    contender, database = CONTENDERS[key], Database.open(folder / "database")
    importlib.import_module(contender.library)
    truth, near = np.load(folder / "truth.npz"), queries(kind)
    libraries = memory(os.getpid())["RssAnon"]
    begin = time.perf_counter()
    configure = contender.open(database, folder / key)
    configure({})(near[:1], K)
    seconds, resting = time.perf_counter() - begin, memory(os.getpid())["RssAnon"]
    if setting is None:
        setting = tune(configure, contender.sweeps(database), truth[kind], kind)
    find = configure(setting)
    ids = {kind: find(queries(kind), K) for kind in KINDS}
    _singles(find, kind, 16)
    return {
        "rows": len(database),
        "libraries": libraries,
        "open": seconds,
        "resting": resting,
        "single": statistics.median(_singles(find, kind, SINGLES)),
        "batch": statistics.median(_seconds(lambda: find(near, K)) for _ in range(REPEATS)),
        "recall": {kind: recall(ids[kind], truth[kind]) for kind in KINDS},
        "setting": dict(setting),
    }


def tune(
    configure: Callable[[Setting], Search],
    sweeps: list[list[dict[str, int]]],
    truth: Int64[np.ndarray, "q k"],
    kind: str,
) -> Setting:
    """Returns the fastest setting that reaches the target recall on a kind of queries.

    Each sweep ends with its first setting that does, or where more effort no longer raises the recall.
    """
    tried: list[tuple[bool, float, dict[str, int]]] = []
    for sweep in sweeps:
        before = [0.0, 0.0]
        for setting in sweep:
            find = configure(setting)
            reached = recall(find(queries(kind), K), truth)
            if reached >= TARGET:
                tried.append((True, -statistics.median(_singles(find, kind, 48)), setting))
                break
            tried.append((False, reached, setting))
            if reached - before[-2] < 1e-4:
                break
            before.append(reached)
    return max(tried, key=lambda trial: trial[:2])[2] if tried else {}


def _singles(find: Search, kind: str, count: int) -> list[float]:
    near = queries(kind)
    return [_seconds(lambda i=i: find(near[i : i + 1], K)) for i in range(count)]


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(key: str, folder: Path, threads: int, kind: str) -> dict[str, Any]:
    """Returns an index's time, memory and recall, tuned to the target recall on a kind of queries.

    The built index and the settings are kept in its folder for the next call.
    """
    own = folder / key
    own.mkdir(exist_ok=True)
    path = own / "build.json"
    if not path.exists():
        result, peaks = run_alone(threads, build, key, folder)
        files.write_json(path, {**result, "peaks": peaks})
    built = json.loads(path.read_text())
    settings = built.get("settings", {})
    result, peaks = run_alone(threads, search, key, folder, settings.get(kind), kind)
    files.write_json(path, {**built, "settings": {**settings, kind: result["setting"]}})
    return {**result, "build": built, "peaks": peaks}


# Processes.


def memory(process: int) -> dict[str, float]:
    """Returns the resident bytes of a process: anonymous now (RssAnon), and the peak with mapped files (VmHWM)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        lines = []
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key: 1024.0 * int(status.get(key, "0 kB").split()[0]) for key in ("RssAnon", "VmHWM")}


def run_alone(threads: int, work: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, float]]:
    """Runs a function in a fresh process with so many threads; returns its result and its peaks of memory in bytes.

    This process samples them every 20 ms: in the other one, libraries that hold the GIL would hide their peaks.
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
