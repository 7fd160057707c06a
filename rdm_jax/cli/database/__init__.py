"""`rdm database`: builds, searches and changes databases of images; each module adds one or more actions."""

from __future__ import annotations

import argparse

from rdm_jax.cli.database import build, edit, foreign, search, show, tune, visualize

HELP = """build, combine, search and inspect databases of images to retrieve from

  rdm database build my-images --out my-database
  rdm database search my-database "a red boat" --k 12 --sheet boat.png
  rdm database search --database ink:0.7 --database charcoal:0.3 "a red boat" --negative text
  rdm database remove my-database --where "artist=Jane Doe"

`rdm database ACTION --help` describes the options of an action."""

MODULES = (build, foreign, show, search, visualize, edit, tune)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the actions of all modules; each sets the default `perform`, the function that runs it."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in MODULES:
        module.add_actions(actions)


def run(args: argparse.Namespace) -> None:
    """Runs the action."""
    args.perform(args)
