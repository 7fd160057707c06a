"""A released model at full size with random weights: seconds per step, memory and compilations of sampling.

python benchmarks/full_size.py --model rdm_768 --dtype bfloat16 --steps 4 --folder FOLDER   # needs 8 GB in FOLDER

An image is generated, then a second one with another prompt, database and seed, for which nothing may compile.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from conversion import Random
from machine import machine

from rdm_jax.bundle import SCHEMA, encoder_identity, read_config
from rdm_jax.convert.databases import import_database
from rdm_jax.convert.safetensors_file import write_safetensors
from rdm_jax.core import files, trees
from rdm_jax.data.tokenizer import train_tokenizer
from rdm_jax.generator import Generator
from rdm_jax.models import abstract_params
from rdm_jax.parts import PARTS, build
from rdm_jax.training.config import load_architecture

COMPILED = "/jax/core/compile/backend_compile_duration"
PROMPTS = "a red boat on the sea", "a painting of a blue tree"


class Scaled(Random):
    """Random weights of variance 1 / fan-in; scales of norms are about 1, biases about 0."""

    def read(self) -> np.ndarray:
        """Returns the numbers in half precision; the same name gives the same numbers."""
        leaf = self.name.rpartition("/")[2]
        fan_in = int(np.prod(self.shape[:-1])) if len(self.shape) > 1 else 100
        return np.asarray((leaf in ("scale", "var")) + super().read() / np.sqrt(fan_in), np.float16)


def bundle(config: dict[str, Any], folder: Path) -> Path:
    """Writes a bundle of random weights in half precision, one tensor after another."""
    out = folder / "model"
    out.mkdir()
    networks = {part: build(config, part) for part in PARTS if part in config}
    for part, network in networks.items():
        shapes = trees.flatten(abstract_params(network))
        tensors = {name: Scaled(name, leaf.shape, np.dtype(np.float16)) for name, leaf in shapes.items()}
        write_safetensors(out / f"{part}.safetensors", tensors)
    train_tokenizer(PROMPTS, 300, out / "tokenizer.json")
    hashes = {part: files.sha256(out / f"{part}.safetensors") for part in networks}
    hashes["tokenizer"] = files.sha256(out / "tokenizer.json")
    files.write_json(out / "config.json", {**config, "schema": SCHEMA, "sha256": hashes})
    return out


def databases(model: Path, folder: Path) -> list[Path | None]:
    """Writes two databases of random rows in the format of the original program, and imports them.

    For a model without a CLIP, whose condition is the text alone, both are None.
    """
    if "clip" not in read_config(model):
        return [None, None]
    identity, folders = encoder_identity(model), []
    for seed, name in enumerate(("one", "two")):
        rows = np.random.default_rng(seed).standard_normal((5000, identity["width"]), np.float32)
        source = folder / f"{name}.npz"
        np.savez(source, embedding=rows, img_id=np.arange(5000), patch_coords=np.zeros((5000, 4), np.int64))
        import_database(source, identity, folder / name)
        folders.append(folder / name)
    return folders


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(model: Path, rows: list[Path | None], args: argparse.Namespace) -> list[tuple[str, str]]:
    """Generates two images, and returns the rows of the table: (name, value)."""
    compilations: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == COMPILED:
            compilations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    begin = time.perf_counter()
    generator = Generator.load(model, args.dtype)
    table = [("loading, s", f"{time.perf_counter() - begin:.1f}"), ("memory after loading, GiB", f"{_peak():.2f}")]
    for number, (prompt, database) in enumerate(zip(PROMPTS, rows, strict=True)):
        before, moments = len(compilations), []
        begin = time.perf_counter()
        plan = generator.plan(prompt, database=database, steps=args.steps, seed=number)
        prepared = time.perf_counter()
        (result,) = generator.generate(plan, lambda *_, at=moments: at.append(time.perf_counter()))
        end = time.perf_counter()
        height, width = result.images.shape[1:3]
        which = ("first", "second")[number] + " image"
        table += [
            (f"{which}, {width}x{height}, s", f"{end - begin:.1f}"),
            (f"{which}: encoder and retrieval, s", f"{prepared - begin:.2f}"),
            (f"{which}: seconds per step", f"{(moments[-1] - moments[0]) / args.steps:.2f}"),
            (f"{which}: decoder, s", f"{end - moments[-1]:.1f}"),
            (f"{which}: compilations", f"{len(compilations) - before}, {sum(compilations[before:]):.0f} s"),
        ]
    return [*table, ("peak memory, GiB", f"{_peak():.2f}")]


def main() -> int:
    """Prints the table; the exit status is 1 if the second image compiled anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rdm_768", help="a file of configs/models (%(default)s)")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="for temporary files (default: the system's folder)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.folder, prefix="full-size-"))
    try:
        model = bundle(load_architecture(args.model).to_dict(), folder)
        table = measure(model, databases(model, folder), args)
    finally:
        shutil.rmtree(folder)
    print(f"{args.model}, {args.dtype}, {args.steps} steps; {machine()}; JAX {jax.__version__}\n")
    print("| | |\n|---|---|")
    print("\n".join(f"| {what} | {value} |" for what, value in table))
    return int(not dict(table)["second image: compilations"].startswith("0,"))


if __name__ == "__main__":
    sys.exit(main())
