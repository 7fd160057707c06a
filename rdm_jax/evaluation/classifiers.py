"""Classifiers of attributes, independent of the models that they evaluate, and real images to test them on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError, some
from rdm_jax.core.images import to_float
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.evaluation.statistics import Proportion
from rdm_jax.models.classifier import build_classifier

EMBEDDED = Path(__file__).parent.parent / "assets" / "classifiers" / "style-scenes"
BATCH = 128
SEED = 91  # none of the seeds of the set's own splits

Labels = Sequence[Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Classification:
    """The output of a classifier for images.

    Attributes:
      named: {attribute: the name of each image's most likely class}.
      features: [n, d] its features of each image, float32.
    """

    named: dict[str, list[str]]
    features: Float[np.ndarray, "n d"]

    def correct(self, wanted: Labels, attribute: str) -> Bool[np.ndarray, " n"]:
        """Returns for each image whether its attribute is classified as wanted."""
        names = zip(self.named[attribute], wanted, strict=True)
        return np.array([name == labels[attribute] for name, labels in names], bool)


@dataclasses.dataclass(frozen=True, eq=False)
class AttributeClassifier:
    """A trained classifier.

    Attributes:
      bundle: its classes, its parameters, and under "evaluation" where attributes are invisible: {"unseen":
        {attribute: {other attribute: values}}}.
    """

    bundle: Bundle

    @staticmethod
    def open(path: str | Path | None = None) -> AttributeClassifier:
        """Opens the classifier that ships with the package, or that of a folder.

        Raises:
          UserError: there is none, or it is damaged.
        """
        if path is None and not EMBEDDED.is_dir():
            raise UserError(
                "no classifier ships with this copy of the package; give one by --classifier, or --train-classifier"
            )
        bundle = Bundle.open(EMBEDDED if path is None else path)
        bundle.require("classifier")
        return AttributeClassifier(bundle)

    @property
    def classes(self) -> dict[str, list[str]]:
        """{attribute: the names of its classes}."""
        return self.bundle.config["classifier"]["classes"]

    def require(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError unless the classifier knows each of the attributes, and all the names of each."""
        for attribute, names in wanted.items():
            missing = sorted(set(names) - set(self.classes.get(attribute, ())))
            if missing:
                raise UserError(
                    f"classifier {self.bundle.name!r} does not know the {attribute} {some(missing)}; train it on these"
                )

    def is_visible(self, labels: Mapping[str, str], attribute: str) -> bool:
        """Returns whether an attribute is visible in an image with these labels (charcoal has no color)."""
        hidden = self.bundle.config.get("evaluation", {}).get("unseen", {}).get(attribute, {})
        return not any(labels.get(other) in values for other, values in hidden.items())

    def classify(
        self, images: UInt8[np.ndarray, "n h w 3"], progress: ProgressCallback | None = None
    ) -> Classification:
        """Returns the classes and the features of images of the size that it was trained on."""
        features: list[np.ndarray] = []
        classes: dict[str, list[np.ndarray]] = {name: [] for name in self.classes}
        for start in range(0, len(images), BATCH):
            batch = np.asarray(images[start : start + BATCH])
            # Padded with black images, so that one shape is compiled.
            padded = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), np.uint8)])
            found, best = jax.device_get(self._classify(self.bundle.params["classifier"], to_float(padded)))
            features.append(found[: len(batch)])
            for name, numbers in best.items():
                classes[name].append(numbers[: len(batch)])
            if progress:
                progress(start + len(batch), len(images))
        named = {name: [self.classes[name][i] for i in np.concatenate(parts)] for name, parts in classes.items()}
        return Classification(named, np.concatenate(features))

    def logits(self, features: Float[np.ndarray, "n d"]) -> dict[str, Float[np.ndarray, "n _"]]:
        """Returns {attribute: [n, classes] the logits of its classes} from the features of images."""
        return jax.device_get(self._logits(self.bundle.params["classifier"], features))

    def grams(self, images: UInt8[np.ndarray, "n h w 3"]) -> list[Float[np.ndarray, "n _ _"]]:
        """Returns the Gram matrices of the feature maps of the stem and of each level, which describe textures."""
        parts = []
        for start in range(0, len(images), BATCH):
            batch = np.asarray(images[start : start + BATCH])
            parts.append(jax.device_get(self._grams(self.bundle.params["classifier"], to_float(batch))))
        return [np.concatenate(levels) for levels in zip(*parts, strict=True)]

    def proportions(self, classification: Classification, wanted: Labels) -> dict[str, Proportion]:
        """Returns {attribute: how often it is classified as wanted}, over the images in which it is visible."""
        found = {}
        for attribute in self.classes:
            visible = np.array([self.is_visible(labels, attribute) for labels in wanted], bool)
            correct = classification.correct(wanted, attribute)[visible]
            found[attribute] = Proportion(int(correct.sum()), int(visible.sum()))
        return found

    @functools.cached_property
    def _classify(self) -> Callable[..., tuple[Array, dict[str, Array]]]:
        module = build_classifier(self.bundle.config["classifier"])

        def classify(params: dict[str, Any], x: Float[Array, "b h w 3"]) -> tuple[Array, dict[str, Array]]:
            bound = module.bind({"params": params})
            features = bound.features(x)
            return features, {name: values.argmax(-1) for name, values in bound.classify(features).items()}

        return jax.jit(classify)

    @functools.cached_property
    def _logits(self) -> Callable[..., dict[str, Array]]:
        module = build_classifier(self.bundle.config["classifier"])
        return jax.jit(lambda params, features: module.apply({"params": params}, features, method="classify"))

    @functools.cached_property
    def _grams(self) -> Callable[..., list[Array]]:
        module = build_classifier(self.bundle.config["classifier"])

        def grams(params: dict[str, Any], x: Float[Array, "b h w 3"]) -> list[Array]:
            """Returns the Gram matrices of all convolutions of the stem and all blocks of the levels."""
            _, state = module.apply({"params": params}, x, method="features", capture_intermediates=True)
            maps: list[Any] = [
                outputs["__call__"][0]
                for name, outputs in state["intermediates"].items()
                if name.startswith(("convs_", "levels_"))
            ]
            return [jnp.einsum("bhwc,bhwd->bcd", m, m) / (m.shape[1] * m.shape[2]) for m in maps]

        return jax.jit(grams)


