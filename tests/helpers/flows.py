"""Follows a prompt, a batch and a row of a database through the package: the modules whose code each runs.

python -m tests.helpers.flows
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from rdm_jax.bundle import Bundle
from rdm_jax.core.mesh import batch_sharding, make_mesh, put_batch, put_whole
from rdm_jax.data.sources import open_source
from rdm_jax.generator import Generator
from rdm_jax.retrieval.build import BuildJob, build_database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import load_config
from rdm_jax.training.loop import make_on
from tests.helpers import tiny_diffusion
from tests.helpers.import_graph import FILES, module_name, top_level


@contextlib.contextmanager
def followed() -> Iterator[list[str]]:
    """Yields a list that gets the modules of the package whose functions are called, in the order of first calls.

    All modules are imported before, for their classes and tables not to count.
    """
    names = {str(file): module_name(file) for file in FILES}
    for file, name in names.items():
        if top_level(Path(file)) not in ("studio", "__main__") and not name.endswith("__main__"):
            importlib.import_module(name)
    modules: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (name := names.get(frame.f_code.co_filename)):
            modules.setdefault(name)

    order: list[str] = []
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield order
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        order += modules


def prompt(root: Path) -> list[str]:
    """Returns the modules between a prompt and its image, with neighbors from a database."""
    generator = Generator.load(root / "base")
    with followed() as modules:
        generator.sample("a red boat", database=root / "database", num_images=1, steps=2)
    return modules


def batch(root: Path) -> list[str]:
    """Returns the modules between the stored latents of images and the changed parameters of a diffusion model."""
    from rdm_jax.data.batches import training_batches
    from rdm_jax.training.tasks import diffusion

    config = load_config(tiny_diffusion.CONFIG, tiny_diffusion.overrides(root))
    task = diffusion.make(config, root, lambda *_: None)
    mesh = make_mesh(config.mesh.fsdp)
    with followed() as modules:
        batches = training_batches(task.read, task.size, config.batch_size, config.seed, config.threads, task.complete)
        state, step = make_on(mesh, config, task)
        step(state, put_whole(task.frozen, mesh), put_batch(next(batches), batch_sharding(mesh)))
    return modules


def row(root: Path) -> list[str]:
    """Returns the modules between a file of an image and its row in a database."""
    source, encoder = open_source(str(root / "images")), ClipEncoder(Bundle.open(root / "base"))
    with followed() as modules:
        build_database(BuildJob.of(source, encoder), root / "again")
    return modules


FLOWS: Mapping[str, Callable[[Path], list[str]]] = {"prompt": prompt, "batch": batch, "row": row}


def main() -> None:
    """Prints the modules of each flow."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_diffusion.write(Path(folder))
        for name, flow in FLOWS.items():
            modules = flow(Path(folder))
            print(f"{name}: {len(modules)} modules")
            print("".join(f"  {module}\n" for module in modules))


if __name__ == "__main__":
    main()
