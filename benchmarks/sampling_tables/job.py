"""What all tables measure: a model with every network that guides evaluate, databases, images and masks."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.heads.base import Plan
from rdm_jax.models import build_noised_encoder
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Retriever
from rdm_jax.training.config import load_config

NOISED = "noised_clip", "noised_classifier"
CLASSES = {"class": [f"class {number}" for number in range(32)]}  # of a random classifier


@dataclasses.dataclass(frozen=True)
class Job:
    """What all tables generate.

    Attributes:
      generator: the model.
      retriever: of the database.
      other: of another database.
      folder: holds the images "one", "two" and "part" and the masks "left" and "top".
      random_parts: the parts with random parameters, which the model itself lacks.
      prompt: of all images.
      num_images: generated at once.
      steps: of the samplers.
      rounds: how often everything is timed.
      cases: the names of the `cases` to measure; all if empty.
      compiled: whether torch.compile is measured too.
      loading: the seconds to load the model and its database.
    """

    generator: Generator
    retriever: Retriever
    other: Retriever
    folder: Path
    random_parts: tuple[str, ...]
    prompt: str
    num_images: int
    steps: int
    rounds: int
    cases: tuple[str, ...]
    compiled: bool
    loading: float

    def plan(self, **options: Any) -> Plan:
        """Returns the plan of the job's images, all in one batch."""
        chosen = {"database": self.retriever, "num_images": self.num_images, "steps": self.steps, **options}
        prompt = chosen.pop("prompt", self.prompt)
        return self.generator.plan(prompt, batch_size=chosen["num_images"], **chosen)

    def file(self, name: str) -> str:
        """Returns the path of an image or a mask."""
        return str(self.folder / f"{name}.png")


class WrappedPrograms(dict[Hashable, Any]):
    """The programs of a generator, each wrapped when it is read; new ones are stored in the generator's own table."""

    def __init__(self, programs: dict[Hashable, Any], wrap: Callable[[Any], Any]) -> None:
        super().__init__()
        self.programs, self.wrap = programs, wrap

    def __contains__(self, shape: object) -> bool:
        return shape in self.programs

    def __setitem__(self, shape: Hashable, program: Any) -> None:
        self.programs[shape] = program

    def __getitem__(self, shape: Hashable) -> Any:
        return self.wrap(self.programs[shape])


def wrapped(generator: Generator, wrap: Callable[[Any], Any]) -> Generator:
    """Returns a generator that generates with wrapped programs; both generators share what is compiled."""
    return dataclasses.replace(generator, programs=WrappedPrograms(generator.programs, wrap))


def open_job(args: argparse.Namespace, folder: Path) -> Job:
    """Returns the job that the command line describes, and writes its images and masks into a folder.

    Raises:
      UserError: a model or a database cannot be opened, or the model is no diffusion model.
    """
    begin = time.perf_counter()
    dtype = args.dtype or ("bfloat16" if jax.default_backend() == "gpu" else "float32")
    bundle, random_parts = Bundle.open(args.model, dtype=dtype), ()
    if bundle.config.get("head") != "diffusion":
        raise UserError(f"model {bundle.name!r} is no diffusion model; choose another --model")
    if set(args.only) & {"guides", "compilations"}:
        bundle, random_parts = with_noised_networks(bundle)
    generator = Generator.load(bundle)
    retriever = Retriever(generator.encoder, [Database.open(args.database)])
    loading = time.perf_counter() - begin
    sampling = bundle.config["sampling"]
    write_images(folder, sampling["height"], sampling["width"])
    return Job(
        generator=generator,
        retriever=retriever,
        other=Retriever(generator.encoder, [Database.open(args.other)]),
        folder=folder,
        random_parts=random_parts,
        prompt=args.prompt,
        num_images=args.num_images,
        steps=args.steps,
        rounds=args.repeats,
        cases=tuple(args.case),
        compiled=not args.no_compile,
        loading=loading,
    )


def with_noised_networks(bundle: Bundle) -> tuple[Bundle, tuple[str, ...]]:
    """Returns the model with both networks of noisy latents, and the names of those that it lacked.

    The latter get random parameters, at the size that their configuration has: they take the same time.
    """
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


def write_images(folder: Path, height: int, width: int) -> None:
    """Writes two images, the left half of one, and masks that are white in their left and their upper half."""
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    halves = {"left": columns < columns.max() / 2, "top": rows < rows.max() / 2}
    pixels = {name: np.repeat(half[..., None], 3, axis=-1) for name, half in halves.items()}
    pixels |= {"one": np.stack([rows, columns, 1.0 - rows], axis=-1), "two": np.stack([1.0 - columns] * 3, axis=-1)}
    pixels["part"] = pixels["one"][:, : width // 2]
    for name, values in pixels.items():
        (folder / f"{name}.png").write_bytes(images.encode((255 * values).astype(np.uint8)))
