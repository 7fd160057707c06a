"""Retrieval compared with its alternatives, as tables: indexes, opening, sampling, building, joining.

pip install faiss-cpu matplotlib   # for the comparison and the plot; not needed for --indexes exact scann numpy
python benchmarks/retrieval.py --work DIR --plot growth.svg        # needs 25 GB in DIR
python benchmarks/retrieval.py --only join --only open
python benchmarks/retrieval.py --only index --sizes 10000,100000 --indexes scann faiss-hnsw

Rows, exact neighbors and built indexes stay in DIR: a second run repeats the timings alone. All indexes have the same
threads, and are tuned to a recall of 99 % at 10 for queries distributed as the rows are.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import index_plot
import index_rows
import indexes
import numpy as np
from index_rows import SHARD, WIDTH
from indexes import CONTENDERS, MB, run_alone
from machine import machine
from PIL import Image

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database

Table = list[Sequence[str]]

SHARDS = 306  # 20 million rows
PROMPT, IMAGES, STEPS = "a red boat", 8, 50
NEIGHBORS, PART, BATCH = 20, 4096, 256


def show(table: Table) -> None:
    """Prints rows of cells, the header first, as a Markdown table."""
    print("\n".join(f"| {' | '.join(line)} |" for line in (table[0], ["---"] * len(table[0]), *table[1:])))
    print(flush=True)


# Indexes.


def index(args: argparse.Namespace) -> None:
    """Measures each index at each size and prints a table for each size; plots all measurements in the folder."""
    for size in args.sizes:
        folder = args.work / f"rows-{size}"
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{size} rows: rows and their exact neighbors", file=sys.stderr, flush=True)
        index_rows.prepare(folder, size)
        results = {}
        for key in args.indexes:
            if size <= CONTENDERS[key].limit:
                print(f"{size} rows: {CONTENDERS[key].name}", file=sys.stderr, flush=True)
                results[key] = indexes.measure(key, folder, args.threads, args.tuned_on)
                files.write_json(folder / key / f"measured-{args.tuned_on}.json", results[key])
        libraries = [result["libraries"] / MB for result in results.values()]
        print(f"{size} rows of {WIDTH} float16, {args.threads} threads, tuned on {args.tuned_on}; {machine()}\n")
        show([HEADER, *(_cells(CONTENDERS[key].name, result) for key, result in results.items())])
        print(
            "Memory is anonymous resident memory, and with mapped files where the column says so; "
            f"{min(libraries):.0f} to {max(libraries):.0f} MB of it are libraries.\n"
        )
    if args.plot:
        index_plot.plot(args.work, args.tuned_on, args.plot)


HEADER = (
    "index",
    "build, s",
    "build, peak MB",
    "index, MB",
    "open, s",
    "opened, MB",
    "search, peak MB",
    "peak with files, MB",
    "one query, ms",
    f"{index_rows.QUERIES} queries, ms",
    "recall, images",
    "recall, texts",
    "setting",
)


def _cells(name: str, result: dict[str, Any]) -> list[str]:
    build = result["build"]
    return [
        name,
        "-" if build["seconds"] is None else f"{build['seconds']:.1f}",
        "-" if build["seconds"] is None else f"{build['peaks']['RssAnon'] / MB:.0f}",
        f"{build['bytes'] / MB:.0f}",
        f"{result['open']:.2f}",
        f"{result['resting'] / MB:.0f}",
        f"{result['peaks']['RssAnon'] / MB:.0f}",
        f"{result['peaks']['VmHWM'] / MB:.0f}",
        f"{1e3 * result['single']:.2f}",
        f"{1e3 * result['batch']:.0f}",
        f"{result['recall']['images']:.3f}",
        f"{result['recall']['texts']:.3f}",
        ", ".join(f"{key} {value}" for key, value in result["setting"].items()) or "-",
    ]


# Opening.


def opening(args: argparse.Namespace) -> None:
    """Opens a database of 20 million rows, in sparse files, in fresh processes, and prints a table."""
    folder = args.work / "twenty-million"
    if not folder.exists():
        index_rows.write_database(folder, [SHARD] * SHARDS, None)
    results = [run_alone(args.threads, open_timed, folder) for _ in range(5)]
    seconds, added = (statistics.median(result[i] for result, _ in results) for i in range(2))
    own, whole = (statistics.median(peaks[key] for _, peaks in results) for key in ("RssAnon", "VmHWM"))
    print(f"Database.open, medians of {len(results)} fresh processes; {machine()}\n")
    header = ("rows", "shards", "ms", "added memory, MB", "peak of the process, MB", "with files, MB")
    sizes = (f"{added / MB:.1f}", f"{own / MB:.0f}", f"{whole / MB:.0f}")
    show([header, (f"{SHARD * SHARDS}", f"{SHARDS}", f"{1e3 * seconds:.0f}", *sizes)])


def open_timed(folder: Path) -> tuple[float, float]:
    """Opens a database and returns the seconds and bytes that this takes; runs in a process of its own."""
    before = indexes.memory(os.getpid())["RssAnon"]
    begin = time.perf_counter()
    database = Database.open(folder)
    seconds = time.perf_counter() - begin
    assert len(database) == SHARD * SHARDS
    return seconds, indexes.memory(os.getpid())["RssAnon"] - before


# Sampling.


def sample(args: argparse.Namespace) -> None:
    """Prints the fraction of a sample's time that encoder and retrieval take; benchmarks/sampling.py has all parts."""
    from sampling_tables.parts import Clock

    from rdm_jax.generator import Generator
    from rdm_jax.retrieval.retriever import Retriever

    generator = Generator.load(args.model)
    retriever = Retriever(generator.encoder, [Database.open(args.database)])
    plan = generator.plan(PROMPT, database=retriever, num_images=IMAGES, steps=STEPS)
    list(generator.generate(plan))  # compiles
    clock = Clock()
    for _ in range(args.repeats):
        clock.start()
        with clock.part("text encoder"):
            queries = generator.encoder.encode_texts([PROMPT])
        with clock.part("retrieval"):
            retriever.retrieve(queries, plan.request.neighbors)
        with clock.part("generation"):
            list(generator.generate(plan))
    what = f"{IMAGES} images of {args.model}, {STEPS} steps, database {args.database}"
    print(f"{what} of {len(retriever.databases[0])} rows, medians of {args.repeats}; {machine()}\n")
    parts = [(name, clock.median(name)) for name in ("text encoder", "retrieval", "generation")]
    cells = [(name, f"{1e3 * seconds:.1f}", f"{seconds / clock.total():.2%}") for name, seconds in parts]
    show([("part", "ms", "fraction"), *cells])


