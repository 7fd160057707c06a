"""Whether swapping the database swaps the style: arms of samples, evaluated by a classifier independent of CLIP."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.style_scenes.vocabulary import COLORS, STYLES, SUBJECTS
from rdm_jax.evaluation.arms import ARMS, FIRST, Arm, Pair, cells_of
from rdm_jax.evaluation.classifiers import AttributeClassifier, Classification, Labels, real_images
from rdm_jax.evaluation.comparisons import (
    ClassifiedArm,
    Reconstruct,
    autoencoder,
    copies,
    diversity,
    frechet,
    real_counterparts,
)
from rdm_jax.evaluation.generation import CellGenerator
from rdm_jax.evaluation.statistics import Proportion

ATTRIBUTES = ("subject", "colour", "style")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The number of images of each part of the measurement.

    Attributes:
      first: samples of the first arm.
      least: samples of each other arm.
      real: held-out real images that the classifier is tested on.
      reconstructed: real images for the autoencoder.
    """

    first: int = 1_000
    least: int = 200
    real: int = 2_304
    reconstructed: int = 1_152


QUICK = Sizes(first=48, least=24, real=144, reconstructed=48)


def measure(
    cell_generator: CellGenerator,
    reconstruct: Reconstruct | None,
    classifier: AttributeClassifier,
    sizes: Sizes,
    progress: StageProgressCallback,
    arms: Sequence[Arm] = ARMS,
) -> tuple[dict[str, Any], dict[str, ClassifiedArm]]:
    """Generates, classifies and measures all arms.

    Args:
      cell_generator: of the images, with the databases.
      reconstruct: from images to their reconstructions; None omits that part.
      classifier: of subjects, colors and styles.
      sizes: the number of images.
      progress: called with (stage, done, total).
      arms: to measure; the first one is compared with real images.

    Returns:
      the results as JSON values, and the classified samples by the name of their arm.

    Raises:
      UserError: a database is missing, or the classifier does not know the images' classes.
    """
    classifier.require({"subject": SUBJECTS, "colour": tuple(COLORS), "style": STYLES})
    indices = spread_indices(sizes.real)
    real = real_images("test", indices, lambda *at: progress("making real images", *at))
    on_real = classifier.classify(real.images)
    classified = generate_arms(cell_generator, classifier, sizes, arms, progress)
    first = classified[arms[0].name]
    counterparts = real_counterparts(classifier, first)
    results = {
        "classifier": {
            **{name: proportion.to_json() for name, proportion in classifier.proportions(on_real, real.labels).items()},
            "by_style": _proportions_by(classifier, on_real, real.labels, "style"),
        },
        "arms": {name: arm_results(classifier, arm) for name, arm in classified.items()},
        "every_pair": every_pair(classifier, list(classified.values())),
        "diversity": diversity(first, counterparts),
        "copies": copies(cell_generator, classifier, first, real, on_real),
        "frechet": frechet(first, counterparts),
    }
    if reconstruct:
        images = real.where(np.arange(len(real)) < sizes.reconstructed)
        results["autoencoder"] = autoencoder(reconstruct, classifier, images, progress)
    return results, classified


