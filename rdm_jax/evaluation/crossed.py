"""The style experiment of arXiv 2207.13038: a style by its database, by its name in the prompt, by both, by neither.

Each way is measured for three groups of styles: those that captions of the training set name, those that none names,
and those that training has excluded.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.core import sheets
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.style_scenes.vocabulary import (
    COLORS,
    KEPT_OUT,
    NAMED_STYLES,
    NEVER_NAMED,
    STYLES,
    SUBJECTS,
    in_training,
)
from rdm_jax.evaluation.arms import Arm, check_styles
from rdm_jax.evaluation.classifiers import AttributeClassifier, real_images, real_images_like
from rdm_jax.evaluation.comparisons import ClassifiedArm, pairs_within
from rdm_jax.evaluation.generation import CellGenerator
from rdm_jax.evaluation.metrics.copies import nearest_cosine
from rdm_jax.evaluation.report import ATTRIBUTES, HEADINGS, markdown_table, number, screen_table, with_interval
from rdm_jax.evaluation.statistics import Mean, Proportion
from rdm_jax.evaluation.style_swap import Sizes, arm_results, generate_arms, spread_indices

WAYS = {
    "database": "neutral prompt, the style's database",
    "name": "style named in the prompt, general database",
    "both": "style named, the style's database",
    "neither": "neutral prompt, general database",
}
GROUPS = {
    "seen": "styles of the captions",
    "unnamed": "styles that no caption names",
    "unseen": "styles excluded from training",
}
SHOWN = ("boat", "cat")
COPY_QUANTILE = 0.99  # of the real images' cosines: above it, one in a hundred real images is
COLUMNS = ("samples", *HEADINGS, "diversity", "nearest, cosine", "nearer than real images")
LEGEND = (
    "Percent classified as requested, with Wilson's 95 % interval; color without the styles that show none. Diversity: "
    "mean distance of two samples of one prompt and database in the classifier's features, with the 95 % interval over "
    "prompts. Nearest: median cosine to the nearest image of the arm's database in these features. The last column: "
    "percent of samples that are nearer than the nearest 1 % of held-out real images of the styles. The chance of a "
    "style is 8.3 %."
)


def crossed_arms(held_out: Sequence[str] = (KEPT_OUT,)) -> tuple[Arm, ...]:
    """Returns the arms, one for each group of styles and way; groups without a style are omitted.

    Args:
      held_out: the styles that the model's training has excluded.

    Raises:
      UserError: there is no such style, or no style is left.
    """
    check_styles(held_out)
    if set(STYLES) <= set(held_out):
        raise UserError("no style is left that training has; give fewer held-out styles")
    styles = {
        "seen": [style for style in NAMED_STYLES if style not in held_out],
        "unnamed": [style for style in NEVER_NAMED if style not in held_out],
        "unseen": list(held_out),
    }
    arms = []
    for group, way in itertools.product(GROUPS, WAYS):
        pairs = [(subject, style) for subject in SUBJECTS for style in styles[group]]
        # Pairs that training has held out would mix two questions.
        pairs = [pair for pair in pairs if group == "unseen" or in_training(*pair)]
        arm = Arm(
            f"{group}_{way}",
            f"{GROUPS[group]}: {WAYS[way]}",
            tuple(pairs),
            own_database=way in ("database", "both"),
            named=way in ("name", "both"),
        )
        arms += [arm] if pairs else []
    return tuple(arms)


def measure_crossed(
    cell_generator: CellGenerator,
    classifier: AttributeClassifier,
    sizes: Sizes,
    progress: StageProgressCallback,
    arms: Sequence[Arm],
) -> tuple[dict[str, Any], dict[str, ClassifiedArm]]:
    """Generates, classifies and measures all arms.

    Args:
      cell_generator: of the images, with the databases.
      classifier: of subjects, colors and styles.
      sizes: `least` samples of each arm, `real` images for the classifier's own accuracy and for copies.
      progress: called with (stage, done, total).
      arms: to measure.

    Returns:
      the results as JSON values, and the classified samples by the name of their arm.

    Raises:
      UserError: a database is missing, or the classifier does not know the images' classes.
    """
    classifier.require({"subject": SUBJECTS, "colour": tuple(COLORS), "style": STYLES})
    real = real_images("test", spread_indices(sizes.real), lambda *at: progress("making real images", *at))
    on_real = classifier.classify(real.images)
    real_styles = np.array([labels["style"] for labels in real.labels])

    @functools.cache
    def features_of(database: str) -> Float[np.ndarray, "m d"]:
        return classifier.classify(cell_generator.thumbnails(database)).features

    classified = generate_arms(cell_generator, classifier, sizes, arms, progress)
    results = {
        "classifier": {name: one.to_json() for name, one in classifier.proportions(on_real, real.labels).items()},
        "arms": {},
    }
    for name, arm in classified.items():
        diversity = arm_diversity(arm)
        results["arms"][name] = {
            **arm_results(classifier, arm),
            "diversity": diversity and diversity.to_json(),
            "real_diversity": real_diversity(classifier, arm).to_json(),
            "copies": arm_copies(arm, features_of, on_real.features, real_styles),
        }
    return results, classified


def arm_diversity(classified: ClassifiedArm) -> Mean | None:
    """Returns the mean distance of two samples of one prompt and database: the mean over prompts of their means.

    None if no two samples have both in common.
    """
    groups = [(cell.prompt, cell.database) for cell in classified.cells]
    features = classified.classification.features.astype(np.float64)
    distances: dict[Any, list[float]] = {}
    for a, b in pairs_within(groups):
        distances.setdefault(groups[a], []).append(float(np.linalg.norm(features[a] - features[b])))
    return Mean.of(np.array([np.mean(of) for of in distances.values()])) if distances else None


def real_diversity(classifier: AttributeClassifier, classified: ClassifiedArm) -> Mean:
    """Returns the mean distance of two real images with the labels of each sample, on random grounds."""
    a, b = (classifier.classify(real_images_like(classified.labels, seed).images).features for seed in (1, 2))
    return Mean.of(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=1))


def arm_copies(
    classified: ClassifiedArm,
    features_of: Callable[[str], Float[np.ndarray, "m d"]],
    real: Float[np.ndarray, "n d"],
    real_styles: np.ndarray,
) -> dict[str, Any]:
    """Returns how near samples are to the images of their databases, beside held-out real images of the same styles.

    Args:
      classified: the arm.
      features_of: the features of all images of a database.
      real: features of real images.
      real_styles: their styles.
    """
    databases = np.array([cell.database for cell in classified.cells])
    samples, references = [], []
    for database in dict.fromkeys(databases.tolist()):
        rows = databases == database
        styles = {cell.style for cell in classified.cells if cell.database == database}
        samples.append(nearest_cosine(classified.classification.features[rows], features_of(database)))
        references.append(nearest_cosine(real[np.isin(real_styles, list(styles))], features_of(database)))
    cosines, of_real = np.concatenate(samples), np.concatenate(references)
    threshold = float(np.quantile(of_real, COPY_QUANTILE))
    return {
        "median": float(np.median(cosines)),
        "real_median": float(np.median(of_real)),
        "threshold": threshold,
        "nearer": Proportion(int((cosines > threshold).sum()), len(cosines)).to_json(),
    }


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table: a row for real images, and one for each arm."""
    own = results["classifier"]
    found = [["real images, held out", str(own["style"]["count"]), *(with_interval(own[name]) for name in ATTRIBUTES)]]
    found[0] += ["", "", ""]
    for arm in results["arms"].values():
        copies = arm["copies"]
        found.append(
            [
                arm["title"],
                str(arm["samples"]),
                *(with_interval(arm[name]) for name in ATTRIBUTES),
                f"{_mean(arm['diversity'])}, real {number(arm['real_diversity']['mean'])}",
                f"{copies['median']:.3f}, real {copies['real_median']:.3f}",
                with_interval(copies["nearer"]),
            ]
        )
    return found


