"""What the documentation's commands find: tiny models and databases under the names that ship, files, and results.

`python -m tests.helpers.stand_ins FOLDER CODE` runs Python code with those of a folder that `write_embedded` wrote.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from rdm_jax import bundle as bundles
from rdm_jax.bundle import Bundle
from rdm_jax.heads.diffusion.few_steps import Distilled
from rdm_jax.retrieval import database as databases
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import encoders, fine, frido, guided, masked, tiny

SIDE = 16
NEIGHBORS = {"condition": "text+neighbors", "database": "general"}
SAMPLING = {**tiny.CONFIG["sampling"], **NEIGHBORS}
CONDITIONING = {**tiny.CONFIG["conditioning"], "neighbors": 3}


def _with(model: Bundle, name: str, **changes: Any) -> Bundle:
    return Bundle({**model.config, "name": name, **changes}, model.params, model.tokenizer)


def diffusion(name: str = "style-scenes") -> Bundle:
    """Returns the tiny diffusion model, with the noised networks of guides."""
    return _with(guided.bundle(), name, sampling=SAMPLING, conditioning=CONDITIONING)


def few_steps(name: str = "style-scenes-fast") -> Bundle:
    """Returns a model that says that it was distilled from the tiny diffusion model."""
    made = Distilled(
        teacher="style-scenes", method="progressive", sampler="ddim", spacing="trailing", steps=2, guidance_scale=2.0
    )
    sampling = {**SAMPLING, "spacing": "trailing", "steps": 2, "guidance_scale": 1.0}
    return _with(diffusion(), name, sampling=sampling, distillation=made.section())


def codes(name: str = "masked") -> Bundle:
    """Returns the tiny model of masked codes."""
    model = masked.bundle()
    return _with(model, name, sampling={**model.config["sampling"], **NEIGHBORS})


def fine_codes(name: str = "masked-fine") -> Bundle:
    """Returns the tiny model of two stages of masked codes."""
    model = fine.bundle()
    return _with(model, name, sampling={**model.config["sampling"], **NEIGHBORS})


def several_encoders(name: str = "encoders") -> Bundle:
    """Returns the tiny model of all encoders."""
    return _with(encoders.bundle(), name, sampling=SAMPLING)


def autoregressive(name: str = "style-scenes-rarm") -> Bundle:
    """Returns a tiny model that generates code after code."""
    model, count = masked.bundle(), {"num_codes": 300}
    config = {
        **model.config,
        "name": name,
        "head": "autoregressive",
        "autoencoder": {**model.config["autoencoder"], **count},
        "transformer": {**model.config["transformer"], **count, "causal": True},
        "sampling": {**NEIGHBORS, "height": SIDE, "width": SIDE, "top_k": 0},
    }
    own = {part: tiny.random_params(config, part) for part in ("autoencoder", "transformer")}
    params = {**model.params, **own}
    return Bundle(config, params, model.tokenizer)


def roles(name: str = "icons") -> Bundle:
    """Returns the tiny model of style and content neighbors."""
    return _with(tiny.bundle_with_roles(), name)


def scales(name: str = "frido") -> Bundle:
    """Returns the tiny model of two scales."""
    return frido.bundle(name=name)


EMBEDDED = {
    "icons": roles,
    "style-scenes": diffusion,
    "style-scenes-fast": few_steps,
    "style-scenes-rarm": autoregressive,
}


def write_embedded(folder: Path) -> None:
    """Writes models/ and databases/, with a tiny one under each name that ships."""
    encoders = {name: Database.open(name).encoder["name"] for name in Database.names()}
    for name, make in EMBEDDED.items():
        make().save(folder / "models" / name, "float32")
    for seed, (name, model) in enumerate(encoders.items()):
        encoder = ClipEncoder(Bundle.open(folder / "models" / model), batch_size=32)
        job = BuildJob.of(guided.Scenes(32, seed), encoder, BuildOptions(name=name))
        build_database(job, folder / "databases" / name)


def folders(embedded: Path) -> list[tuple[ModuleType, Path]]:
    """Returns each module that has a constant EMBEDDED, the folder of what ships, and the folder to take instead."""
    return [(bundles, embedded / "models"), (databases, embedded / "databases")]


def image(file: Path, size: int = SIDE, seed: int = 0, mode: str = "RGB") -> None:
    """Writes an image of a few colors."""
    colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors).resize((size, size), Image.Resampling.NEAREST).convert(mode).save(file)


def mask(file: Path, size: int = SIDE) -> None:
    """Writes an image whose left half is white."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[:, : size // 2] = 255
    Image.fromarray(pixels).save(file)


def images(folder: Path, count: int = 24, seed: int = 0) -> None:
    """Writes a folder of images with captions, an artist and a license in its metadata.jsonl."""
    rows = []
    for i in range(count):
        name = f"{('harbor', 'town')[i % 2]}/{i:02d}.png"
        image(folder / name, seed=100 * seed + i)
        artist = "Jane Doe" if i % 4 == 0 else "John Roe"
        rows.append({"file_name": name, "text": f"a boat {i}", "artist": artist, "licence": "CC0", "style": "neon"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def zipped(file: Path) -> None:
    """Writes a zip of a folder of images."""
    with tempfile.TemporaryDirectory() as place:
        images(Path(place) / file.stem)
        shutil.make_archive(str(file.with_suffix("")), "zip", place)


def icons(folder: Path) -> None:
    """Writes a folder of SVG files of one color."""
    folder.mkdir(parents=True)
    for i in range(6):
        shape = f'<circle cx="12" cy="12" r="{4 + i}" fill="currentColor"/>'
        text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">{shape}</svg>'
        (folder / f"disk-{i}.svg").write_text(text)


def lines(*texts: str) -> Callable[[Path], None]:
    """Returns what writes a text file."""
    return lambda file: file.write_text("\n".join(texts) + "\n", encoding="utf-8") and None


@functools.cache
def _saved(make: Callable[[], Bundle]) -> Path:
    place = Path(tempfile.mkdtemp()) / "model"
    make().save(place, "float32")
    return place


def model(make: Callable[[], Bundle]) -> Callable[[Path], None]:
    """Returns what writes a model."""
    return lambda folder: shutil.copytree(_saved(make), folder) and None


def weights(folder: Path) -> str:
    """Returns what identifies the configuration and the weights of a bundle on disk."""
    return (folder / "config.json").read_text(encoding="utf-8")


if __name__ == "__main__":
    for module, folder in folders(Path(sys.argv[1])):
        setattr(module, "EMBEDDED", folder)  # noqa: B010  (a constant)
    exec(sys.argv[2], {"__name__": "block"})
