"""Retrieval beside what a user would otherwise take, as tables: indexes, opening, sampling, building, joining.

pip install faiss-cpu matplotlib   # for the comparison and the plot; --indexes exact scann numpy goes without
python benchmarks/retrieval.py --work DIR --plot growth.svg        # DIR takes 25 GB
python benchmarks/retrieval.py --only join --only open
python benchmarks/retrieval.py --only index --sizes 10000,100000 --indexes scann faiss-hnsw

Rows, exact neighbours and built indexes stay in DIR: a second run repeats the timings alone. Every index has the same
threads and is tuned on queries like the rows until it finds 99% of their ten nearest.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
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

import indexes
import numpy as np
from indexes import CONTENDERS, MB, SHARD, WIDTH, alone
from machine import machine
from PIL import Image

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database

Table = list[Sequence[str]]

SHARDS = 306  # 20 million rows
PROMPT, PICTURES, STEPS = "a red boat", 8, 50
NEIGHBORS, PART, BATCH = 20, 4096, 256
COLOURS = ("#d1495b", "#2e6f95", "#8d99ae", "#6b705c", "#b08968", "#7b6d8d", "#3a7d44")


def show(table: Table) -> None:
    """Prints rows of cells, the first of them the head, as a Markdown table."""
    print("\n".join(f"| {' | '.join(line)} |" for line in (table[0], ["---"] * len(table[0]), *table[1:])))
    print(flush=True)


# Indexes.


def index(args: argparse.Namespace) -> None:
    """Measures each index at each size in turn and prints a table for each size; draws what was ever measured."""
    for size in args.sizes:
        folder = args.work / f"rows-{size}"
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{size} rows: rows and their exact neighbours", file=sys.stderr, flush=True)
        indexes.prepare(folder, size)
        found = {}
        for key in args.indexes:
            if size <= CONTENDERS[key].limit:
                print(f"{size} rows: {CONTENDERS[key].name}", file=sys.stderr, flush=True)
                found[key] = indexes.measure(key, folder, args.threads, args.met_on)
                files.write_json(folder / key / f"measured-{args.met_on}.json", found[key])
        bare = [told["bare"] / MB for told in found.values()]
        print(f"{size} rows of {WIDTH} float16, {args.threads} threads, tuned on {args.met_on}; {machine()}\n")
        show([HEAD, *(_line(CONTENDERS[key].name, told) for key, told in found.items())])
        print(f"Memory is the process's own, resident; {min(bare):.0f} to {max(bare):.0f} MB of it are libraries.\n")
    if args.plot:
        plot(args.work, args.met_on, args.plot)


HEAD = (
    "index",
    "build, s",
    "build at most, MB",
    "index, MB",
    "opened, s",
    "at rest, MB",
    "at most, MB",
    "with files, MB",
    "one query, ms",
    f"{indexes.QUERIES} queries, ms",
    "recall, pictures",
    "recall, texts",
    "setting",
)


def _line(name: str, told: dict[str, Any]) -> list[str]:
    build = told["built"]
    return [
        name,
        "-" if build["seconds"] is None else f"{build['seconds']:.1f}",
        "-" if build["seconds"] is None else f"{build['peaks']['RssAnon'] / MB:.0f}",
        f"{build['bytes'] / MB:.0f}",
        f"{told['opened']:.2f}",
        f"{told['resting'] / MB:.0f}",
        f"{told['peaks']['RssAnon'] / MB:.0f}",
        f"{told['peaks']['VmHWM'] / MB:.0f}",
        f"{1e3 * told['single']:.2f}",
        f"{1e3 * told['batch']:.0f}",
        f"{told['recall']['pictures']:.3f}",
        f"{told['recall']['texts']:.3f}",
        ", ".join(f"{key} {value}" for key, value in told["setting"].items()) or "-",
    ]


def plot(work: Path, kind: str, out: Path) -> None:
    """Draws the growth of one query's time and of memory with the rows, from all that was measured in a folder."""
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    pyplot.rcParams.update({"svg.fonttype": "none", "font.size": 9})
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    panels: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        ("one query, ms", lambda told: 1e3 * told["single"]),
        ("memory while searching, MB", lambda told: told["peaks"]["RssAnon"] / MB),
    ]
    for axis, (title, value) in zip(axes, panels, strict=True):
        _panel(axis, title, _curves(work, kind, value))
    figure.savefig(out, dpi=160)
    pyplot.close(figure)


def _curves(work: Path, kind: str, value: Callable[[dict[str, Any]], float]) -> dict[str, list[tuple[int, float]]]:
    curves = {}
    for key in CONTENDERS:
        found = [json.loads(path.read_text()) for path in work.glob(f"rows-*/{key}/measured-{kind}.json")]
        if found:
            curves[key] = sorted((told["rows"], value(told)) for told in found)
    return curves


