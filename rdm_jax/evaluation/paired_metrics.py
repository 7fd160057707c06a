"""Metrics of images and what belongs to each: a caption, an original of the same name, other images of its group."""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.evaluation.classifiers import AttributeClassifier
from rdm_jax.evaluation.features.extraction import Contents
from rdm_jax.evaluation.features.networks import FeatureNetwork, stand_in
from rdm_jax.evaluation.features.perceptual import PerceptualNetwork
from rdm_jax.evaluation.metric_row import HIGHER, LOWER, Row, mean_row
from rdm_jax.evaluation.metrics.alignment import PLACES, clip_scores, ranks_among
from rdm_jax.evaluation.metrics.diversity import pairs_within
from rdm_jax.evaluation.metrics.pixels import psnr, ssim
from rdm_jax.evaluation.set_comparison import Comparison
from rdm_jax.evaluation.similarity import gram_distances
from rdm_jax.retrieval.encoder import ClipEncoder

CHUNK = 64  # images in memory at once


def captions_of(contents: Contents, what: str) -> list[str]:
    """Returns the caption of each image; raises UserError if one has none.

    Args:
      contents: of the set.
      what: needs them, for the message.
    """
    without = [path for path, caption in zip(contents.paths, contents.captions, strict=True) if not caption]
    if without:
        raise UserError(
            f"{what} needs a caption for each image of {contents.name}, and {len(without)} have none ({without[0]}); "
            "give metadata.jsonl, or a .txt beside each"
        )
    return contents.captions


