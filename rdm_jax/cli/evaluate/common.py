"""What the measures of `rdm evaluate` share: options, the classifier, progress, and what they return."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rdm_jax.cli.progress import Progress, note
from rdm_jax.core import paths
from rdm_jax.core.errors import UserError, unknown

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.bundle import Bundle
    from rdm_jax.evaluation.classifiers import AttributeClassifier
    from rdm_jax.retrieval.database import Database

T = TypeVar("T")

DEFAULT_MODEL = "style-scenes"
CLASSIFIER_CONFIG = "style_scenes/classifier"


@dataclasses.dataclass(frozen=True)
class Measured:
    """The results of a measure, and what it was measured with.

    Attributes:
      results: as JSON values.
      arguments: of the measure.
      bundle: the model; None where images alone are measured.
      classifier: of its images; None where there is none.
      databases: of its neighbors.
      markdown: all tables.
      screen: the tables that are printed.
      images: {file name: image of the results}, None for a file that is not written.
    """

    results: dict[str, Any]
    arguments: dict[str, Any]
    bundle: Bundle | None
    classifier: AttributeClassifier | None
    databases: Sequence[Database]
    markdown: str
    screen: str
    images: Mapping[str, np.ndarray | None]


def add_common(
    parser: argparse.ArgumentParser,
    databases: str,
    quick: str,
    model: str = DEFAULT_MODEL,
    config: str = CLASSIFIER_CONFIG,
) -> None:
    """Adds the options that every measure has.

    Args:
      parser: of the measure.
      databases: the help of --databases.
      quick: the help of --quick.
      model: the default of --model.
      config: of the classifier of --train-classifier.
    """
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the folder to write; a used one gets run-002/"
    )
    parser.add_argument("--model", default=model, metavar="NAME|DIR|hf://...", help="(default: %(default)s)")
    parser.add_argument("--databases", type=Path, metavar="DIR", help=databases)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--seed", type=int, default=0, metavar="I", help="(default: %(default)s)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--classifier", metavar="DIR", help="a trained classifier, a folder or an address; the embedded one by default"
    )
    group.add_argument(
        "--train-classifier",
        metavar="DIR",
        help=f"train the classifier in this folder or address first, by {config}",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def introduce(bundle: Bundle, classifier: AttributeClassifier, databases: Sequence[Database]) -> None:
    """Prints what is measured with what."""
    count = f"{len(databases)} database{'s' if len(databases) > 1 else ''}"
    note(f"model {bundle.name}, classifier {classifier.bundle.name}, {count}")


def chosen(what: str, wanted: list[str], known: Mapping[str, T]) -> tuple[T, ...]:
    """Returns the wanted values by name, all of them if none is wanted; raises UserError for an unknown name."""
    for name in wanted:
        if name not in known:
            raise unknown(what, name, known)
    return tuple(value for name, value in known.items() if not wanted or name in wanted)


def classifier_of(args: argparse.Namespace, config_name: str | None = None) -> AttributeClassifier:
    """Returns the classifier that the arguments name, trained first where `--train-classifier` says so.

    Args:
      args: of a verb with the common arguments.
      config_name: of its training; that of the procedural set if None.

    Raises:
      UserError: there is no such classifier, or its training was stopped.
    """
    from rdm_jax.evaluation.classifiers import AttributeClassifier

    if args.train_classifier is None:
        return AttributeClassifier.open(args.classifier)
    place = paths.expanded(args.train_classifier)
    from rdm_jax.cli.train import train_in
    from rdm_jax.training.config import load_config
    from rdm_jax.training.export import export_run

    config = load_config(config_name or CLASSIFIER_CONFIG)
    step = train_in(place, config)
    if step < config.steps:
        raise UserError(
            f"the classifier in {place} is trained to step {step} of {config.steps}; the same command resumes"
        )
    return AttributeClassifier(export_run(place))


class Stages:
    """Shows the progress of one stage of the measurement after another."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stage = ""
        self._shown: Progress | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._stage:
            self._stage, self._shown = what, Progress(what, unit="image", quiet=self._quiet)
        assert self._shown is not None
        self._shown(done, total)
