"""The metrics of sets of images by name: which features each needs, what it may be called, and how it is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.evaluation import paired_metrics
from rdm_jax.evaluation.features import published
from rdm_jax.evaluation.features.extraction import SetFeatures
from rdm_jax.evaluation.features.networks import BATCH, FeatureNetwork
from rdm_jax.evaluation.metric_row import HIGHER, LOWER, Row, mean_row
from rdm_jax.evaluation.metrics.class_score import class_score
from rdm_jax.evaluation.metrics.copies import nearest
from rdm_jax.evaluation.metrics.frechet import frechet_distance, moments_of, require_rank
from rdm_jax.evaluation.metrics.intervals import bootstrap_statistic
from rdm_jax.evaluation.metrics.kernel import (
    CMMD_SCALE,
    CMMD_SIGMA,
    KID_SEED,
    SUBSET_SIZE,
    gaussian_mmd,
    kernel_distance,
)
from rdm_jax.evaluation.metrics.manifold import manifold
from rdm_jax.evaluation.set_comparison import Comparison, choose_network

DISTRIBUTION = ("inception", "clip", "classifier")
CLASSES = ("inception", "classifier")
CLIP = ("clip",)
SEMANTIC = ("clip", "classifier", "inception")


@dataclasses.dataclass(frozen=True)
class SetMetric:
    """One metric, or several that are computed together.

    Attributes:
      help: what it is, in a few words.
      measure: from the comparison and the network to rows of the table.
      parts: the networks that it may use, the preferred one first; empty for none.
      reference: whether it needs one.
      keep: whether it needs the features of each image, beside their moments.
      training: whether it needs the images that copies are searched among.
    """

    help: str
    measure: Callable[[Comparison, Any], list[Row]]
    parts: tuple[str, ...] = DISTRIBUTION
    reference: bool = True
    keep: bool = True
    training: bool = False


def _sets(comparison: Comparison, network: FeatureNetwork) -> tuple[SetFeatures, SetFeatures]:
    assert comparison.reference is not None
    return comparison.images.features[network], comparison.reference.features[network]


def _kept(comparison: Comparison, network: FeatureNetwork) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    images, reference = _sets(comparison, network)
    assert images.features is not None and reference.features is not None
    return images.features, reference.features


def _named(network: FeatureNetwork, name: str, otherwise: str, weights: str = published.INCEPTION) -> str:
    """Returns the name of the literature for features of the published weights alone."""
    return name if network.published == weights else f"{otherwise} in features of {network.title}"


def frechet(comparison: Comparison, network: FeatureNetwork, prefix: str = "") -> list[Row]:
    """Returns the Fréchet distance: FID in features of the published Inception, CLIP-FID in those of CLIP ViT-B/32."""
    images, reference = _sets(comparison, network)
    options, few = comparison.options, []
    assert comparison.reference is not None
    for found, which in ((images, comparison.images), (reference, comparison.reference)):
        try:
            if not which.foreign:
                require_rank(found.moments, which.name)
        except UserError:
            if not options.allow_few:
                raise
            few.append(which.name)
    title = f"{prefix}FID" if network.published == published.INCEPTION else ""
    if network.published == published.VIT_B_32:
        title = f"{prefix}CLIP-FID"
    parameters = {"too_few_images": few, "preprocessing": network.preprocessing["resize"]}
    row = Row(
        title or f"{prefix}Fréchet distance in features of {network.title}",
        frechet_distance(images.moments, reference.moments),
        LOWER,
        parameters=parameters,
    )
    if not options.bootstrap or images.features is None:
        return [row]
    features = images.features
    interval = bootstrap_statistic(
        len(features),
        lambda rows: frechet_distance(moments_of(features[rows]), reference.moments),
        options.bootstrap,
        options.seed,
    )
    return [dataclasses.replace(row, interval=interval)]


def reconstruction_frechet(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns the Fréchet distance of reconstructions to their originals, which must be paired by name."""
    paired_metrics.pair_rows(comparison)
    return frechet(comparison, network, prefix="r")


