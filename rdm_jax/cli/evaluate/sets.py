"""What the measures of sets of images share: the options of metrics, and the measurement itself."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.cli.evaluate.common import Measured, Stages
from rdm_jax.cli.progress import note
from rdm_jax.cli.readers import MAX_SEED, MOST, number
from rdm_jax.core import paths
from rdm_jax.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from rdm_jax.data.examples import ImageSource
    from rdm_jax.evaluation.features.networks import FeatureNetwork
    from rdm_jax.evaluation.set_comparison import Comparison, MeasuredSet, Options

DEFAULT = "fid,kid,is,prdc"


def add_metric_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of metrics."""
    parser.add_argument(
        "--reference",
        metavar="DIR|STATS.npz",
        help="real images (a folder, .zip, .npz, database or TFDS set), or statistics of them",
    )
    parser.add_argument(
        "--metrics", default=DEFAULT, metavar="NAME,...", help="see docs/evaluation.md (default: %(default)s)"
    )
    parser.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="BUNDLE",
        help="a converted Inception, CLIP or LPIPS, or another model with one (repeatable); without, networks of the "
        "project stand in",
    )
    parser.add_argument(
        "--resize",
        default="clean",
        metavar="MODE",
        help="of an Inception: clean (default), legacy_tensorflow as torch-fidelity, or legacy_pytorch as pytorch-fid",
    )
    parser.add_argument("--training", metavar="DIR", help="training or database images, for --metrics copies")
    for flag, reader, default, text in (
        ("--subsets", number(int, 1, MOST), 100, "of the kernel distance (default: 100)"),
        ("--subset-size", number(int, 2, MOST), None, "images of each (default: 1000, or all where there are fewer)"),
        ("--splits", number(int, 1, MOST), 10, "parts of the Inception Score (default: 10)"),
        ("--k", number(int, 1, MOST), 3, "neighbors of precision and recall (default: 3)"),
        ("--coverage-k", number(int, 1, MOST), 5, "neighbors of density and coverage (default: 5)"),
        ("--bootstrap", number(int, 0, MOST), 0, "resamples for intervals of fid and cmmd (default: none)"),
        ("--gallery", number(int, 1, MOST), 999, "distractors of the retrieval accuracy at most (default: 999)"),
        ("--threshold", number(float, -1, 1), 0.95, "cosine above which an image is a copy (default: 0.95)"),
        ("--pairs", number(int, 1, MOST), 10_000, "of the diversity at most (default: 10000)"),
    ):
        parser.add_argument(flag, type=reader, default=default, metavar="N", help=text)
    parser.add_argument(
        "--allow-few", action="store_true", help="compute fid with fewer images than features; tables say so"
    )
    parser.add_argument("--write-statistics", type=Path, metavar="FILE", help="write the images' statistics (.npz)")
    parser.add_argument("--write-npz", type=Path, metavar="FILE", help="write the images in ADM's format (.npz)")


def options_of(args: argparse.Namespace, seed: int) -> Options:
    """Returns the settings of metrics."""
    from rdm_jax.evaluation.set_comparison import Options

    names = {field.name for field in dataclasses.fields(Options)} - {"seed"}
    return Options(seed=seed, **{name: getattr(args, name) for name in names})


def check(args: argparse.Namespace) -> None:
    """Checks what needs no image, so that nothing is generated in vain.

    Raises:
      UserError: a metric, a mode or a bundle is unknown, a metric's reference or training images are missing, or a file
        to write is none of the kind.
    """
    from rdm_jax.evaluation import set_metrics
    from rdm_jax.evaluation.features.image_sets import open_images
    from rdm_jax.evaluation.features.resizing import check_mode
    from rdm_jax.evaluation.features.statistics_file import is_statistics
    from rdm_jax.evaluation.set_comparison import open_bundles

    metrics = set_metrics.parse_metrics([name for name in args.metrics.split(",") if name])
    set_metrics.check_needs(metrics, args.reference, args.training)
    check_mode(args.resize)
    open_bundles(args.features)
    for place in filter(None, (args.reference, args.training)):
        if paths.is_remote(place) or not is_statistics(paths.local(place)):
            open_images(place)
    for option, file in (("--write-statistics", args.write_statistics), ("--write-npz", args.write_npz)):
        if file is not None and file.suffix != ".npz":
            raise UserError(f"{option} {file} is no .npz file; give it that suffix")