def caption_score(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns the mean cosine of each image with its caption."""
    _, contents = comparison.images.images_of("clip-score")
    texts = ClipEncoder(network.bundle).encode_texts(captions_of(contents, "clip-score"))
    features = comparison.images.features[network].features
    assert features is not None
    title = f"CLIP-score ({network.title})" if network.published else f"cosine of image and caption by {network.title}"
    return [mean_row(title, clip_scores(features, texts), HIGHER, comparison.options.seed, {"scale": 1})]


def caption_retrieval(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns how often an image's own caption is among the first k of a gallery of captions.

    Distractors are the other captions of the images and of the reference, `options.gallery` of them at most.
    """
    _, contents = comparison.images.images_of("retrieval")
    own, options = captions_of(contents, "retrieval"), comparison.options
    others = comparison.reference.contents if comparison.reference is not None else None
    gallery = list(dict.fromkeys([*own, *(caption for caption in (others.captions if others else ()) if caption)]))
    order = np.random.default_rng(options.seed).permutation(len(gallery))[: options.gallery + 1]
    chosen = [gallery[row] for row in sorted(order)]
    places = [place for place in PLACES if place < len(chosen)]
    if not places:
        raise UserError(f"retrieval needs 2 different captions or more, and {contents.name} has {len(gallery)}")
    encoder = ClipEncoder(network.bundle)
    features = comparison.images.features[network].features
    assert features is not None
    found = ranks_among(features, encoder.encode_texts(own), encoder.encode_texts(chosen), own, chosen)
    parameters = {"gallery": len(chosen), "seed": options.seed}
    return [
        mean_row(
            f"own caption in the first {place} of {len(chosen)} by {network.title}",
            found < place,
            HIGHER,
            options.seed,
            {**parameters, "k": place},
        )
        for place in places
    ]


def diversity(comparison: Comparison, network: FeatureNetwork | None) -> list[Row]:
    """Returns the mean distance of two images of one caption by LPIPS, or in features of the project's classifier."""
    source, contents = comparison.images.images_of("lpips")
    repeated = len(set(contents.captions)) < len(contents.captions)
    grouped = repeated and all(contents.captions)
    groups = contents.captions if grouped else [""] * len(contents)
    pairs = pairs_within(groups, comparison.options.pairs, comparison.options.seed)
    perceptual = PerceptualNetwork.of(comparison.bundles)
    if perceptual is not None and len(contents.sizes) > 1:
        sizes = ", ".join(list(contents.sizes)[:3])
        raise UserError(f"LPIPS compares images of one size, and {contents.name} has {sizes}; resize them first")
    other = None if perceptual else stand_in("classifier")
    distances = []
    for start in range(0, len(pairs), CHUNK):
        first, second = (_images(source, contents, column) for column in pairs[start : start + CHUNK].T.tolist())
        if perceptual is not None:
            distances.append(perceptual.distances(np.stack(first), np.stack(second)))
        else:
            assert other is not None
            distances.append(np.linalg.norm(_features(other, first) - _features(other, second), axis=1))
    title = perceptual.title if perceptual is not None else f"distance in features of {other.title if other else ''}"
    within = "one caption" if grouped else "any caption"
    parameters = {"pairs": len(pairs), "seed": comparison.options.seed}
    shown = f"diversity: {title}, of two images of {within}"
    row = mean_row(shown, np.concatenate(distances), HIGHER, comparison.options.seed, parameters)
    return [dataclasses.replace(row, stand_in=other.title if other else "")]


def _images(source: ImageSource, contents: Contents, rows: Sequence[int]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    return [source[contents.rows[row]].image for row in rows]


def _features(network: FeatureNetwork, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> Float[np.ndarray, "n d"]:
    return network(np.stack([network.prepare(image) for image in images]))["features"]


def textures(comparison: Comparison, network: FeatureNetwork) -> list[Row]:
    """Returns the distance of each image's Gram matrices to the mean ones of the reference, of a style say."""
    assert comparison.reference is not None
    classifier = AttributeClassifier(network.bundle)
    means: list[np.ndarray] = []
    reference, contents = comparison.reference.images_of("gram")
    for grams in _grams(classifier, network, reference, contents):
        sums = [level.sum(axis=0, dtype=np.float64) for level in grams]
        means = [a + b for a, b in zip(means, sums, strict=True)] if means else sums
    means = [level / len(contents) for level in means]
    source, own = comparison.images.images_of("gram")
    found = []
    for grams in _grams(classifier, network, source, own):
        wanted = [np.repeat(level[None], len(grams[0]), axis=0) for level in means]
        found.append(gram_distances(grams, wanted))
    title = f"Gram distance by {network.title}"
    return [mean_row(title, np.concatenate(found), LOWER, comparison.options.seed, {"reference_images": len(contents)})]


def _grams(
    classifier: AttributeClassifier, network: FeatureNetwork, source: ImageSource, contents: Contents
) -> Iterator[list[Float[np.ndarray, "n _ _"]]]:
    """Yields the Gram matrices of some images after another."""
    for start in range(0, len(contents), CHUNK):
        images = [network.prepare(source[row].image) for row in contents.rows[start : start + CHUNK]]
        yield classifier.grams(np.stack(images))


def pair_rows(comparison: Comparison) -> Int[np.ndarray, "n 2"]:
    """Returns the rows of the images and of the reference whose files have one name, whatever their suffix.

    Raises:
      UserError: an image has no partner.
    """
    assert comparison.reference is not None
    _, own = comparison.images.images_of("a comparison of pairs")
    _, other = comparison.reference.images_of("a comparison of pairs")
    partners = {_stem(path): row for path, row in zip(other.paths, other.rows, strict=True)}
    missing = [path for path in own.paths if _stem(path) not in partners]
    if missing:
        raise UserError(
            f"{len(missing)} images of {own.name} have no image of the same name in {other.name} ({missing[0]}); pairs "
            "need equal names"
        )
    rows = [(row, partners[_stem(path)]) for path, row in zip(own.paths, own.rows, strict=True)]
    return np.array(rows, np.int64)


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]


def signal_to_noise(comparison: Comparison, network: FeatureNetwork | None) -> list[Row]:
    """Returns the peak signal-to-noise ratio of images and their originals."""
    return [_of_pairs(comparison, "PSNR in dB", psnr)]


def structure(comparison: Comparison, network: FeatureNetwork | None) -> list[Row]:
    """Returns the structural similarity of images and their originals."""
    return [_of_pairs(comparison, "SSIM", ssim)]


def _of_pairs(comparison: Comparison, title: str, measure: Callable[..., Float[np.ndarray, " n"]]) -> Row:
    assert comparison.reference is not None
    source, contents = comparison.images.images_of(title)
    originals, _ = comparison.reference.images_of(title)
    values = []
    for row, partner in pair_rows(comparison).tolist():
        image, original = source[row].image, originals[partner].image
        if image.shape != original.shape:
            (h, w), (height, width) = image.shape[:2], original.shape[:2]
            raise UserError(
                f"{source.labels(row)['path']} of {contents.name} is {w}x{h} pixels and its original {width}x{height}; "
                f"{title} compares images of one size"
            )
        try:
            values.append(measure(image[None], original[None]))
        except ValueError as error:
            raise UserError(f"{source.labels(row)['path']} of {contents.name}: {error}") from error
    return mean_row(title, np.concatenate(values), HIGHER, comparison.options.seed, {"pairs": len(values)})