def spread_indices(count: int, cycle: int = 1_152) -> list[int]:
    """Returns the first `count` indices of a balanced split, each cycle in a fixed random order.

    The split has each style, subject and color once in `cycle` images, colors slowest: the first few of a cycle would
    all have one color.
    """
    order = np.random.default_rng(0).permutation(cycle)
    return [int(order[i % cycle]) + i // cycle * cycle for i in range(count)]


def generate_arms(
    cell_generator: CellGenerator,
    classifier: AttributeClassifier,
    sizes: Sizes,
    arms: Sequence[Arm],
    progress: StageProgressCallback,
) -> dict[str, ClassifiedArm]:
    """Returns the classified samples of every arm; progress counts the samples of all arms."""
    cells = {arm.name: cells_of(arm, sizes.first if arm.name == FIRST else sizes.least) for arm in arms}
    total = sum(map(len, cells.values()))
    classified, before = {}, 0
    for arm in arms:
        wanted = cells[arm.name]
        generated = cell_generator.generate(
            wanted, lambda done, _, before=before: progress("generating samples", before + done, total)
        )
        classified[arm.name] = ClassifiedArm(arm, wanted, generated, classifier.classify(generated.images))
        before += len(wanted)
    return classified


def arm_results(classifier: AttributeClassifier, classified: ClassifiedArm) -> dict[str, Any]:
    """Returns an arm's proportions over all, by style and by subject, whether they meet targets, and its neighbors."""
    overall = classifier.proportions(classified.classification, classified.labels)
    rates = {attribute: proportion.to_json() for attribute, proportion in overall.items()}
    arm = classified.arm
    return {
        "title": arm.title,
        "samples": len(classified.cells),
        **rates,
        "targets": dict(arm.targets),
        "met": {attribute: overall[attribute].rate >= least for attribute, least in arm.targets.items()},
        "at_chance": {attribute: 1 / len(classifier.classes[attribute]) for attribute in arm.at_chance},
        "by_style": _proportions_by(classifier, classified.classification, classified.labels, "style"),
        "by_subject": _proportions_by(classifier, classified.classification, classified.labels, "subject"),
        "named": {
            attribute: dict(Counter(names).most_common())
            for attribute, names in classified.classification.named.items()
        },
        "neighbors": _neighbor_agreement(classifier, classified),
    }


def every_pair(classifier: AttributeClassifier, classified: Sequence[ClassifiedArm]) -> dict[str, Any]:
    """Returns the rates over all subjects and styles with the style's own database, each pair weighted equally.

    It joins the arms that differ in their pairs alone: the trained pairs, the held-out ones and the held-out style.
    """
    hits: dict[str, dict[Pair, list[float]]] = {attribute: {} for attribute in ATTRIBUTES}
    for arm in classified:
        if not arm.arm.own_database or arm.arm.random_neighbors:
            continue
        for attribute in ATTRIBUTES:
            correct = arm.classification.correct(arm.labels, attribute)
            for labels, hit in zip(arm.labels, correct, strict=True):
                if classifier.is_visible(labels, attribute):
                    hits[attribute].setdefault((labels["subject"], labels["style"]), []).append(float(hit))
    means = {attribute: [float(np.mean(found)) for found in pairs.values()] for attribute, pairs in hits.items()}
    return {
        attribute: {"rate": float(np.mean(of)) if of else None, "pairs": len(of)} for attribute, of in means.items()
    }


def _proportions_by(
    classifier: AttributeClassifier, classification: Classification, wanted: Labels, label: str
) -> dict[str, Any]:
    groups = np.array([labels[label] for labels in wanted])
    found = {}
    for group in sorted(set(groups.tolist())):
        rows = np.flatnonzero(groups == group).tolist()
        named = {attribute: [names[row] for row in rows] for attribute, names in classification.named.items()}
        proportions = classifier.proportions(
            Classification(named, classification.features[rows]), [wanted[row] for row in rows]
        )
        found[group] = {attribute: proportion.to_json() for attribute, proportion in proportions.items()}
    return found


def _neighbor_agreement(classifier: AttributeClassifier, classified: ClassifiedArm) -> dict[str, Any]:
    """Returns, for each attribute, the proportion of neighbors that have it as wanted, where it is visible."""
    found = {}
    for attribute in ATTRIBUTES:
        pairs = [
            (neighbor.get(attribute), labels[attribute])
            for neighbors, labels in zip(classified.generated.neighbors, classified.labels, strict=True)
            if classifier.is_visible(labels, attribute)
            for neighbor in neighbors
        ]
        found[attribute] = Proportion(sum(have == want for have, want in pairs), len(pairs)).to_json()
    return found