def _panel(axis: Any, title: str, curves: dict[str, list[tuple[int, float]]]) -> None:
    """Draws curves with their names at their ends, on logarithmic axes."""
    axis.set(xscale="log", yscale="log", xlabel=f"rows, at a recall of {indexes.TARGET:g}")
    axis.yaxis.set_major_locator(importlib.import_module("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k")
    axis.yaxis.set_minor_formatter(lambda value, _: "")
    axis.set_title(title, loc="left", fontweight="bold")
    axis.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    colours = dict(zip(CONTENDERS, COLOURS, strict=True))
    for key, points in curves.items():
        ours = CONTENDERS[key].name.startswith("ours")
        style = {"linewidth": 2.4 if ours else 1.4, "markersize": 5 if ours else 3.5, "zorder": 3 if ours else 2}
        axis.plot(*zip(*points, strict=True), marker="o", color=colours[key], **style)
    low, high = (float(np.log10(limit)) for limit in axis.get_ylim())
    ends = sorted(curves, key=lambda key: curves[key][-1][1])
    places = _apart([float(np.log10(curves[key][-1][1])) for key in ends], 0.055 * (high - low), low, high)
    furthest = max(points[-1][0] for points in curves.values())
    for key, place in zip(ends, places, strict=True):
        name, end = CONTENDERS[key].name, curves[key][-1]
        line = {"arrowstyle": "-", "color": colours[key], "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4}
        weight = "bold" if name.startswith("ours") else "normal"
        text = {"color": colours[key], "weight": weight, "va": "center", "annotation_clip": False}
        axis.annotate(name, end, (furthest * 1.6, 10**place), arrowprops={**line, "relpos": (0, 0.5)}, **text)


def _apart(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Returns ascending places in [low, high], moved as little as keeps `gap` between them.

    Those that would touch lie around their mean; groups that touch are joined until none does.
    """
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while (
            len(groups) > 1 and _spread(groups[-2], gap, low, high)[-1] + gap > _spread(groups[-1], gap, low, high)[0]
        ):
            last = groups.pop()
            groups[-1] += last
    return [place for group in groups for place in _spread(group, gap, low, high)]


def _spread(group: list[float], gap: float, low: float, high: float) -> list[float]:
    length = gap * (len(group) - 1)
    first = max(low, min(statistics.mean(group) - length / 2, high - length))
    return [first + gap * i for i in range(len(group))]


# Opening.


def opening(args: argparse.Namespace) -> None:
    """Opens a database of 20 million rows, in files that take no room, in fresh processes and prints a table."""
    folder = args.work / "twenty-million"
    if not folder.exists():
        indexes.write_database(folder, [SHARD] * SHARDS, None)
    found = [alone(args.threads, opened, folder) for _ in range(5)]
    seconds, added = (statistics.median(told[i] for told, _ in found) for i in range(2))
    own, whole = (statistics.median(peaks[key] for _, peaks in found) for key in ("RssAnon", "VmHWM"))
    print(f"Database.open, medians of {len(found)} fresh processes; {machine()}\n")
    head = ("rows", "shards", "ms", "memory that it adds, MB", "the process at most, MB", "with files, MB")
    sizes = (f"{added / MB:.1f}", f"{own / MB:.0f}", f"{whole / MB:.0f}")
    show([head, (f"{SHARD * SHARDS}", f"{SHARDS}", f"{1e3 * seconds:.0f}", *sizes)])


def opened(folder: Path) -> tuple[float, float]:
    """Opens a database and returns the seconds and the bytes that it took; runs in a process of its own."""
    before = indexes.memory(os.getpid())["RssAnon"]
    begin = time.perf_counter()
    database = Database.open(folder)
    seconds = time.perf_counter() - begin
    assert len(database) == SHARD * SHARDS
    return seconds, indexes.memory(os.getpid())["RssAnon"] - before


# Sampling.


def sample(args: argparse.Namespace) -> None:
    """Prints what share encoder and retrieval have in a sample; benchmarks/sampling.py tells where the rest goes."""
    from draws.parts import Clock

    from rdm_jax.generator import Generator
    from rdm_jax.retrieval.retriever import Retriever

    generator = Generator.load(args.model)
    retriever = Retriever(generator.encoder, [Database.open(args.database)])
    plan = generator.plan(PROMPT, database=retriever, num_images=PICTURES, steps=STEPS)
    list(generator.draw(plan))  # compiles
    clock = Clock()
    for _ in range(args.repeats):
        clock.start()
        with clock.part("text encoder"):
            queries = generator.encoder.encode_texts([PROMPT])
        with clock.part("retrieval"):
            retriever.retrieve(queries, plan.settings.neighbors)
        with clock.part("drawing"):
            list(generator.draw(plan))
    named = f"{PICTURES} pictures of {args.model}, {STEPS} steps, database {args.database}"
    print(f"{named} of {len(retriever.databases[0])} rows, medians of {args.repeats}; {machine()}\n")
    parts = [(name, clock.median(name)) for name in ("text encoder", "retrieval", "drawing")]
    cells = [(name, f"{1e3 * seconds:.1f}", f"{seconds / clock.total():.2%}") for name, seconds in parts]
    show([("part", "ms", "share"), *cells])


# Building.


def folder(args: argparse.Namespace) -> None:
    """Prints the speed at which a folder of pictures becomes a database beside the encoder's own on ready pixels."""
    from rdm_jax.data.sources import open_source
    from rdm_jax.retrieval.build import BuildJob, build_database

    encoder = _encoder()
    size, ready = encoder.batch_size, _pixels(encoder.batch_size, encoder.image_size)
    encoder.encode_images(ready)  # compiles
    with tempfile.TemporaryDirectory(dir=args.work) as temporary:
        pictures = args.folder or _write_pictures(Path(temporary) / "pictures", args.pictures)
        source = open_source(str(pictures))
        count, batches = len(source), max(2, len(source) // (2 * size))
        # Half of the encoder's own time before and half after, so that a machine that slows down does so for both.
        before = _encode(encoder, ready, batches)
        begin = time.perf_counter()
        build_database(BuildJob.of(source, encoder), Path(temporary) / "database")
        built = count / (time.perf_counter() - begin)
        after = _encode(encoder, ready, batches)
    alone_ = 2 * batches * size / (before + after)
    print(f"{count} pictures, CLIP ViT-B/32 with random weights, batches of {size}; {machine()}\n")
    head = ("what", "pictures a second", "of the encoder's own")
    show([head, ("encoder on ready pixels", f"{alone_:.1f}", "100%"), ("folder to database", *_share(built, alone_))])


def _share(rate: float, of: float) -> tuple[str, str]:
    return f"{rate:.1f}", f"{rate / of:.1%}"


def _encode(encoder: Any, ready: np.ndarray, batches: int) -> float:
    begin = time.perf_counter()
    for _ in range(batches):
        encoder.encode_images(ready)
    return time.perf_counter() - begin


def _encoder() -> Any:
    """Returns an encoder with the image tower of CLIP ViT-B/32, a small text tower and random weights."""
    from rdm_jax.bundle import PREPROCESSING, Bundle
    from rdm_jax.core import trees
    from rdm_jax.models import abstract_params, build_clip
    from rdm_jax.retrieval.encoder import ClipEncoder
    from rdm_jax.training.config import load_config

    config = load_config(str(Path(__file__).parent.parent / "configs" / "models" / "clip_vit_b32.py")).to_dict()
    config["clip"]["text"] |= {"vocab_size": 300, "layers": 1}
    network = build_clip({key: value for key, value in config["clip"].items() if key not in PREPROCESSING})
    generator = np.random.default_rng(0)
    params = {
        name: np.float32(0.02) * generator.standard_normal(leaf.shape, np.float32)
        for name, leaf in abstract_params(network).items()
    }
    return ClipEncoder(Bundle({**config, "schema": 1}, {"clip": trees.unflatten(params)}, None))


def _pixels(count: int, size: int) -> np.ndarray:
    """Returns smooth random pictures [n, size, size, 3]."""
    small = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in small])


def _write_pictures(folder: Path, count: int) -> Path:
    """Writes JPEGs of 256x256 pixels."""
    folder.mkdir()
    for number, picture in enumerate(_pixels(count, 256)):
        Image.fromarray(picture).save(folder / f"{number:06d}.jpg", quality=90)
    return folder


# Joining.


def joining(args: argparse.Namespace) -> None:
    """Joins neighbours to examples by one thread and by several and prints how many it does a second."""
    import grain

    from rdm_jax.retrieval.join import JoinNeighbors, number_examples
    from rdm_jax.retrieval.sidecar import NeighborSidecar

    place = args.work / "join"
    if not (place / "database").exists():
        indexes.write_database(place / "database", [PART] * 32)
    database = Database.open(place / "database")
    table: Table = [("records", "order", "one thread, examples/s", f"{args.threads} threads, examples/s")]
    for told in ("embeddings", "ids only"):
        sidecar = NeighborSidecar.open(_sidecar(place, database, args.examples, told == "embeddings"), database)
        source: Any = types.SimpleNamespace(name="numbers", fingerprint="0" * 64)
        examples = number_examples(grain.MapDataset.range(args.examples), source, sidecar)
        for order in ("sequential", "shuffled"):
            ordered = examples.shuffle(seed=0) if order == "shuffled" else examples
            batches = ordered.batch(BATCH).map(JoinNeighbors(sidecar))
            threads = batches.to_iter_dataset(grain.ReadOptions(args.threads, prefetch_buffer_size=8))
            ways: tuple[Callable[[], Iterator[Any]], ...] = (
                lambda batches=batches: (batches[i] for i in range(len(batches))),
                lambda threads=threads: iter(threads),
            )
            table.append((told, order, *(f"{_rate(way, args.examples):.0f}" for way in ways)))
    print(
        f"{args.examples} examples with {NEIGHBORS} neighbours of {WIDTH} in batches of {BATCH}, medians of 5; ", end=""
    )
    print(f"{machine()}\n")
    show(table)


def _rate(batches: Callable[[], Iterator[Any]], count: int) -> float:
    """Returns the median rate, in examples a second, of five passes after a first one."""
    rates = []
    for _ in range(6):
        begin = time.perf_counter()
        for _ in batches():
            pass
        rates.append(count / (time.perf_counter() - begin))
    return statistics.median(rates[1:])


def _sidecar(place: Path, database: Database, count: int, embeddings: bool) -> Path:
    """Writes random neighbours of `count` examples, with their rows or without, unless they are there."""
    from array_record.python.array_record_module import ArrayRecordWriter

    from rdm_jax.retrieval import sidecar

    out = place / f"neighbors-{count}-{'rows' if embeddings else 'ids'}"
    if out.exists():
        return out
    parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    names = [f"neighbors-{number:05d}-of-{len(parts):05d}.array_record" for number in range(len(parts))]
    generator = np.random.default_rng(count)
    with files.new_directory(out) as made:
        for name, part in zip(names, parts, strict=True):
            writer = ArrayRecordWriter(str(made / name), "group_size:1,uncompressed")
            for start in range(part.start, part.stop, BATCH):
                numbers = np.arange(start, min(start + BATCH, part.stop))
                ids = generator.integers(0, len(database), (len(numbers), NEIGHBORS))
                scores = -np.sort(-generator.random(ids.shape, np.float32))
                found = database.rows[ids.reshape(-1)].reshape(*ids.shape, WIDTH) if embeddings else None
                for record in sidecar.pack_records(numbers, ids, scores, found):
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
            "files": {name: files.sha256(made / name) for name in names},
            "skipped": [],
        }
        sidecar.write_manifest(made, manifest)
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
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given several times")
    parser.add_argument("--work", type=Path, help="where rows and indexes stay; a temporary folder if none")
    parser.add_argument("--sizes", type=_sizes, default="10000,100000,1000000,5000000", help="rows, by commas")
    parser.add_argument("--indexes", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    parser.add_argument(
        "--met-on", default="pictures", choices=indexes.KINDS, help="the kind of queries that indexes are tuned on"
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--plot", type=Path, help="draws time and memory over the rows into this file, .png or .svg")
    parser.add_argument("--model", default="style-scenes", help="of the sample")
    parser.add_argument("--database", default="general", help="of the sample")
    parser.add_argument("--repeats", type=int, default=3, help="of the sample")
    parser.add_argument("--folder", type=Path, help="pictures to build a database of; made if none")
    parser.add_argument("--pictures", type=int, default=1024, help="how many are made")
    parser.add_argument("--examples", type=int, default=16384, help="that neighbours are joined to")
    args = parser.parse_args()
    wanted = args.only or list(PARTS)
    needed = {CONTENDERS[key].library for key in args.indexes} if "index" in wanted else set()
    if "faiss" in needed and importlib.util.find_spec("faiss") is None:
        parser.error("faiss is not installed; pip install faiss-cpu, or choose --indexes exact scann numpy")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("matplotlib is not installed; pip install matplotlib, or leave --plot out")
    # Of the processes that are started; threads that spin while they wait would take the time of those that work.
    os.environ |= {"OMP_NUM_THREADS": str(args.threads), "OPENBLAS_NUM_THREADS": str(args.threads)}
    os.environ["OMP_WAIT_POLICY"] = "passive"
    temporary = None if args.work else Path(tempfile.mkdtemp(prefix="retrieval-"))
    args.work = args.work or temporary
    try:
        for part in wanted:
            PARTS[part](args)
    except UserError as error:
        parser.error(str(error))
    finally:
        if temporary:
            shutil.rmtree(temporary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
