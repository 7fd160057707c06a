"""`rdm studio`: a web page on this machine, for generating images and looking at their neighbors."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from rdm_jax.cli.progress import note
from rdm_jax.cli.readers import number
from rdm_jax.core.errors import UserError

HELP = """Opens a page on this machine: a prompt, a style from your own images, and the neighbors that the model used.

  rdm studio
  rdm studio --model ./my-model --folder my-studio --port 7900

The page is served to this machine alone, and contacts no other. It needs the extra: pip install "rdm_jax[studio]"."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `rdm studio`."""
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME|DIR|hf://...",
        help="a model beside those of the package (repeatable); the first one is chosen at the start",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default="studio",
        metavar="DIR",
        help="where images, databases and uploads are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=number(int, 0, 65535),
        default=7860,
        metavar="P",
        help="0 takes a free one (default: %(default)s)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in the browser")


def run(args: argparse.Namespace) -> None:
    """Serves the page until it is interrupted."""
    from rdm_jax.studio.places import Places

    places = Places(args.folder.resolve()).create()
    os.environ.setdefault("GRADIO_TEMP_DIR", str(places.root / "shown"))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    if importlib.util.find_spec("gradio") is None:
        raise UserError('rdm studio needs the extra "studio"; install it by pip install "rdm_jax[studio]"')

    from rdm_jax.studio.page.app import serve
    from rdm_jax.studio.workshop import Workshop

    workshop = Workshop(places, args.model)
    note(f"images are kept in {places.root}")
    blocks, address = serve(workshop, args.port, block=False, open_browser=not args.no_browser)
    note(f"the page is at {address}; stop it by Ctrl-C")
    blocks.block_thread()
