"""`rdm push`: uploads a model or a database to the Hugging Face Hub, with a card."""

from __future__ import annotations

import argparse
from pathlib import Path

from rdm_jax.cli.progress import note

HELP = """upload a model or a database to the Hugging Face Hub, with a card

  hf auth login                                            once, with a token that may write
  rdm push my-model hf://me/my-model --license mit
  rdm push my-database hf://me/my-style --private
  rdm push my-model hf://me/my-model@v2                    to a branch

Afterwards `--model hf://me/my-model` and `--database hf://me/my-style` work everywhere. The card has what the bundle or
the manifest records: training data, licenses, authors, measured results. It needs the extra: pip install
"rdm_jax[hub]"."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("source", metavar="NAME|DIR", help="a model, or a database")
    parser.add_argument("address", metavar="hf://USER/NAME[@BRANCH]", help="the repository, which is made if missing")
    parser.add_argument("--license", metavar="NAME", help="of the weights or the images, such as apache-2.0")
    card = parser.add_mutually_exclusive_group()
    card.add_argument("--attribution", type=Path, metavar="FILE", help="Markdown for the card: whom to name")
    card.add_argument("--card", type=Path, metavar="FILE", help="a card of your own, in place of the written one")
    parser.add_argument("--private", action="store_true", help="make a new repository that only you see")


def run(args: argparse.Namespace) -> None:
    """Uploads it and prints where it is."""
    from rdm_jax.core import text
    from rdm_jax.sharing.cards import check_license
    from rdm_jax.sharing.push import push

    license_ = args.license or ""
    check_license(license_)
    attribution = text.read_given(args.attribution, "the attribution") if args.attribution else ""
    card = text.read_given(args.card, "the card") if args.card else ""
    commit = push(
        args.source, args.address, license_=license_, attribution=attribution, card=card, private=args.private
    )
    note(f"{args.address}: {commit}")
