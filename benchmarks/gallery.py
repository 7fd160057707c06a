"""A gallery of what bends a run: for each method its inputs, the unguided pictures and the result, same seeds.

python benchmarks/gallery.py --out docs/images/guidance

Writes guides.png, conditions.png and editing.png, and the inputs that the sheets show to inputs/.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rdm_jax.cli.progress import Progress, note
from rdm_jax.conditioning import Mix, Switch
from rdm_jax.core import images, sheets
from rdm_jax.editing.inversion import invert
from rdm_jax.editing.mixing import learn
from rdm_jax.generator import Generator
from rdm_jax.guidance import Inpaint, Project
from rdm_jax.retrieval.database import Database

STEPS = {"sampler": "ddim", "steps": 25}
SEED = 5
SIZE = 64


@dataclasses.dataclass(frozen=True)
class Row:
    """A method in the gallery.

    Attributes:
      label: what the sheet says of it.
      prompt: what both are drawn from.
      plain: how the pictures beside it are drawn, by the names of `Generator.plan`.
      bent: what comes to that.
      inputs: the names of the pictures that it takes.
    """

    label: str
    prompt: str
    plain: Mapping[str, Any]
    bent: Mapping[str, Any]
    inputs: tuple[str, ...] = ()


def prepare(generator: Generator, folder: Path) -> dict[str, str]:
    """Writes the pictures that methods take, and returns their places by name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}

    def keep(name: str, pixels: np.ndarray) -> None:
        """Writes one picture."""
        files[name] = str(folder / f"{name}.png")
        Image.fromarray(pixels).save(files[name])

    neon, poster = Database.open("neon"), Database.open("poster")
    keep("neon", images.resize_and_crop(neon.thumbnails(np.array([3]))[0], SIZE))
    keep("house", images.resize_and_crop(poster.thumbnails(np.array([rows_of(poster, "house")[0]]))[0], SIZE))
    options = {"database": "poster", "seed": 11, **STEPS}
    keep("boat", generator.sample("a red boat", **options).images[0])
    for name, box in (("hole", (34, 0, 63, 42)), ("left", (0, 0, 31, 63))):
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).rectangle(box, fill=255)
        keep(name, np.repeat(np.asarray(mask)[..., None], 3, axis=-1))
    return files


def rows_of(database: Database, subject: str) -> list[int]:
    """Returns the rows of a database that show a subject."""
    items = database.items(np.arange(len(database)))
    return [row for row, item in enumerate(items) if item["attributes"].get("subject") == subject]


def guides(files: Mapping[str, str]) -> list[Row]:
    """Returns the rows of guides.png."""
    general, poster = {"database": "general"}, {"database": "poster"}
    free = {"database": "general", "guidance_scale": 0.0}

    def guided(*calls: str) -> dict[str, Any]:
        """Returns the options of some guides."""
        return {"guides": [call.format(**files) for call in calls]}

    return [
        Row("sdg(text='a blue cat')", "a red boat", free, guided("sdg(text='a blue cat', weight=100)")),
        Row("sdg(content=...)", "a red boat", free, guided("sdg(content='{house}', weight=300)"), ("house",)),
        Row(
            "sdg(content=..., structure=...)",
            "a red boat",
            free,
            guided("sdg(content='{house}', structure='{house}', weight=200)"),
            ("house",),
        ),
        Row("sdg(style=...)", "a red boat", general, guided("sdg(style='{neon}', weight=100)"), ("neon",)),
        Row(
            "classifier(style: neon)",
            "a red boat",
            general,
            guided("classifier(attribute='style', label='neon', weight=30)"),
        ),
        Row("clip(text='a blue cat')", "a red boat", free, guided("clip(text='a blue cat', weight=600)")),
        Row("ilvr(image=..., factor=4)", "a blue cat", poster, guided("ilvr(image='{house}', factor=4)"), ("house",)),
        Row(
            "guidance 20, and threshold(bound=3)",
            "a blue cat",
            {"database": "watercolour", "guidance_scale": 20.0},
            guided("threshold(bound=3)"),
        ),
    ]


def conditions(files: Mapping[str, str]) -> list[Row]:
    """Returns the rows of conditions.png."""
    poster, both = {"database": "poster"}, {"condition": "text+neighbors"}

    def shown(*calls: str) -> dict[str, Any]:
        """Returns the options of some conditions."""
        return {"conditions": [call.format(**files) for call in calls]}

    boat = "a red boat"
    return [
        Row("region(mask, database='neon')", boat, poster, shown("region(mask='{left}', database='neon')"), ("left",)),
        Row(
            "region(mask, prompt='a green tree')",
            boat,
            poster,
            shown("region(mask='{left}', prompt='a green tree')"),
            ("left",),
        ),
        Row("interpolate(database='neon')", boat, poster, shown("interpolate(database='neon', share=0.5)")),
        Row("interpolate(prompt='a blue boat')", boat, poster, shown("interpolate(prompt='a blue boat', share=0.5)")),
        Row(
            "'a red cat' + 'a blue boat' - 'a red boat', by add",
            "a red cat",
            poster,
            shown("add(prompt='a blue boat', weight=1)", "add(prompt='a red boat', weight=-1)"),
        ),
        Row("also(database='mosaic', scale=2)", boat, poster, shown("also(database='mosaic', scale=2)")),
        Row("negative(database='poster')", boat, {"database": "watercolour"}, shown("negative(database='poster')")),
        Row(
            "interleave(query_scale=1, neighbor_scale=4)",
            boat,
            {**poster, **both},
            shown("interleave(query_scale=1, neighbor_scale=4)"),
        ),
        Row(
            "weights(of_query=8, of_neighbors=0.05)",
            "a red boat, watercolour",
            {"database": "mosaic", **both},
            shown("weights(of_query=8, of_neighbors=0.05)"),
        ),
        Row("switch(database='mosaic', after=0.2)", boat, poster, shown("switch(database='mosaic', after=0.2)")),
    ]


