"""`rdm database`: databases of pictures to retrieve from; each module holds the actions on one thing."""

from __future__ import annotations

import argparse

from rdm_jax.cli.database import build, draw, edit, foreign, search, show, tune

HELP = """build, combine, search and look at databases of pictures to retrieve from

  rdm database build my-pictures --out my-database
  rdm database search my-database "a red boat" --k 12 --sheet boat.png
  rdm database search --database ink:0.7 --database charcoal:0.3 "a red boat" --negative text
  rdm database remove my-database --where "artist=Jane Doe"

`rdm database ACTION --help` says what each action takes."""

MODULES = (build, foreign, show, search, draw, edit, tune)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments: each module adds its actions, and says by `action` what runs them."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for module in MODULES:
        module.add_actions(actions)


def run(args: argparse.Namespace) -> None:
    """Does what the action says."""
    args.perform(args)