@dataclasses.dataclass(frozen=True)
class RealImages:
    """Images of the procedural set with their labels."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Sequence[bool] | np.ndarray) -> RealImages:
        """Returns the images where `chosen` is true."""
        rows = np.flatnonzero(np.asarray(chosen))
        return RealImages(self.images[rows], [self.labels[row] for row in rows])


def real_images(split: str, indices: Sequence[int], progress: ProgressCallback | None = None) -> RealImages:
    """Returns images of a split of the procedural set, made here; each depends on its index alone.

    Raises:
      UserError: the split is unknown or an index negative.
    """
    from rdm_jax.data.style_scenes.builder import example

    images, labels = [], []
    for done, index in enumerate(indices, 1):
        record = example(split, int(index))
        images.append(record["image"])
        labels.append({name: record[name] for name in ("subject", "colour", "ground", "style")})
        if progress:
            progress(done, len(indices))
    return RealImages(np.stack(images), labels)


def real_images_like(labels: Labels, seed: int) -> RealImages:
    """Returns real images with the given labels, each in a random pose, on a random ground if they name none."""
    from rdm_jax.data.style_scenes.builder import image_of
    from rdm_jax.data.style_scenes.vocabulary import GROUNDS

    images, found = [], []
    for row, wanted in enumerate(labels):
        generator = np.random.default_rng([SEED, seed, row])
        found.append({"ground": str(generator.choice(list(GROUNDS))), **wanted})
        images.append(image_of(found[-1], generator))
    return RealImages(np.stack(images), found)