def _mean(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    low = "" if value["low"] is None else f" ({number(value['low'])}-{number(value['high'])})"
    return f"{number(value['mean'])}{low}"


def markdown(results: Mapping[str, Any], title: str) -> str:
    """Returns the table as Markdown."""
    return f"# {title}\n\n{LEGEND}\n\n{markdown_table(('arm', *COLUMNS), rows(results))}\n"


def screen(results: Mapping[str, Any]) -> str:
    """Returns the table for a terminal."""
    return f"{LEGEND}\n\n{screen_table(('', *COLUMNS), rows(results))}\n"


def grid(classified: Mapping[str, ClassifiedArm]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a sheet with a row for each style and a column for each way, for each of the subjects `SHOWN`."""
    found: dict[tuple[str, str, str], np.ndarray] = {}
    for name, arm in classified.items():
        way = name.rpartition("_")[2]
        for cell, image in zip(arm.cells, arm.generated.images, strict=True):
            found.setdefault((cell.style, cell.subject, way), image)
    styles = [style for style in STYLES if any(key[0] == style for key in found)]
    columns = list(itertools.product(SHOWN, WAYS))
    height, width = next(iter(found.values())).shape[:2]
    empty = sheets.blank(height, width)
    images = [np.stack([found.get((style, *column), empty) for column in columns]) for style in styles]
    labels = [f"{subject}, by {way}" for subject, way in columns]
    return sheets.grid(np.stack(images), row_labels=styles, column_labels=labels)
