"""Measures of guided images by name: from a classifier, from CLIP and from pixels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.evaluation import similarity
from rdm_jax.evaluation.classifiers import AttributeClassifier, Classification
from rdm_jax.evaluation.gallery import Gallery, Target, style_attribute
from rdm_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from rdm_jax.evaluation.statistics import Mean, Proportion
from rdm_jax.retrieval.encoder import RetrievalEncoder

PLACES = (1, 5, 10, 20)
LAYOUT_SIDE = 4  # pixels; strokes and textures are finer
LOW_SIDE = 16  # pixels: ILVR's factor 4 in latents of a quarter of the size

Measures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Images and their features.

    Attributes:
      images: [n, h, w, 3]; equally many of each target, in the targets' order.
      vectors: [n, d] of CLIP.
      classification: of the classifier.
      grams: of the classifier's feature maps.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    vectors: Float[np.ndarray, "n d"]
    classification: Classification
    grams: list[Float[np.ndarray, "n _ _"]]

    def repeated(self, count: int) -> EncodedImages:
        """Returns each image `count` times in a row."""
        rows = np.repeat(np.arange(len(self.images)), count)
        named = {name: [values[i] for i in rows] for name, values in self.classification.named.items()}
        classification = Classification(named, self.classification.features[rows])
        return EncodedImages(self.images[rows], self.vectors[rows], classification, [gram[rows] for gram in self.grams])


@dataclasses.dataclass(frozen=True, eq=False)
class ImageMetrics:
    """Measures sets of images of the same targets.

    Attributes:
      classifier: of attributes; its features measure distances.
      encoder: the CLIP that ranks a gallery.
      targets: what guidance aims at.
      others: the gallery of distractors, which are real images.
    """

    classifier: AttributeClassifier
    encoder: RetrievalEncoder
    targets: Sequence[Target]
    others: Gallery

    def encode(self, images: UInt8[np.ndarray, "n h w 3"]) -> EncodedImages:
        """Returns images with their features."""
        vectors, classification = self.encoder.encode_images(images), self.classifier.classify(images)
        return EncodedImages(images, vectors, classification, self.classifier.grams(images))

    def measure(
        self, encoded: EncodedImages, wanted: Sequence[Mapping[str, str]], plain: EncodedImages | None = None
    ) -> Measures:
        """Returns all measures of a set of images.

        By attribute, how often it is classified as wanted; the attribute of the style is "style". "caption@k",
        "image@k" and "classifier@k": how often the target is among the first k of the gallery (its caption and its
        image by CLIP, its image by the classifier's features). "gram", "low", "layout": the distance of textures and of
        low frequencies, and the correlation of brightness, to the target's image. "diversity": the mean distance of two
        images of one target in the classifier's features. "frechet": to the gallery. "moved" and "moved_pixels": the
        distance to the images without guidance.

        Args:
          encoded: images of all targets.
          wanted: the labels of each target that its images should have.
          plain: images from the same noise without guidance.
        """
        count = len(encoded.images) // len(self.targets)
        numbers = np.repeat(np.arange(len(self.targets)), count)
        references = self.references.repeated(count)
        features = encoded.classification.features
        apart = [similarity.pairwise_distances(features[numbers == number]) for number in range(len(self.targets))]
        found: Measures = {**self._proportions(encoded, [wanted[number] for number in numbers.tolist()])}
        found |= _places("caption", self._caption_ranks(encoded.vectors, numbers))
        found |= _places("image", similarity.ranks(encoded.vectors, references.vectors, self._gallery.vectors))
        own, others = references.classification.features, self._gallery.classification.features
        found |= _places("classifier", similarity.ranks(features, own, others))
        means = {
            "gram": similarity.gram_distances(encoded.grams, references.grams),
            "low": similarity.low_difference(encoded.images, references.images, LOW_SIDE),
            "layout": similarity.layout(encoded.images, references.images, LAYOUT_SIDE),
            "diversity": np.concatenate(apart),
        }
        if plain is not None:
            means["moved"] = np.linalg.norm(features - plain.classification.features, axis=1)
            means["moved_pixels"] = similarity.pixel_distance(encoded.images, plain.images)
        found |= {name: Mean.of(values).to_json() for name, values in means.items() if len(values)}
        return {**found, "frechet": self.frechet(features)}

    def frechet(self, features: Float[np.ndarray, "n d"]) -> float:
        """Returns the Frechet distance of features of the classifier to those of the gallery."""
        return frechet_distance(moments_of(features), self._moments)

    @functools.cached_property
    def references(self) -> EncodedImages:
        """The targets' own images."""
        return self.encode(np.stack([target.image for target in self.targets]))

    @functools.cached_property
    def _gallery(self) -> EncodedImages:
        images = self.others.images
        return EncodedImages(images, self.encoder.encode_images(images), self.classifier.classify(images), [])

    @functools.cached_property
    def _moments(self) -> Any:
        return moments_of(self._gallery.classification.features)

    @functools.cached_property
    def _captions(self) -> tuple[list[str], Float[np.ndarray, "m d"]]:
        captions = list(dict.fromkeys(self.others.captions))
        return captions, self.encoder.encode_texts(captions)

    def _caption_ranks(self, vectors: Float[np.ndarray, "n d"], numbers: np.ndarray) -> np.ndarray:
        """Returns the rank of each image's own caption among the other captions of the gallery."""
        captions, others = self._captions
        own = self.encoder.encode_texts([target.caption for target in self.targets])
        found = np.zeros(len(vectors), np.int64)
        for number, target in enumerate(self.targets):
            of_target = numbers == number
            apart = np.array([caption != target.caption for caption in captions])
            wanted = np.repeat(own[number : number + 1], int(of_target.sum()), axis=0)
            found[of_target] = similarity.ranks(vectors[of_target], wanted, others[apart])
        return found

    def _proportions(self, encoded: EncodedImages, wanted: Sequence[Mapping[str, str]]) -> Measures:
        """Returns how often each attribute is classified as wanted, where it is wanted and visible."""
        style = style_attribute(list(self.targets[0].labels))
        found = {}
        for attribute in self.classifier.classes:
            visible = self.classifier.is_visible
            rows = [i for i, labels in enumerate(wanted) if attribute in labels and visible(labels, attribute)]
            hits = sum(encoded.classification.named[attribute][i] == wanted[i][attribute] for i in rows)
            if rows:
                found["style" if attribute == style else attribute] = Proportion(hits, len(rows)).to_json()
        return found


def _places(name: str, ranks: np.ndarray) -> Measures:
    """Returns the proportion of ranks within the first places, "name@k" for each k."""
    return {f"{name}@{k}": Proportion(int((ranks < k).sum()), len(ranks)).to_json() for k in PLACES}


def interval_of(found: Mapping[str, Any], name: str) -> tuple[float, float, float] | None:
    """Returns (value, low, high) of a measure, None if it is missing; without an interval all three are the value."""
    value = found.get(name)
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return float(value), float(value), float(value)
    middle = value["rate"] if "rate" in value else value["mean"]
    low, high = value["low"], value["high"]
    return middle, middle if low is None else low, middle if high is None else high