# Building.


def folder(args: argparse.Namespace) -> None:
    """Prints the speed of building a database of a folder of images, and of the encoder alone on decoded images."""
    from rdm_jax.data.sources import open_source
    from rdm_jax.retrieval.build import BuildJob, build_database

    encoder = _encoder()
    size, ready = encoder.batch_size, _pixels(encoder.batch_size, encoder.image_size)
    encoder.encode_images(ready)  # compiles
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        images = args.folder or _write_images(Path(temporary) / "images", args.images)
        source = open_source(str(images))
        count, batches = len(source), max(2, len(source) // (2 * size))
        # The encoder alone is timed before and after, so that a drift of the machine's speed affects both.
        before = _encode(encoder, ready, batches)
        begin = time.perf_counter()
        build_database(BuildJob.of(source, encoder), Path(temporary) / "database")
        build_rate = count / (time.perf_counter() - begin)
        after = _encode(encoder, ready, batches)
    encoder_rate = 2 * batches * size / (before + after)
    print(f"{count} images, CLIP ViT-B/32 with random weights, batches of {size}; {machine()}\n")
    rates = (("encoder on decoded images", encoder_rate), ("folder to database", build_rate))
    cells = [(name, f"{rate:.1f}", f"{rate / encoder_rate:.1%}") for name, rate in rates]
    show([("", "images per second", "of the encoder's speed"), *cells])


def _encode(encoder: Any, ready: np.ndarray, batches: int) -> float:
    begin = time.perf_counter()
    for _ in range(batches):
        encoder.encode_images(ready)
    return time.perf_counter() - begin


def _encoder() -> Any:
    """Returns an encoder with the image tower of CLIP ViT-B/32, a small text tower and random weights."""
    from rdm_jax.bundle import Bundle
    from rdm_jax.core import trees
    from rdm_jax.models import abstract_params, build_clip
    from rdm_jax.parts import PREPROCESSING
    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.training.config import load_architecture

    config = load_architecture("clip_vit_b32").to_dict()
    config["clip"]["text"] |= {"vocab_size": 300, "layers": 1}
    network = build_clip({key: value for key, value in config["clip"].items() if key not in PREPROCESSING})
    generator = np.random.default_rng(0)
    params = {
        name: np.float32(0.02) * generator.standard_normal(leaf.shape, np.float32)
        for name, leaf in abstract_params(network).items()
    }
    return ClipEncoder(Bundle({**config, "schema": 1}, {"clip": trees.unflatten(params)}, None))


def _pixels(count: int, size: int) -> np.ndarray:
    """Returns smooth random images [n, size, size, 3]."""
    small = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in small])


def _write_images(folder: Path, count: int) -> Path:
    """Writes JPEGs of 256x256 pixels."""
    folder.mkdir()
    for number, image in enumerate(_pixels(count, 256)):
        Image.fromarray(image).save(folder / f"{number:06d}.jpg", quality=90)
    return folder


# Joining.


