"""`rdm edit`: inpaints, outpaints, varies or inverts an image, or moves it to another condition."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_jax.cli import generating
from rdm_jax.cli.progress import format_seconds, note
from rdm_jax.cli.readers import number

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.cli.watch import Watch
    from rdm_jax.generator import Generator

MAX_MARGIN = 2**15  # pixels

HELP = """edit an image

  rdm edit img2img --image boat.png --prompt "a red boat" --database neon --strength 0.6
  rdm edit inpaint --image boat.png --mask mask.png --prompt "a blue cat" --database poster
  rdm edit outpaint --image boat.png --right 32 --prompt "a red boat" --database poster
  rdm edit upscale --image small.png --model bsr_sr
  rdm edit vary --image boat.png --database watercolour --num-images 4
  rdm edit invert --image boat.png --prompt "a red boat" --database poster --out inverted
  rdm edit mix --prompt "a red boat" --to "a blue boat" --database poster --num-images 4 --out mixed

The white part of a mask is generated. Without a prompt the image itself is the query."""

# What of a head an action needs (`heads.base.FEATURES`); variations need nothing, with the image as their query alone.
NEEDED = {
    "img2img": "init",
    "inpaint": "known_region",
    "outpaint": "known_region",
    "invert": "inversion",
    "mix": "mixing",
}
ACTIONS = {
    "img2img": "generate from an image with noise added",
    "inpaint": "generate what is white in a mask",
    "outpaint": "continue an image beyond its edges",
    "vary": "generate variations of an image",
    "upscale": "generate an image at a higher resolution (super-resolution models)",
    "invert": "find an image's noise, and generate other conditions from it",
    "mix": "learn in which steps another condition changes one thing and keeps the rest",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help_ in ACTIONS.items():
        action = actions.add_parser(name, help=help_)
        action.add_argument("--image", metavar="FILE", required=name != "mix", help="the image")
        if name != "vary":
            action.add_argument("--prompt", metavar="TEXT", help="the query; the image itself if omitted")
        ADDED.get(name, lambda _: None)(action)
        generating.add_arguments(action)


def _strength(action: argparse.ArgumentParser, default: float) -> None:
    action.add_argument(
        "--strength",
        type=float,
        default=default,
        metavar="S",
        help="how noisy the image is made: above 0, up to 1, which leaves nothing of it (default: %(default)s)",
    )


def _inpaint_arguments(action: argparse.ArgumentParser) -> None:
    action.add_argument("--mask", required=True, metavar="FILE", help="of the image's size, white where to generate")
    action.add_argument(
        "--method",
        choices=("inpaint", "project", "paste"),
        help="restore the known part after each step, in the predicted x0, or at the end alone (default: inpaint, or "
        "paste for a model that takes the mask)",
    )


def _outpaint_arguments(action: argparse.ArgumentParser) -> None:
    for side in ("left", "right", "up", "down"):
        action.add_argument(
            f"--{side}", type=number(int, 0, MAX_MARGIN), default=0, metavar="PIXELS", help=f"continue it {side}"
        )


def _invert_arguments(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--iterations", type=number(int, 1, 1000), default=3, metavar="N", help="per step (default: %(default)s)"
    )
    action.add_argument("--to", metavar="TEXT", help="also generate this prompt from the image's noise")
    action.add_argument(
        "--to-database", metavar="NAME|DIR|hf://...", help="also generate with another database from the noise"
    )


def _mix_arguments(action: argparse.ArgumentParser) -> None:
    action.add_argument("--to", metavar="TEXT", help="the second condition's prompt")
    action.add_argument("--to-database", metavar="NAME|DIR|hf://...", help="the second condition's database")
    action.add_argument("--weights", metavar="FILE", help="reuse weights.json of another run; nothing is learned")
    action.add_argument(
        "--iterations", type=number(int, 1, 100_000), default=10, metavar="N", help="updates (default: %(default)s)"
    )
    action.add_argument(
        "--keep",
        type=number(float, 0),
        default=0.05,
        metavar="W",
        help="weight of the loss that keeps it (default: %(default)s)",
    )
    action.add_argument(
        "--learning-rate", type=number(float, 0), default=0.05, metavar="R", help="(default: %(default)s)"
    )
    action.add_argument(
        "--start",
        type=float,
        default=0.4,
        metavar="P",
        help="fraction of the steps that keep the first condition at the start (default: %(default)s)",
    )


ADDED: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "img2img": lambda action: _strength(action, 0.6),
    "inpaint": _inpaint_arguments,
    "outpaint": _outpaint_arguments,
    "vary": lambda action: _strength(action, 1.0),
    "invert": _invert_arguments,
    "mix": _mix_arguments,
}


def run(args: argparse.Namespace) -> None:
    """Edits; everything is checked before the output folder is created."""
    begin = time.monotonic()
    # Imported late: `rdm edit --help` and wrong options need not wait for it.
    from rdm_jax.cli import run_folder
    from rdm_jax.core.images import read_image
    from rdm_jax.generator import Generator

    out = args.out
    run_folder.check_writable(out)
    image = read_image(args.image) if args.image else None
    generator = Generator.load(generating.model_of(args), args.dtype, tuple(args.set), loras=tuple(args.lora))
    folder, count = perform(generator, args, image, out)
    note(f"{count} image{'s' if count > 1 else ''} in {format_seconds(time.monotonic() - begin)}")
    sys.stdout.write(f"{folder}\n")


def perform(
    generator: Generator, args: argparse.Namespace, image: np.ndarray | None, out: Path, watch: Watch | None = None
) -> tuple[Path, int]:
    """Performs an action, and returns the run's folder and the number of its images.

    Args:
      generator: the model.
      args: the action and its options.
      image: [h, w, 3] to edit; None where there is none.
      out: the output folder.
      watch: follows the run; the terminal if None.

    Raises:
      UserError: the model does not support the action, or an option is invalid.
    """
    from rdm_jax.cli.edit.actions import RUNNERS, Job
    from rdm_jax.editing.support import require

    if args.action in NEEDED:
        require(generator, NEEDED[args.action])
    generating.build_image_folders(args, generator.encoder)
    databases = generating.open_databases(args.database, args.condition, generator.bundle)
    seed = generating.seed_of(args)
    note(f"model {generator.bundle.name}, seed {seed}")
    return RUNNERS[args.action](Job(generator, databases, generating.options(args, seed), image, args, out, watch))
