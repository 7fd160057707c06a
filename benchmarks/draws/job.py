"""What is drawn for measuring: a model with every network that guides read, a database, pictures and masks."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rdm_jax.program import Program, Shape
from rdm_jax.run import Plan

from rdm_jax.bundle import Bundle
from rdm_jax.core import images
from rdm_jax.generator import Generator
from rdm_jax.models import build_noised_encoder
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Retriever
from rdm_jax.training.config import load_config

NOISED = "noised_clip", "noised_classifier"
CLASSES = {"class": [f"class {number}" for number in range(32)]}  # of a random classifier


@dataclasses.dataclass(frozen=True)
class Job:
    """What all tables draw.

    Attributes:
      generator: the model.
      retriever: of the database.
      other: of another database.
      folder: where pictures and masks are: one, two, part, left, top.
      made: the model's parts that are random, for it has none of its own.
      prompt: what is drawn.
      num_images: pictures at once.
      steps: of the samplers.
      rounds: how often everything is timed.
      ways: the names of the `cases` to measure; all if empty.
      compiled: whether PyTorch is compiled too.
      loading: the seconds until the model and its database were there.
    """

    generator: Generator
    retriever: Retriever
    other: Retriever
    folder: Path
    made: tuple[str, ...]
    prompt: str
    num_images: int
    steps: int
    rounds: int
    ways: tuple[str, ...]
    compiled: bool
    loading: float

    def plan(self, **options: Any) -> Plan:
        """Returns the plan of the job's pictures, all in one batch."""
        given = {"database": self.retriever, "num_images": self.num_images, "steps": self.steps, **options}
        prompt = given.pop("prompt", self.prompt)
        return self.generator.plan(prompt, batch_size=given["num_images"], **given)

    def file(self, name: str) -> str:
        """Returns the path of a picture or a mask."""
        return str(self.folder / f"{name}.png")


class Wrapped(dict[Shape, Program]):
    """The compiled programs of a generator, each handed out changed; new ones go to the generator's own."""

    def __init__(self, programs: dict[Shape, Program], wrap: Callable[[Program], Program]) -> None:
        super().__init__()
        self.programs, self.wrap = programs, wrap

    def __contains__(self, shape: object) -> bool:
        return shape in self.programs

    def __setitem__(self, shape: Shape, program: Program) -> None:
        self.programs[shape] = program

    def __getitem__(self, shape: Shape) -> Program:
        return self.wrap(self.programs[shape])


def wrapped(generator: Generator, wrap: Callable[[Program], Program]) -> Generator:
    """Returns a generator that draws with changed programs and compiles for the one it is made of."""
    return dataclasses.replace(generator, programs=Wrapped(generator.programs, wrap))


def open_job(args: argparse.Namespace, folder: Path) -> Job:
    """Returns the job that the command line asks for; pictures and masks are written into a folder."""
    begin = time.perf_counter()
    dtype = args.dtype or ("bfloat16" if jax.default_backend() == "gpu" else "float32")
    bundle, made = Bundle.open(args.model, dtype=dtype), ()
    if set(args.only) & {"guides", "compilations"}:
        bundle, made = with_noised(bundle)
    generator = Generator.load(bundle)
    first = Retriever(generator.encoder, [Database.open(args.database)])
    loading = time.perf_counter() - begin
    settings = bundle.config["sampling"]
    write_pictures(folder, settings["height"], settings["width"])
    return Job(
        generator=generator,
        retriever=first,
        other=Retriever(generator.encoder, [Database.open(args.other)]),
        folder=folder,
        made=made,
        prompt=args.prompt,
        num_images=args.num_images,
        steps=args.steps,
        rounds=args.repeats,
        ways=tuple(args.way),
        compiled=not args.no_compile,
        loading=loading,
    )


def with_noised(bundle: Bundle) -> tuple[Bundle, tuple[str, ...]]:
    """Returns the model with both networks of noisy latents, and those that it lacked: they are random here."""
    missing = tuple(part for part in NOISED if not bundle.has(part))
    config, params = dict(bundle.config), dict(bundle.params)
    side = config["sampling"]["height"] // bundle.autoencoder.downsampling
    for part in missing:
        settings = load_config(part).model.to_dict()
        settings.pop("dropout", None)
        features = config["clip"]["embed_dim"] if part == "noised_clip" else len(CLASSES["class"])
        settings |= {"in_channels": config["denoiser"]["in_channels"], "features": features, "latent_size": side}
        module = build_noised_encoder(settings)
        x = jnp.zeros((1, side, side, settings["in_channels"]))
        params[part] = module.init(jax.random.key(0), x, jnp.zeros(1))["params"]
        config[part] = settings | ({"classes": CLASSES} if part == "noised_classifier" else {})
    return dataclasses.replace(bundle, config=config, params=params), missing


def write_pictures(folder: Path, height: int, width: int) -> None:
    """Writes two pictures, the left half of one, and masks that are white in their left and their upper half."""
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    halves = {"left": columns < columns.max() / 2, "top": rows < rows.max() / 2}
    told = {name: np.repeat(half[..., None], 3, axis=-1) for name, half in halves.items()}
    told |= {"one": np.stack([rows, columns, 1.0 - rows], axis=-1), "two": np.stack([1.0 - columns] * 3, axis=-1)}
    told["part"] = told["one"][:, : width // 2]
    for name, values in told.items():
        (folder / f"{name}.png").write_bytes(images.encode((255 * values).astype(np.uint8)))
