"""`rdm evaluate images`: the field's metrics of a folder of images from any program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_jax.cli.evaluate import sets

if TYPE_CHECKING:
    from rdm_jax.cli.evaluate.common import Measured

HELP = "metrics of a folder of images from any program"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the measure's arguments."""
    parser.add_argument("images", metavar="DIR", help="a folder, .zip, .npz, database or TFDS set of images")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write; a used one gets run-002/"
    )
    sets.add_metric_options(parser)
    sets.seed_option(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run_measure(args: argparse.Namespace, out: Path) -> Measured:
    """Measures the images of a folder."""
    from rdm_jax.cli import run_folder

    run_folder.check_writable(out)
    sets.check(args)
    return sets.measure(args, args.images, args.seed)