def measure(args: argparse.Namespace, place: str | Path, seed: int, generation: Mapping[str, Any] = {}) -> Measured:
    """Measures a set of images; see `rdm_jax.evaluation.set_metrics.METRICS`.

    Args:
      args: of `add_metric_options`, and `quiet`.
      place: of the images.
      seed: of subsets, pairs, galleries and resamples.
      generation: how the images were generated, for the record.

    Raises:
      UserError: an option, a set or a network is invalid, or there are too few images for a metric.
    """
    from rdm_jax import __version__
    from rdm_jax.evaluation import set_metrics, set_report
    from rdm_jax.evaluation.set_comparison import Comparison, measure_set, open_bundles

    metrics = set_metrics.parse_metrics([name for name in args.metrics.split(",") if name])
    set_metrics.check_needs(metrics, args.reference, args.training)
    bundles, options, stages = open_bundles(args.features), options_of(args, seed), Stages(args.quiet)
    networks = set_metrics.networks_of(metrics, bundles, args.resize)
    keep = options.bootstrap > 0 or any(metric.keep and metric.parts for metric in metrics.values())

    def measured(place: str | Path, names: Sequence[str], keep: bool) -> MeasuredSet:
        needed = list(dict.fromkeys(networks[name] for name in names if name in networks))
        return measure_set(place, needed, keep, stages)

    of_reference = [name for name, metric in metrics.items() if metric.reference]
    of_training = [name for name, metric in metrics.items() if metric.training]
    keep_reference = any(metrics[name].keep and metrics[name].parts for name in of_reference)
    reference = measured(args.reference, of_reference, keep_reference) if args.reference else None
    training = measured(args.training, of_training, True) if args.training and of_training else None
    comparison = Comparison(measured(place, list(metrics), keep), reference, training, options, bundles)
    _write_files(args, comparison, list(dict.fromkeys(networks.values())))
    sets = {"images": comparison.images, "reference": reference, "training": training}
    results = {
        "implementation": f"rdm_jax {__version__}",
        **{role: None if one is None else {**one.record, "foreign": one.foreign} for role, one in sets.items()},
        "features": [network.record for network in dict.fromkeys(networks.values())],
        "metrics": set_metrics.measure(comparison, metrics, networks),
        "remarks": [line for one in sets.values() if one and one.contents for line in one.contents.remarks],
        "generation": dict(generation),
    }
    if set_report.stand_ins(results):
        note(set_report.CONVERT)
    return Measured(
        results=results,
        arguments={**dataclasses.asdict(options), "metrics": list(metrics), "resize": args.resize},
        bundle=None,
        classifier=None,
        databases=[],
        markdown=set_report.markdown(results, f"Metrics of {comparison.images.name}"),
        screen=set_report.screen(results),
        images={},
    )


def _write_files(args: argparse.Namespace, comparison: Comparison, networks: Sequence[FeatureNetwork]) -> None:
    """Writes the statistics and the array of the images, where they were requested."""
    if args.write_statistics is None and args.write_npz is None:
        return
    source, contents = comparison.images.images_of("writing")
    if args.write_statistics is not None:
        from rdm_jax.evaluation.features.statistics_file import write_statistics

        if len(networks) != 1:
            titles = ", ".join(network.title for network in networks) or "none"
            raise UserError(f"--write-statistics is of one network, and these metrics use {titles}; give fewer metrics")
        write_statistics(args.write_statistics, contents, comparison.images.features[networks[0]], networks[0])
        note(f"statistics of {contents.name} are in {args.write_statistics}")
    if args.write_npz is not None:
        from rdm_jax.data.array_source import write_array

        first = source[contents.rows[0]].image.shape
        write_array(args.write_npz, _pixels(source, contents.rows), (len(contents), *first))
        note(f"the images of {contents.name} are in {args.write_npz}")


def _pixels(source: ImageSource, rows: Sequence[int]) -> Iterator[np.ndarray]:
    for row in rows:
        yield source[row].image


def seed_option(parser: argparse.ArgumentParser) -> None:
    """Adds the seed of the measure itself."""
    parser.add_argument("--seed", type=number(int, 0, MAX_SEED), default=0, metavar="I", help="(default: %(default)s)")
