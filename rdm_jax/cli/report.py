"""`rdm report`: training runs, evaluations and generated images side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rdm_jax.cli.progress import note

HELP = """Compares training runs, evaluations and generated images.

  rdm report runs/a runs/b
  rdm report results-a results-b samples --out comparison

Each folder is a workdir of `rdm train`, results of `rdm evaluate` or images of `rdm sample`. Writes report.md with its
images and CSV files in files/, and report.html, which holds all of them and opens without a network."""

DEFAULT_OUT = "report"
RECORD = "report.json"
FILES = "files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("places", nargs="+", metavar="WORKDIR", help="a folder of a run or an evaluation")
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="DIR",
        help="the folder to write; a used one gets run-002/ (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Writes the report; everything is read before the output folder is created."""
    from rdm_jax.cli import run_folder
    from rdm_jax.report import plots
    from rdm_jax.report.blocks import File, markdown, page
    from rdm_jax.report.report import TITLE, make_report
    from rdm_jax.report.sources import read_sources

    run_folder.check_writable(args.out)
    sources = read_sources(args.places)
    blocks = make_report(sources)
    if not plots.available():
        note(plots.MISSING)
    with run_folder.claimed(args.out, [FILES], record=RECORD) as folder:
        for file in (block for block in blocks if isinstance(block, File)):
            run_folder.write_new(folder / FILES / file.name, file.data)
        run_folder.write_new(folder / "report.md", markdown(blocks, FILES).encode())
        run_folder.write_new(folder / "report.html", page(blocks, TITLE).encode())
        run_folder.write_record(
            folder / RECORD, {"schema": 1, "complete": True, "sources": [one.name for one in sources]}
        )
    sys.stdout.write(f"{folder}\n")