def kernel(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns the kernel inception distance, with the standard deviation over its subsets."""
    options = comparison.options
    images, reference = _kept(comparison, network)
    size = options.subset_size or min(SUBSET_SIZE, len(images), len(reference))
    seed = options.seed or KID_SEED  # the subsets of torch-fidelity unless another seed is given
    found = kernel_distance(images, reference, options.subsets, size, seed)
    parameters = {"subsets": found.subsets, "subset_size": found.size, "seed": seed, "degree": 3}
    return [Row(_named(network, "KID", "kernel distance"), found.mean, LOWER, std=found.std, parameters=parameters)]


def gaussian(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns CMMD, the Gaussian kernel distance of CLIP vectors."""
    options = comparison.options
    images, reference = _kept(comparison, network)
    title = _named(network, "CMMD", "Gaussian kernel distance", published.VIT_L_14_336)
    row = Row(
        title,
        gaussian_mmd(images, reference),
        LOWER,
        parameters={"sigma": CMMD_SIGMA, "scale": CMMD_SCALE},
    )
    if options.bootstrap:
        interval = bootstrap_statistic(
            len(images), lambda rows: gaussian_mmd(images[rows], reference), options.bootstrap, options.seed
        )
        row = dataclasses.replace(row, interval=interval)
    return [row]


def inception_score(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns the Inception Score, with the standard deviation over its parts."""
    logits = comparison.images.features[network].logits
    assert logits is not None
    found = class_score(logits, comparison.options.splits)
    title = "Inception Score" if network.published == published.INCEPTION else f"class score of {network.title}"
    return [Row(title, found.mean, HIGHER, std=found.std, parameters={"splits": found.splits})]


def neighborhoods(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns precision, recall, density and coverage with intervals over the images that each one counts."""
    options = comparison.options
    images, reference = _kept(comparison, network)
    found = manifold(images, reference, options.k, options.coverage_k)
    ks = {"precision": options.k, "recall": options.k, "density": options.coverage_k, "coverage": options.coverage_k}
    return [
        mean_row(f"{name} in features of {network.title}", getattr(found, name), HIGHER, options.seed, {"k": k})
        for name, k in ks.items()
    ]


def copies(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns the mean cosine to the nearest training image, and how many images exceed the threshold."""
    training, options = comparison.training, comparison.options
    assert training is not None
    features, others = (one.features[network].features for one in (comparison.images, training))
    assert features is not None and others is not None
    found = nearest(features, others)
    parameters = {"compared_with": training.name, "images": len(others), "threshold": options.threshold}
    by = f"by {network.title}"
    return [
        mean_row(
            f"cosine to the nearest image of {training.name} {by}", found.cosines, LOWER, options.seed, parameters
        ),
        mean_row(
            f"images nearer than {options.threshold:g} to one of {training.name} {by}",
            found.above(options.threshold),
            LOWER,
            options.seed,
            parameters,
        ),
    ]


METRICS: Mapping[str, SetMetric] = {
    "fid": SetMetric("Fréchet distance", frechet, keep=False),
    "clip-fid": SetMetric("Fréchet distance of CLIP's features", frechet, CLIP, keep=False),
    "kid": SetMetric("kernel distance, unbiased", kernel),
    "cmmd": SetMetric("Gaussian kernel distance of CLIP vectors", gaussian, CLIP),
    "is": SetMetric("Inception Score", inception_score, CLASSES, reference=False),
    "prdc": SetMetric("precision, recall, density, coverage", neighborhoods),
    "lpips": SetMetric(
        "mean distance of two images of one caption, or of any two", paired_metrics.diversity, (), reference=False
    ),
    "clip-score": SetMetric("cosine of image and caption", paired_metrics.caption_score, CLIP, reference=False),
    "retrieval": SetMetric(
        "own caption among the first k of a gallery", paired_metrics.caption_retrieval, CLIP, reference=False
    ),
    "copies": SetMetric("nearest training image (--training)", copies, SEMANTIC, reference=False, training=True),
    "gram": SetMetric("distance of textures to the reference's mean", paired_metrics.textures, ("classifier",)),
    "psnr": SetMetric("against the reference's image of the same name", paired_metrics.signal_to_noise, ()),
    "ssim": SetMetric("against the reference's image of the same name", paired_metrics.structure, ()),
    "rfid": SetMetric("Fréchet distance of reconstructions to originals", reconstruction_frechet, keep=False),
}
"""By the name that --metrics takes."""


def parse_metrics(names: Sequence[str]) -> dict[str, SetMetric]:
    """Returns the metrics of these names, in their order; raises UserError for an unknown name, or for none."""
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    if not names:
        raise UserError(f"no metric is given; name some of {', '.join(METRICS)}")
    return {name: METRICS[name] for name in dict.fromkeys(names)}


def check_needs(metrics: Mapping[str, SetMetric], reference: object, training: object) -> None:
    """Raises UserError for the first metric whose reference or training images were not given."""
    for name, metric in metrics.items():
        if metric.reference and reference is None:
            raise UserError(f"metric {name} needs a reference; give --reference DIR, or STATS.npz")
        if metric.training and training is None:
            raise UserError(f"metric {name} needs the images to search; give --training DIR, or a database")


def networks_of(
    metrics: Mapping[str, SetMetric], bundles: Sequence[Bundle], resizing: str, batch: int = BATCH
) -> dict[str, FeatureNetwork]:
    """Returns the network of each metric that needs one; metrics of one network share it.

    Args:
      metrics: by name.
      bundles: that the user gave, in order.
      resizing: of an Inception.
      batch: images at once.

    Raises:
      UserError: there is no such resizing, or no network ships with this copy of the package.
    """
    shared: dict[tuple[str, str], FeatureNetwork] = {}
    found = {}
    for name, metric in metrics.items():
        if metric.parts:
            network = choose_network(bundles, metric.parts, resizing, batch)
            found[name] = shared.setdefault((network.part, network.bundle.hashes[network.part]), network)
    return found


def needs_features(metrics: Mapping[str, SetMetric], bootstrap: int) -> bool:
    """Returns whether the features of each image must be kept for these metrics."""
    return bootstrap > 0 or any(metric.keep and metric.parts for metric in metrics.values())


def measure(
    comparison: Comparison, metrics: Mapping[str, SetMetric], networks: Mapping[str, FeatureNetwork]
) -> list[dict[str, Any]]:
    """Returns the rows of all metrics as JSON values, each with the network that it used.

    Args:
      comparison: of the sets.
      metrics: by name.
      networks: of each metric that needs one, by the metric's name.

    Raises:
      UserError: there are too few images for a metric, or images without a caption or a partner of the same name.
    """
    rows = []
    for name, metric in metrics.items():
        network = networks.get(name)
        for row in metric.measure(comparison, network):
            used = {} if network is None else {"network": network.title, "stand_in": network.stand_in}
            rows.append({"metric": name, **used, **row.to_json()})
    return rows
