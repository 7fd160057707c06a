"""Comparisons of samples with each other and with real images: diversity, copies, Frechet distance."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.evaluation.arms import Arm, Cell
from rdm_jax.evaluation.classifiers import AttributeClassifier, Classification, RealImages, real_images_like
from rdm_jax.evaluation.generation import CellGenerator, Generated
from rdm_jax.evaluation.metrics.copies import nearest_cosine, nearest_rmse
from rdm_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from rdm_jax.evaluation.metrics.pixels import psnr
from rdm_jax.evaluation.statistics import Proportion

AUTOENCODER_TARGETS = {"psnr": 24.0, "psnr_lowest": 17.0, "style": 0.99}
RECONSTRUCT_BATCH = 32

Reconstruct = Callable[[UInt8[np.ndarray, "n h w 3"]], UInt8[np.ndarray, "n h w 3"]]


@dataclasses.dataclass(frozen=True)
class ClassifiedArm:
    """An arm's samples and their classification."""

    arm: Arm
    cells: list[Cell]
    generated: Generated
    classification: Classification

    @property
    def labels(self) -> list[dict[str, str]]:
        """The labels that each sample should have."""
        return [{"subject": cell.subject, "colour": cell.colour, "style": cell.style} for cell in self.cells]


@dataclasses.dataclass(frozen=True)
class RealCounterparts:
    """Real images with the labels of an arm's samples, three for each sample, and their features.

    Attributes:
      first: on random grounds, as prompts do not name them.
      second: with the same labels, on other random grounds.
      grounded: with the same labels, on the grounds of `first`.
      features: [n, d] of each of the three, in this order.
    """

    first: RealImages
    second: RealImages
    grounded: RealImages
    features: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n d"], Float[np.ndarray, "n d"]]


def real_counterparts(classifier: AttributeClassifier, classified: ClassifiedArm) -> RealCounterparts:
    """Returns real images with the labels of an arm's samples."""
    first, second = (real_images_like(classified.labels, seed) for seed in (1, 2))
    grounded = real_images_like(first.labels, 3)
    a, b, c = (classifier.classify(real.images).features for real in (first, second, grounded))
    return RealCounterparts(first, second, grounded, (a, b, c))


def diversity(classified: ClassifiedArm, counterparts: RealCounterparts) -> dict[str, Any]:
    """Returns the mean distance of two samples of one prompt and database, and of two real images with equal labels.

    Distances are those of the classifier's features (Euclidean) and of pixels (root mean square, levels of 255),
    averaged over all pairs of samples that share prompt and database, and over pairs of real images with the same
    labels, on random grounds and on the same ground.
    """
    pairs = pairs_within([(cell.prompt, cell.database) for cell in classified.cells])
    a, b = np.array(pairs, np.int64).reshape(-1, 2).T
    images, features = classified.generated.images, classified.classification.features
    first, second, grounded = counterparts.features
    return {
        "samples": _distances(images[a], images[b], features[a], features[b]),
        "real": _distances(counterparts.first.images, counterparts.second.images, first, second),
        "real_same_ground": _distances(counterparts.first.images, counterparts.grounded.images, first, grounded),
    }


def _distances(
    a: UInt8[np.ndarray, "n h w 3"],
    b: UInt8[np.ndarray, "n h w 3"],
    features_a: Float[np.ndarray, "n d"],
    features_b: Float[np.ndarray, "n d"],
) -> dict[str, Any]:
    if not len(a):
        return {"pairs": 0, "feature": None, "pixel": None}
    pixel = np.sqrt(np.square(a.astype(np.float64) - b.astype(np.float64)).mean(axis=(1, 2, 3)))
    feature = np.linalg.norm(features_a.astype(np.float64) - features_b.astype(np.float64), axis=1)
    return {"pairs": len(a), "feature": float(feature.mean()), "pixel": float(pixel.mean())}


