"""A gallery of guides, conditioners and edits: for each its input images, and samples without and with it, same seeds.

python benchmarks/gallery.py --out docs/images/guidance

Writes guides.png, conditions.png and editing.png, and the input images to inputs/.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rdm_jax import conditioning, guidance
from rdm_jax.cli.progress import Progress, note
from rdm_jax.core import images, sheets
from rdm_jax.editing.inversion import invert
from rdm_jax.editing.mixing import learn
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database

STEPS = {"sampler": "ddim(spacing='compvis')", "steps": 25}
SEED = 5
SIZE = 64


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the gallery.

    Attributes:
      label: of the row.
      prompt: of all its samples.
      base: the options of `Generator.plan` for the samples without the method.
      method: the options that the method adds; they may replace the prompt.
      inputs: the names of its input images.
    """

    label: str
    prompt: str
    base: Mapping[str, Any]
    method: Mapping[str, Any]
    inputs: tuple[str, ...] = ()


def prepare(generator: Generator, folder: Path) -> dict[str, str]:
    """Writes the input images of all methods, and returns their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}

    def write(name: str, pixels: np.ndarray) -> None:
        """Writes one image."""
        files[name] = str(folder / f"{name}.png")
        Image.fromarray(pixels).save(files[name])

    neon, poster = Database.open("neon"), Database.open("poster")
    write("neon", images.resize_and_crop(neon.thumbnails(np.array([3]))[0], SIZE))
    write("house", images.resize_and_crop(poster.thumbnails(np.array([rows_of(poster, "house")[0]]))[0], SIZE))
    options = {"database": "poster", "seed": 11, **STEPS}
    write("boat", generator.sample("a red boat", **options).images[0])
    for name, (left, top, right, bottom) in (("hole", (34, 0, 64, 43)), ("left", (0, 0, 32, 64))):
        mask = np.zeros((SIZE, SIZE, 3), np.uint8)
        mask[top:bottom, left:right] = 255
        write(name, mask)
    return files


def rows_of(database: Database, subject: str) -> list[int]:
    """Returns the rows of a database that show a subject."""
    items = database.items(np.arange(len(database)))
    return [row for row, item in enumerate(items) if item["attributes"].get("subject") == subject]


def guides(files: Mapping[str, str]) -> list[Row]:
    """Returns the rows of guides.png."""
    general, poster = {"database": "general"}, {"database": "poster"}
    unconditional = {"database": "general", "guidance_scale": 0.0}  # so that the guide alone decides what is shown
    house, boat, cat = files["house"], "a red boat", "a blue cat"

    def by(method: guidance.GuidanceMethod) -> dict[str, Any]:
        """Returns the options of one guide."""
        return {"guides": [method]}

    structured = guidance.SDG(content=house, structure=house, weight=200)
    return [
        Row("sdg(text='a blue cat')", boat, unconditional, by(guidance.SDG(text=cat, weight=100))),
        Row("sdg(content=...)", boat, unconditional, by(guidance.SDG(content=house, weight=300)), ("house",)),
        Row("sdg(content=..., structure=...)", boat, unconditional, by(structured), ("house",)),
        Row("sdg(style=...)", boat, general, by(guidance.SDG(style=files["neon"], weight=100)), ("neon",)),
        Row(
            "classifier(style: neon)",
            boat,
            general,
            by(guidance.ClassifierGuidance(attribute="style", label="neon", weight=30)),
        ),
        Row("clip(text='a blue cat')", boat, unconditional, by(guidance.CLIPGuidance(text=cat, weight=600))),
        Row("ilvr(image=..., factor=4)", cat, poster, by(guidance.ILVR(image=house, factor=4)), ("house",)),
        Row(
            "guidance 20, and threshold(bound=3)",
            cat,
            {"database": "watercolour", "guidance_scale": 20.0},
            by(guidance.Threshold(bound=3)),
        ),
    ]


def conditions(files: Mapping[str, str]) -> list[Row]:
    """Returns the rows of conditions.png."""
    poster, both, boat = {"database": "poster"}, {"condition": "text+neighbors"}, "a red boat"
    left, blue = files["left"], "a blue boat"

    def by(*conditioners: conditioning.Conditioner) -> dict[str, Any]:
        """Returns the options of some conditioners."""
        return {"conditions": list(conditioners)}

    tree = by(conditioning.Region(mask=left, prompt="a green tree"))
    difference = by(conditioning.Add(prompt=blue, weight=1), conditioning.Add(prompt=boat, weight=-1))
    interleave = by(conditioning.Interleave(query_scale=1, neighbor_scale=4))
    weights = by(conditioning.Weights(of_query=8, of_neighbors=0.05))
    return [
        Row(
            "region(mask, database='neon')",
            boat,
            poster,
            by(conditioning.Region(mask=left, database="neon")),
            ("left",),
        ),
        Row("region(mask, prompt='a green tree')", boat, poster, tree, ("left",)),
        Row("interpolate(database='neon')", boat, poster, by(conditioning.Interpolate(database="neon", share=0.5))),
        Row("interpolate(prompt='a blue boat')", boat, poster, by(conditioning.Interpolate(prompt=blue, share=0.5))),
        Row("'a red cat' + 'a blue boat' - 'a red boat', by add", "a red cat", poster, difference),
        Row("also(database='mosaic', scale=2)", boat, poster, by(conditioning.Also(database="mosaic", scale=2))),
        Row(
            "negative(database='poster')",
            boat,
            {"database": "watercolour"},
            by(conditioning.Negative(database="poster")),
        ),
        Row("interleave(query_scale=1, neighbor_scale=4)", boat, {**poster, **both}, interleave),
        Row(
            "weights(of_query=8, of_neighbors=0.05)",
            "a red boat, watercolour",
            {"database": "mosaic", **both},
            weights,
        ),
        Row(
            "switch(database='mosaic', after=0.2)",
            boat,
            poster,
            by(conditioning.Switch(database="mosaic", after=0.2)),
        ),
    ]


def editing(generator: Generator, files: dict[str, str], folder: Path) -> list[Row]:
    """Returns the rows of editing.png; inverts an image and learns mixing weights for them first."""
    poster, boat, blue = {"database": "poster"}, "a red boat", "a blue boat"
    ddim = {**STEPS, "guidance_scale": 1.0}
    inverted = invert(generator, generator.plan(boat, init=files["boat"], **poster, **ddim))
    note(f"inversion: relative error of the latents {inverted.latent_error:.1e}")
    noise = folder / "noise.npy"
    np.save(noise, inverted.noise)
    color = _learn(generator, folder / "colour.json", conditioning.Switch(prompt=blue, after=0.4))
    style = _learn(generator, folder / "style.json", conditioning.Switch(database="watercolour", after=0.4))
    hole = {"image": files["boat"], "mask": files["hole"]}
    from_noise = {**poster, **ddim, "init": str(noise)}
    edited = {**from_noise, "prompt": blue}
    return [
        Row("img2img, database neon", boat, {"database": "neon"}, {"init": files["boat"], "strength": 0.6}, ("boat",)),
        Row("inpaint (blending)", boat, poster, {"guides": [guidance.Inpaint(**hole)]}, ("boat", "hole")),
        Row("inpaint (projection)", boat, poster, {"guides": [guidance.Project(**hole)]}, ("boat", "hole")),
        Row("invert, then 'a blue boat'", boat, from_noise, edited, ("boat",)),
        Row(
            "switch(prompt='a blue boat', after=0.2)",
            boat,
            poster,
            {"conditions": [conditioning.Switch(prompt=blue, after=0.2)]},
        ),
        Row(
            f"mix: the color, as {STEPS['steps']} learned numbers, other seeds",
            boat,
            poster,
            {"conditions": [conditioning.Mix(prompt=blue, weights=color)]},
        ),
        Row(
            f"mix: the style, as {STEPS['steps']} learned numbers, another prompt",
            "a blue cat",
            poster,
            {"conditions": [conditioning.Mix(database="watercolour", weights=style)]},
        ),
    ]


def _learn(generator: Generator, file: Path, switch: conditioning.Switch) -> str:
    """Learns mixing weights between a red boat of the posters and another condition; returns the file of them."""
    options = {"database": "poster", "num_images": 4, "batch_size": 4, "seed": 100, **STEPS}
    plan = generator.plan("a red boat", conditions=[switch], **options)
    with Progress(f"learning {file.stem}", unit="update") as progress:
        learned = learn(generator, plan, progress=progress)
    note(f"{file.stem}: loss {learned.losses[0]:.3f} to {learned.losses[-1]:.3f}")
    file.write_text(str([round(float(weight), 4) for weight in learned.weights]) + "\n")
    return str(file)


def sheet(generator: Generator, rows: Sequence[Row], files: Mapping[str, str], title: str) -> np.ndarray:
    """Returns the figure: input images, samples without and samples with the method in each row."""
    cells = []
    with Progress(title, unit="row") as progress:
        for number, row in enumerate(rows):
            base = {"num_images": 2, "batch_size": 2, "seed": SEED, **STEPS, **row.base}
            method = {"prompt": row.prompt, **base, **row.method}
            without, result = generator.sample(row.prompt, **base), generator.sample(method.pop("prompt"), **method)
            inputs = [np.asarray(Image.open(files[name]).convert("RGB")) for name in row.inputs]
            blanks = [sheets.blank(SIZE, SIZE)] * (2 - len(inputs))
            cells.append(np.stack([*inputs, *blanks, *without.images, *result.images]))
            progress(number + 1, len(rows))
    columns = ["input", "", "without", "", "with", ""]
    return sheets.grid(np.stack(cells), [row.label for row in rows], columns, title=title, zoom=2)


def main() -> int:
    """Writes the three figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/gallery"))
    parser.add_argument("--model", default="style-scenes")
    parser.add_argument("--only", choices=("guides", "conditions", "editing"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    generator, folder = Generator.load(args.model), args.out / "inputs"
    files = prepare(generator, folder)
    figures: dict[str, Callable[[], list[Row]]] = {
        "guides": lambda: guides(files),
        "conditions": lambda: conditions(files),
        "editing": lambda: editing(generator, files, folder),
    }
    for name, rows in figures.items():
        if args.only in (None, name):
            Image.fromarray(sheet(generator, rows(), files, name)).save(args.out / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
