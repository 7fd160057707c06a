"""What one machine bears in a build by many: the list of images, the manifest's shards, a part in memory, Dask's tasks.

python benchmarks/scale.py                       # all, in about three minutes
python benchmarks/scale.py --only tasks --tasks 20000

Times are those of the processor, so that other work on the machine counts little; Dask's are by the clock.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine
from PIL import Image

from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import BuildJob, BuildOptions
from rdm_jax.retrieval.dask_runner import DaskRunner
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import ManifestDraft, write_manifest
from rdm_jax.retrieval.prepare import Workers
from rdm_jax.retrieval.shards import Shard, ShardContents, write_shard

WIDTH, SIDE, TARS = 512, 256, 10
NAME = "{:09d}"


class NoEncoder:
    """An encoder of zeros: the time and the memory of a part without a network."""

    identity, image_size, batch_size, preprocessing = {"name": "zeros", "sha256": "", "width": WIDTH}, 224, 64, {}

    def encode_images(self, images: Any) -> np.ndarray:
        """Returns zeros."""
        return np.zeros((len(images), WIDTH), np.float32)

    def encode_texts(self, texts: Any) -> np.ndarray:
        """Returns zeros."""
        return np.zeros((len(texts), WIDTH), np.float32)


def photograph() -> bytes:
    """Returns a JPEG of 256x256 pixels of smooth noise, about as many bytes as one of a photograph."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_folder(folder: Path, count: int, image: bytes) -> None:
    """Writes images by links, a thousand to a sub-folder, each with a caption beside it."""
    for i in range(count):
        place = folder / f"{i // 1000:06d}"
        place.mkdir(parents=True, exist_ok=True)
        if i % 1000 == 0:
            (place / "image").write_bytes(image)
        os.link(place / "image", place / f"{NAME.format(i)}.jpg")
    for one in folder.glob("*/image"):
        one.unlink()


def write_tars(folder: Path, count: int, image: bytes) -> None:
    """Writes images and captions into ten tar files."""
    folder.mkdir()
    for number in range(TARS):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as archive:
            for i in range(number * count // TARS, (number + 1) * count // TARS):
                for suffix, data in (("jpg", image), ("txt", b"a photograph of a street in the rain")):
                    member = tarfile.TarInfo(f"{NAME.format(i)}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Returns the result of a function, its processor time in seconds, and the bytes that the result keeps."""
    tracemalloc.start()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    result = work()
    seconds, kept = time.process_time() - start, tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return result, seconds, kept


def sources(args: argparse.Namespace, folder: Path) -> None:
    """Prints what the list of a source's images costs the machine that starts a build, and what a worker is sent."""
    image = photograph()
    print("| source | listed, us | in memory, B | sent, B | fingerprint, us |\n| --- | --- | --- | --- | --- |")
    for name, write in (("folder", write_folder), ("tar", write_tars)):
        place = folder / name
        write(place, args.images, image)
        start = time.process_time()
        open_source(str(place))
        listed = time.process_time() - start
        source, _, kept = measured(lambda place=place: open_source(str(place)))
        start = time.process_time()
        _ = source.fingerprint
        hashed, sent = time.process_time() - start, len(pickle.dumps(source))
        cells = [f"{1e6 * listed / args.images:.0f}", f"{kept / args.images:.0f}", f"{sent / args.images:.0f}"]
        print(f"| {name} | {' | '.join(cells)} | {1e6 * hashed / args.images:.0f} |")
    print(f"\nfor each of {args.images} images of {len(image)} B\n")


def part(args: argparse.Namespace, folder: Path) -> None:
    """Prints the memory and the time of a part without the network, which grow with the number of its images."""
    write_folder(folder / "part", args.part, photograph())
    few, many = (_peak(folder, size) for size in (args.part // 4, args.part))
    slope = (many[0] - few[0]) / (args.part - args.part // 4)
    rest = few[0] - slope * (args.part // 4)
    print(f"a part in memory: {slope / 1e3:.1f} kB for each image, beside {rest / 1e6:.0f} MB")
    print(f"decoding, resizing and hashing: {1e3 * many[1] / args.part:.1f} ms for each image of {SIDE} pixels\n")


def _peak(folder: Path, size: int) -> tuple[int, float]:
    """Returns the peak of the memory of writing a part of some images in bytes, and its processor time in seconds."""
    job = BuildJob.of(open_source(str(folder / "part")), NoEncoder(), BuildOptions(part_size=size))
    with tempfile.TemporaryDirectory() as out, Workers(job.source, job.preparation, 0) as workers:
        start = time.process_time()
        job.write_part(Path(out), 0, workers)
        seconds = time.process_time() - start
        tracemalloc.start()
        job.write_part(Path(out), 0, workers)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, seconds


def shards(args: argparse.Namespace, folder: Path) -> None:
    """Prints the time and the memory of opening a database of many shards."""
    item = {"path": "a", "caption": "", "attributes": {}, "sha256": "0" * 64}
    first = write_shard(folder, 0, args.shards, ShardContents([item], np.zeros((1, WIDTH)), None), "float16")
    records = [first, *(first.link(folder, number, args.shards) for number in range(1, args.shards))]
    identity = {"name": "zeros", "sha256": "", "width": WIDTH, "preprocessing": {}}
    description = {"name": "many", "width": WIDTH, "dtype": "float16", "encoder": identity, "thumbnail_size": 64}
    description |= {"licence": "", "sources": []}
    draft = ManifestDraft(description, {"action": "build", "rows": args.shards}, [])
    write_manifest(folder, [Shard(folder, 1, one.names, one.hashes) for one in records], draft)
    database, _, kept = measured(lambda: Database.open(folder))
    start = time.process_time()
    Database.open(folder)
    seconds = time.process_time() - start
    held, size = len(os.listdir("/proc/self/fd")), (folder / "manifest.json").stat().st_size
    print(f"a database of {len(database.shards)} shards: opened in {seconds:.2f} s, {kept / 1e6:.1f} MB")
    print(f"{held} open files, a manifest of {size / 1e6:.1f} MB\n")


def no_work(number: int) -> int:
    """Returns the number of a part."""
    return number


def tasks(args: argparse.Namespace, _: Path) -> None:
    """Prints the time that Dask takes for a part beside the work in it."""
    made = DaskRunner(workers=2).run(no_work, range(args.tasks))
    next(made)
    start = time.perf_counter()
    count = sum(1 for _ in made)
    seconds = time.perf_counter() - start
    print(f"Dask, two workers: {1e3 * seconds / count:.2f} ms for a part without work, of {args.tasks}\n")


TABLES = {"sources": sources, "part": part, "shards": shards, "tasks": tasks}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=TABLES, help="print this table; repeatable")
    parser.add_argument("--images", type=int, default=50_000, help="of the sources")
    parser.add_argument("--part", type=int, default=2000, help="images of the part")
    parser.add_argument("--shards", type=int, default=4000, help="of the database")
    parser.add_argument("--tasks", type=int, default=5000, help="of Dask")
    args = parser.parse_args()
    print(f"{machine()}\n")
    for name in args.only or TABLES:
        with tempfile.TemporaryDirectory() as folder:
            TABLES[name](args, Path(folder))


if __name__ == "__main__":
    main()