def pairs_within(groups: Sequence[Any]) -> list[tuple[int, int]]:
    """Returns all pairs of positions whose groups are equal."""
    members: dict[Any, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    return [pair for positions in members.values() for pair in itertools.combinations(positions, 2)]


def copies(
    cell_generator: CellGenerator,
    classifier: AttributeClassifier,
    classified: ClassifiedArm,
    real: RealImages,
    real_classification: Classification,
) -> dict[str, Any]:
    """Returns how close samples are to the images of their database, beside held-out images of the style.

    For each database, every sample's nearest image in it is found by pixels (root mean square, levels of 255) and by
    the cosine of the classifier's features. `nearer_than_real` is the proportion of samples that are nearer by pixels
    than the nearest hundredth of held-out real images; without copying it is about 0.01.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("rmse", "cosine", "real_rmse", "real_cosine")}
    databases = np.array([cell.database for cell in classified.cells])
    for database in sorted(set(databases.tolist())):
        images = cell_generator.thumbnails(database)
        features = classifier.classify(images).features
        styles = {cell.style for cell in classified.cells if cell.database == database}
        ours, theirs = databases == database, np.array([labels["style"] in styles for labels in real.labels])
        found["rmse"].append(nearest_rmse(classified.generated.images[ours], images))
        found["cosine"].append(nearest_cosine(classified.classification.features[ours], features))
        found["real_rmse"].append(nearest_rmse(real.images[theirs], images))
        found["real_cosine"].append(nearest_cosine(real_classification.features[theirs], features))
    values = {name: np.concatenate(parts) for name, parts in found.items()}
    threshold = float(np.quantile(values["real_rmse"], 0.01))
    near = int((values["rmse"] < threshold).sum())
    quantiles = {name: _quantiles(of, nearest_is_low="rmse" in name) for name, of in values.items()}
    nearer = Proportion(near, len(values["rmse"])).to_json()
    return {**quantiles, "threshold_rmse": threshold, "nearer_than_real": nearer}


def frechet(classified: ClassifiedArm, counterparts: RealCounterparts) -> dict[str, Any]:
    """Returns the Frechet distance of samples to real images with the same labels in the classifier's features.

    The floor is the distance of equally many other real images, since it falls with their number.
    """
    reference = moments_of(counterparts.features[0])
    return {
        "samples": frechet_distance(moments_of(classified.classification.features), reference),
        "real": frechet_distance(moments_of(counterparts.features[1]), reference),
        "count": len(classified.cells),
    }


def autoencoder(
    reconstruct: Reconstruct, classifier: AttributeClassifier, real: RealImages, progress: StageProgressCallback
) -> dict[str, Any]:
    """Returns the PSNR of reconstructions, on average and by style, and how often they are classified correctly."""
    parts = []
    for start in range(0, len(real), RECONSTRUCT_BATCH):
        parts.append(reconstruct(real.images[start : start + RECONSTRUCT_BATCH]))
        progress("reconstructing", min(start + RECONSTRUCT_BATCH, len(real)), len(real))
    reconstructed = np.concatenate(parts)
    decibels = psnr(reconstructed, real.images)
    classification = classifier.classify(reconstructed)
    styles = np.array([labels["style"] for labels in real.labels])
    by_style = {
        style: {
            "psnr": float(decibels[styles == style].mean()),
            "style": Proportion(
                int(classification.correct(real.labels, "style")[styles == style].sum()), int((styles == style).sum())
            ).to_json(),
        }
        for style in sorted(set(styles.tolist()))
    }
    proportions = classifier.proportions(classification, real.labels)
    lowest = min(by_style, key=lambda style: by_style[style]["psnr"])
    style = proportions["style"].rate
    values = {"psnr": float(decibels.mean()), "psnr_lowest": by_style[lowest]["psnr"], "style": style}
    return {
        "images": len(real),
        "psnr": values["psnr"],
        "lowest": {"style": lowest, "psnr": values["psnr_lowest"]},
        **{name: proportion.to_json() for name, proportion in proportions.items()},
        "by_style": by_style,
        "targets": AUTOENCODER_TARGETS,
        "met": {name: values[name] >= least for name, least in AUTOENCODER_TARGETS.items()},
    }


def _quantiles(values: Float[np.ndarray, " n"], nearest_is_low: bool) -> dict[str, float]:
    nearest = values.min() if nearest_is_low else values.max()
    hundredth = np.quantile(values, 0.01 if nearest_is_low else 0.99)
    return {"median": float(np.median(values)), "nearest_hundredth": float(hundredth), "nearest": float(nearest)}
