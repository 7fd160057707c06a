"""Two sets of images with their features: what the metrics of sets are computed from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_jax.bundle import Bundle
from rdm_jax.core import files, paths
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.examples import ImageSource
from rdm_jax.evaluation.features.extraction import Contents, SetFeatures, extract
from rdm_jax.evaluation.features.image_sets import open_images
from rdm_jax.evaluation.features.networks import BATCH, PARTS, FeatureNetwork, stand_in
from rdm_jax.evaluation.features.statistics_file import is_statistics, read_statistics


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of metrics; all are recorded.

    Attributes:
      seed: of subsets, pairs, galleries and resamples.
      subsets: of the kernel distance.
      subset_size: images of each; None for 1,000, or all images where there are fewer.
      splits: parts of the Inception Score.
      k: neighbors of precision and recall.
      coverage_k: neighbors of density and coverage.
      bootstrap: resamples for the intervals of distances of sets, 0 for none; those of means always have one.
      gallery: distractors of the retrieval accuracy at most.
      threshold: the cosine above which an image counts as a copy.
      pairs: of the diversity at most.
      allow_few: computes a Fréchet distance from covariances that are not of full rank.
    """

    seed: int = 0
    subsets: int = 100
    subset_size: int | None = None
    splits: int = 10
    k: int = 3
    coverage_k: int = 5
    bootstrap: int = 0
    gallery: int = 999
    threshold: float = 0.95
    pairs: int = 10_000
    allow_few: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredSet:
    """A set of images with its features.

    Attributes:
      source: of the images; None where the set is statistics in a file.
      contents: of the set; None as the source.
      features: by network.
      record: what defines the set, as JSON values.
      foreign: whether it is statistics of another program, which do not say what they are of.
    """

    source: ImageSource | None
    contents: Contents | None
    features: Mapping[FeatureNetwork, SetFeatures]
    record: dict[str, Any]
    foreign: bool = False

    @property
    def name(self) -> str:
        """The name of the set."""
        return str(self.record["name"])

    def images_of(self, what: str) -> tuple[ImageSource, Contents]:
        """Returns the images; raises UserError where only statistics are known.

        Args:
          what: needs the images, for the message.
        """
        if self.source is None or self.contents is None:
            raise UserError(
                f"{what} needs the images of {self.name}, and that file holds statistics; give their folder"
            )
        return self.source, self.contents


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What metrics are computed from.

    Attributes:
      images: that are measured.
      reference: real images, where a metric needs them.
      training: that copies are searched among.
      options: of the metrics.
      bundles: that were given for features, also for LPIPS.
    """

    images: MeasuredSet
    reference: MeasuredSet | None
    training: MeasuredSet | None
    options: Options
    bundles: Sequence[Bundle] = ()


def choose_network(
    bundles: Sequence[Bundle], parts: Sequence[str], resizing: str, batch: int = BATCH
) -> FeatureNetwork:
    """Returns the first of the parts that a bundle has, or the project's network that stands in for it.

    Args:
      bundles: that the user gave, in order.
      parts: names in `PARTS`, the preferred one first.
      resizing: of an Inception.
      batch: images at once.

    Raises:
      UserError: there is no such resizing, or no network ships with this copy of the package.
    """
    for part in parts:
        for bundle in bundles:
            if bundle.has(part):
                return FeatureNetwork(bundle, part, resizing, batch=batch)
    return stand_in(parts[0], batch)


def open_bundles(places: Sequence[str | Path]) -> list[Bundle]:
    """Opens bundles with feature networks.

    Raises:
      UserError: one is unknown or damaged, or holds no network that features are taken from.
    """
    opened = [Bundle.open(place, parts=(*PARTS, "lpips")) for place in places]
    for bundle, place in zip(opened, places, strict=True):
        if not bundle.params:
            raise UserError(
                f"{place} has no {', '.join(PARTS)} or lpips, and features are of one of these; convert one by "
                "`rdm convert`"
            )
    return opened


def measure_set(
    place: str | Path,
    networks: Sequence[FeatureNetwork],
    keep: bool,
    progress: StageProgressCallback | None = None,
) -> MeasuredSet:
    """Returns a set with its features by each network: images of any kind, or a file of statistics of one network.

    Args:
      place: as of `open_images`, or a .npz with `mu` and `sigma`.
      networks: that are needed.
      keep: whether the features of each image are needed.
      progress: called with (stage, images done, images in all).

    Raises:
      UserError: there are no images, or statistics of another network or preprocessing, of several networks or without
        the features that are needed.
    """
    if not paths.is_remote(place) and is_statistics(paths.local(place)):
        return _stored_set(paths.local(place), networks, keep)
    source = open_images(place)
    report = None if progress is None else lambda done, total: progress(f"features of {source.name}", done, total)
    contents, found = extract(source, networks, keep, report)
    pairs = dict(zip(networks, found, strict=True))
    return MeasuredSet(source, contents, pairs, {**contents.record, "captions": source.captions})


def _stored_set(file: Path, networks: Sequence[FeatureNetwork], keep: bool) -> MeasuredSet:
    if len(networks) != 1:
        names = " and ".join(network.title for network in networks) or "the images"
        raise UserError(f"{file} holds statistics of one network, and these metrics need {names}; give its images")
    stored = read_statistics(file, networks[0])
    if keep and stored.features is None:
        raise UserError(
            f"{file} holds a mean and a covariance, and these metrics need the features of each image; "
            "give its images, or --metrics fid"
        )
    of = {} if stored.record is None else dict(stored.record["images"])
    record = {"name": file.name, **of, "statistics": file.name, "sha256_statistics": files.sha256(file)}
    features = SetFeatures(stored.moments, stored.features)
    return MeasuredSet(None, None, {networks[0]: features}, record, stored.record is None)