def editing(generator: Generator, files: dict[str, str], folder: Path) -> list[Row]:
    """Returns the rows of editing.png; inverts a picture and learns weights for them first."""
    ddim = {"sampler": "ddim", "steps": 25, "guidance_scale": 1.0}
    inverted = invert(generator, generator.plan("a red boat", database="poster", init=files["boat"], **ddim))
    note(f"inversion: latents come back to {inverted.latent_error:.1e} of their size")
    np.save(folder / "noise.npy", inverted.noise)
    poster = {"database": "poster"}
    weights = {}
    for name, other in (("colour", {"prompt": "a blue boat"}), ("style", {"database": "watercolour"})):
        options = {"num_images": 4, "batch_size": 4, "seed": 100, **poster, **STEPS}
        plan = generator.plan("a red boat", conditions=[Switch(**other, after=0.4)], **options)
        with Progress(f"learning {name}", unit="update") as progress:
            learned = learn(generator, plan, progress=progress)
        note(f"{name}: loss {learned.losses[0]:.3f} to {learned.losses[-1]:.3f}")
        weights[name] = folder / f"{name}.json"
        weights[name].write_text(str([round(float(one), 4) for one in learned.weights]) + "\n")
    boat, blue = "a red boat", "a blue boat"
    start = {"init": files["boat"], "strength": 0.6}
    hole = {"guides": [Inpaint(image=files["boat"], mask=files["hole"])]}
    known = {"guides": [Project(image=files["boat"], mask=files["hole"])]}
    noise = {**poster, **ddim, "init": str(folder / "noise.npy")}
    return [
        Row("img2img, database neon", boat, {"database": "neon"}, start, ("boat",)),
        Row("inpaint (blending)", boat, poster, hole, ("boat", "hole")),
        Row("inpaint (projection)", boat, poster, known, ("boat", "hole")),
        Row("invert, then 'a blue boat'", boat, noise, {**noise, "prompt": blue}, ("boat",)),
        Row(
            "switch(prompt='a blue boat', after=0.2)",
            boat,
            poster,
            {"conditions": [Switch(prompt=blue, after=0.2)]},
        ),
        Row(
            f"mix: the colour, as {STEPS['steps']} learned numbers, other seeds",
            boat,
            poster,
            {"conditions": [Mix(prompt=blue, weights=str(weights["colour"]))]},
        ),
        Row(
            f"mix: the style, as {STEPS['steps']} learned numbers, another prompt",
            "a blue cat",
            poster,
            {"conditions": [Mix(database="watercolour", weights=str(weights["style"]))]},
        ),
    ]


def sheet(generator: Generator, rows: Sequence[Row], files: Mapping[str, str], title: str) -> np.ndarray:
    """Returns a sheet with a row for each method."""
    cells = []
    with Progress(title, unit="row") as progress:
        for number, row in enumerate(rows):
            options = {"num_images": 2, "batch_size": 2, "seed": SEED, **STEPS}
            plain = generator.sample(row.prompt, **{**options, **row.plain})
            bent = {**options, **row.plain, **row.bent}
            result = generator.sample(bent.pop("prompt", row.prompt), **bent)
            inputs = [np.asarray(Image.open(files[name]).convert("RGB")) for name in row.inputs]
            blanks = [sheets.blank(SIZE, SIZE)] * (2 - len(inputs))
            cells.append(np.stack([*inputs, *blanks, *plain.images, *result.images]))
            progress(number + 1, len(rows))
    columns = ["input", "", "without", "", "with", ""]
    return sheets.grid(np.stack(cells), [row.label for row in rows], columns, title=title, zoom=2)


def main() -> int:
    """Draws the three sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/gallery"))
    parser.add_argument("--model", default="style-scenes")
    parser.add_argument("--only", choices=("guides", "conditions", "editing"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    generator, folder = Generator.load(args.model), args.out / "inputs"
    files = prepare(generator, folder)
    made: dict[str, Callable[[], list[Row]]] = {
        "guides": lambda: guides(files),
        "conditions": lambda: conditions(files),
        "editing": lambda: editing(generator, files, folder),
    }
    for name, rows in made.items():
        if args.only in (None, name):
            Image.fromarray(sheet(generator, rows(), files, name)).save(args.out / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
