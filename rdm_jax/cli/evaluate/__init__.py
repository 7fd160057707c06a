"""`rdm evaluate`: whether a database means a style, guidance has its effects, and icons are made in unseen styles."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.evaluate import guidance, icon_set, images, model, prompts, style_swap, styles
from rdm_jax.cli.progress import format_seconds, note

if TYPE_CHECKING:
    from rdm_jax.cli.evaluate.common import Measured

MEASURES = {
    "images": images,
    "model": model,
    "prompts": prompts,
    "style-swap": style_swap,
    "styles": styles,
    "guidance": guidance,
    "icon-set": icon_set,
}
SCHEMA = 1

HELP = """measure images or a model

  rdm evaluate images DIR --reference DIR --out results       FID, KID, Inception Score, precision and recall
  rdm evaluate model MODEL --proposals 1000 --reference DIR --out results      the same of images that it generates
  rdm evaluate prompts MODEL --from-file PartiPrompts.tsv --out results        CLIP-score by category
  rdm evaluate style-swap --out results            all arms: 1,000 samples of the first, 200 of each other
  rdm evaluate style-swap --out results --quick    a few samples of each arm, as a test
  rdm evaluate styles --out results                a style by its database, by its name, by both, by neither
  rdm evaluate guidance --out results              every guidance method, each beside images without it
  rdm evaluate icon-set --out results --databases DIR --classifier DIR   icons of styles that no training saw

Style-swap generates with every style's database and with the general one, classifies subject, color and style by an
independent classifier, and writes results.json, results.md and grid.png. Guidance writes curves.png as well: quality
against alignment over the weight. Icon-set generates words in held-out styles, without their own icons of the words,
beside baselines, and writes a sheet of every arm."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    measures = parser.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    for name, measure in MEASURES.items():
        measure.add_arguments(measures.add_parser(name, help=measure.HELP))


def run(args: argparse.Namespace) -> None:
    """Measures; everything is checked before the first image is generated, and written at the end."""
    from rdm_jax.cli import records

    begin = time.monotonic()
    measured = MEASURES[args.measure].run_measure(args, args.out)
    record = {
        "schema": SCHEMA,
        "arguments": measured.arguments,
        "versions": records.versions(),
        **_networks(measured),
        "databases": [{**records.identity(database), "rows": len(database)} for database in measured.databases],
        **measured.results,
        "seconds": round(time.monotonic() - begin, 1),
    }
    folder = _write(args.out, record, measured)
    note(f"done in {format_seconds(time.monotonic() - begin)}")
    sys.stdout.write(f"{folder}\n")


def _networks(measured: Measured) -> dict[str, Any]:
    """Returns the record of the model and of the classifier, where there are such."""
    from rdm_jax.cli import records

    found = {}
    if measured.bundle is not None:
        found["model"] = {**records.identity(measured.bundle), "parts": measured.bundle.hashes}
    if measured.classifier is not None:
        bundle = measured.classifier.bundle
        settings = {key: bundle.config.get(key) for key in ("evaluation", "training")}
        found["classifier_model"] = {**records.identity(bundle), **settings}
    return found


def _write(out: Path, record: dict[str, Any], measured: Measured) -> Path:
    """Writes the images, the tables and, last of all, results.json; prints the tables."""
    from rdm_jax.cli import run_folder
    from rdm_jax.cli.png import encode_png

    with run_folder.claimed(out, record=run_folder.RESULTS) as folder:
        for name, image in measured.images.items():
            if image is not None:
                run_folder.write_new(folder / name, encode_png(image))
        run_folder.write_new(folder / "results.md", measured.markdown.encode())
        run_folder.write_record(folder / run_folder.RESULTS, record)
    sys.stdout.write(measured.screen + "\n")
    return folder
