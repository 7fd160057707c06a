"""One sheet of icons: rows are style databases beside four of their own icons, columns are words, nothing is selected.

python benchmarks/icon_sheet.py icons DATABASES --content DATABASES/icons --out icons.png

DATABASES is a folder of databases (`launch/icons.sh` builds them); the content database is no row.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rdm_jax.core import sheets
from rdm_jax.core.images import fit
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database

WORDS = (
    *("rocket", "coffee", "heart", "home", "bell", "camera"),
    *("cloud", "lock", "star", "mail", "umbrella", "alarm clock"),
)
OWN = 4
SCALES = "guidance_scale", "style_scale"


def sheet(
    generator: Generator, styles: Sequence[Database], content: Database, words: Sequence[str], **options: Any
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the sheet.

    Args:
      generator: of a model with two roles of neighbors.
      styles: a database for each row.
      content: where content neighbors come from.
      words: one for each column.
      **options: of all rows, in place of the model's own.
    """
    rows = []
    for style in styles:
        common = {"database": style, "content_database": content, "num_images": 1, "batch_size": len(words)}
        made = generator.sample(words, **common, **options).images
        own = style.thumbnails(np.linspace(0, len(style) - 1, OWN).astype(int))
        rows.append(np.stack([*(fit(image, *made.shape[1:3]) for image in own), *made]))
        print(f"{style.name}: {len(words)} icons", flush=True)
    return sheets.grid(np.stack(rows), [style.name for style in styles], [*["own"] * OWN, *words], zoom=2)


def databases(folder: Path, content: Path) -> list[Database]:
    """Returns the databases of a folder without the one of content, by name."""
    found = sorted(file.parent for file in folder.glob("*/manifest.json"))
    return [Database.open(one) for one in found if one.resolve() != content.resolve()]


def main() -> int:
    """Writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("databases", type=Path)
    parser.add_argument("--content", type=Path, required=True)
    parser.add_argument("--words", nargs="+", default=WORDS)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int)
    for name in SCALES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    parser.add_argument("--out", type=Path, default=Path("icons.png"))
    args = parser.parse_args()
    options = {name: getattr(args, name) for name in ("seed", "steps", *SCALES) if getattr(args, name) is not None}
    styles = databases(args.databases, args.content)
    image = sheet(Generator.load(args.model), styles, Database.open(args.content), args.words, **options)
    Image.fromarray(image).save(args.out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