def joining(args: argparse.Namespace) -> None:
    """Joins neighbors to examples with one thread and with several, and prints the examples per second."""
    import grain

    from rdm_jax.retrieval.join import JoinNeighbors, number_examples
    from rdm_jax.retrieval.sidecar import NeighborSidecar

    place = args.work / "join"
    if not (place / "database").exists():
        index_rows.write_database(place / "database", [PART] * 32)
    database = Database.open(place / "database")
    table: Table = [("records", "order", "one thread, examples/s", f"{args.threads} threads, examples/s")]
    for records in ("embeddings", "ids only"):
        sidecar = NeighborSidecar.open(_sidecar(place, database, args.examples, records == "embeddings"), database)
        source: Any = types.SimpleNamespace(name="numbers", fingerprint="0" * 64)
        examples = number_examples(grain.MapDataset.range(args.examples), source, sidecar)
        for order in ("sequential", "shuffled"):
            ordered = examples.shuffle(seed=0) if order == "shuffled" else examples
            batches = ordered.batch(BATCH).map(JoinNeighbors(sidecar))
            threads = batches.to_iter_dataset(grain.ReadOptions(args.threads, prefetch_buffer_size=8))
            passes: tuple[Callable[[], Iterator[Any]], ...] = (
                lambda batches=batches: (batches[i] for i in range(len(batches))),
                lambda threads=threads: iter(threads),
            )
            table.append((records, order, *(f"{_rate(each, args.examples):.0f}" for each in passes)))
    print(
        f"{args.examples} examples with {NEIGHBORS} neighbors of {WIDTH} in batches of {BATCH}, medians of 5; ", end=""
    )
    print(f"{machine()}\n")
    show(table)


def _rate(batches: Callable[[], Iterator[Any]], count: int) -> float:
    """Returns the median rate in examples per second of five passes, after a first one that is not counted."""
    rates = []
    for _ in range(6):
        begin = time.perf_counter()
        for _ in batches():
            pass
        rates.append(count / (time.perf_counter() - begin))
    return statistics.median(rates[1:])


def _sidecar(place: Path, database: Database, count: int, embeddings: bool) -> Path:
    """Writes random neighbors of `count` examples, with their rows or without, unless the file exists."""
    from array_record.python.array_record_module import ArrayRecordWriter

    from rdm_jax.retrieval import sidecar

    out = place / f"neighbors-{count}-{'rows' if embeddings else 'ids'}"
    if out.exists():
        return out
    parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    names = [f"neighbors-{number:05d}-of-{len(parts):05d}.array_record" for number in range(len(parts))]
    generator = np.random.default_rng(count)
    with files.new_directory(out) as new:
        for name, part in zip(names, parts, strict=True):
            writer = ArrayRecordWriter(str(new / name), "group_size:1,uncompressed")
            for start in range(part.start, part.stop, BATCH):
                numbers = np.arange(start, min(start + BATCH, part.stop))
                ids = generator.integers(0, len(database), (len(numbers), NEIGHBORS))
                scores = -np.sort(-generator.random(ids.shape, np.float32))
                rows = database.rows[ids.reshape(-1)].reshape(*ids.shape, WIDTH) if embeddings else None
                for record in sidecar.pack_records(numbers, ids, scores, rows):
                    writer.write(record)
            writer.close()
        manifest = {
            "schema": sidecar.SCHEMA,
            "source": {"name": "numbers", "fingerprint": "0" * 64},
            "database": {"name": database.name, "digest": database.digest},
            "encoder": dict(database.encoder),
            "count": count,
            "k": NEIGHBORS,
            "embeddings": embeddings,
            "part_lengths": [len(part) for part in parts],
            "files": {name: files.sha256(new / name) for name in names},
            "skipped": [],
        }
        sidecar.write_manifest(new, manifest)
    return out


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "index": index,
    "open": opening,
    "sample": sample,
    "folder": folder,
    "join": joining,
}


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part (repeatable)")
    parser.add_argument("--work", type=Path, help="the folder of rows and indexes (default: a temporary one)")
    parser.add_argument("--sizes", type=_sizes, default="10000,100000,1000000,5000000", help="numbers of rows")
    parser.add_argument("--indexes", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    parser.add_argument(
        "--tuned-on", default="images", choices=index_rows.KINDS, help="the kind of queries that indexes are tuned on"
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--plot", type=Path, help="plot time and memory over the rows into this file, .png or .svg")
    parser.add_argument("--model", default="style-scenes", help="for part sample")
    parser.add_argument("--database", default="general", help="for part sample")
    parser.add_argument("--repeats", type=int, default=3, help="for part sample")
    parser.add_argument("--folder", type=Path, help="images to build a database of (default: random ones)")
    parser.add_argument("--images", type=int, default=1024, help="the number of random images")
    parser.add_argument("--examples", type=int, default=16384, help="for part join")
    args = parser.parse_args()
    chosen = args.only or list(PARTS)
    needed = {CONTENDERS[key].library for key in args.indexes} if "index" in chosen else set()
    if "faiss" in needed and importlib.util.find_spec("faiss") is None:
        parser.error("faiss is not installed; pip install faiss-cpu, or choose --indexes exact scann numpy")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed; pip install matplotlib, or omit --plot")
    # For the processes that are started. Threads that spin while they wait would take time from those that work.
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "OPENBLAS_NUM_THREADS": str(args.threads)}
    os.environ["OMP_WAIT_POLICY"] = "passive"
    temporary = None if args.work else Path(tempfile.mkdtemp(prefix="retrieval-"))
    args.work = args.work or temporary
    try:
        for part in chosen:
            PARTS[part](args)
    except UserError as error:
        parser.error(str(error))
    finally:
        if temporary:
            shutil.rmtree(temporary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
