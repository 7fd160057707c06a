"""Judges: classifiers that share nothing with the models they judge, and the real pictures they are tried on."""

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
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_float
from rdm_jax.evaluation.statistics import Share
from rdm_jax.models.classifier import build_classifier

EMBEDDED = Path(__file__).parent.parent / "assets" / "judges" / "style-scenes"
BATCH = 128
# Kept apart from the seeds of the set's own splits.
DRAWING_SEED = 91

Progress = Callable[[int, int], None]
Labels = Sequence[Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge says of pictures.

    Attributes:
      named: {attribute: the name of each picture's most likely class}.
      features: [n, d] what the judge saw in each picture, float32.
    """

    named: dict[str, list[str]]
    features: Float[np.ndarray, "n d"]

    def correct(self, wanted: Labels, attribute: str) -> Bool[np.ndarray, " n"]:
        """Returns where the attribute is named as wanted."""
        names = zip(self.named[attribute], wanted, strict=True)
        return np.array([name == labels[attribute] for name, labels in names], bool)


@dataclasses.dataclass(frozen=True, eq=False)
class Judge:
    """A trained classifier.

    Attributes:
      bundle: its classes, its parameters, and under "judging" what cannot be seen: {"unseen": {attribute: {other
        attribute: values}}}.
    """

    bundle: Bundle

    @staticmethod
    def open(path: Path | None = None) -> Judge:
        """Opens the judge that ships with the package, or that of a folder.

        Raises:
          UserError: there is none, or it is damaged.
        """
        if path is None and not EMBEDDED.is_dir():
            raise UserError("no judge ships with this copy of the package; give one by --judges, or --train-judges")
        bundle = Bundle.open(path or EMBEDDED)
        bundle.require("classifier")
        return Judge(bundle)

    @property
    def classes(self) -> dict[str, list[str]]:
        """{attribute: the names of its classes}."""
        return self.bundle.config["classifier"]["classes"]

    def require(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Raises UserError unless the judge knows each of the attributes, and all the names of each."""
        for attribute, names in wanted.items():
            missing = sorted(set(names) - set(self.classes.get(attribute, ())))
            if missing:
                raise UserError(
                    f"judge {self.bundle.name!r} does not know the {attribute} {', '.join(missing)}; train it on these"
                )

    def sees(self, labels: Mapping[str, str], attribute: str) -> bool:
        """Says whether the attribute can be seen in a picture with these labels (no colour in charcoal)."""
        hidden = self.bundle.config.get("judging", {}).get("unseen", {}).get(attribute, {})
        return not any(labels.get(other) in values for other, values in hidden.items())

    def judge(self, pictures: UInt8[np.ndarray, "n h w 3"], progress: Progress | None = None) -> Verdict:
        """Names every attribute of pictures of the size that it was trained on."""
        features: list[np.ndarray] = []
        classes: dict[str, list[np.ndarray]] = {name: [] for name in self.classes}
        for start in range(0, len(pictures), BATCH):
            batch = np.asarray(pictures[start : start + BATCH])
            # Filled up with black pictures, so that one shape is compiled.
            filled = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), np.uint8)])
            seen, best = jax.device_get(self._look(self.bundle.params["classifier"], to_float(filled)))
            features.append(seen[: len(batch)])
            for name, numbers in best.items():
                classes[name].append(numbers[: len(batch)])
            if progress:
                progress(start + len(batch), len(pictures))
        named = {name: [self.classes[name][i] for i in np.concatenate(parts)] for name, parts in classes.items()}
        return Verdict(named, np.concatenate(features))

    def grams(self, pictures: UInt8[np.ndarray, "n h w 3"]) -> list[Float[np.ndarray, "n _ _"]]:
        """Returns the Gram matrices of the maps of the stem and of each level, float32: what textures there are."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            batch = np.asarray(pictures[start : start + BATCH])
            parts.append(jax.device_get(self._grams(self.bundle.params["classifier"], to_float(batch))))
        return [np.concatenate(levels) for levels in zip(*parts, strict=True)]

    def shares(self, verdict: Verdict, wanted: Labels) -> dict[str, Share]:
        """Returns {attribute: how often it is named as wanted}, over the pictures in which it can be seen."""
        found = {}
        for attribute in self.classes:
            seen = np.array([self.sees(labels, attribute) for labels in wanted], bool)
            found[attribute] = Share(int(verdict.correct(wanted, attribute)[seen].sum()), int(seen.sum()))
        return found

    @functools.cached_property
    def _look(self) -> Callable[..., tuple[Array, dict[str, Array]]]:
        module = build_classifier(self.bundle.config["classifier"])

        def look(params: dict[str, Any], x: Float[Array, "b h w 3"]) -> tuple[Array, dict[str, Array]]:
            bound = module.bind({"params": params})
            features = bound.features(x)
            return features, {name: values.argmax(-1) for name, values in bound.classify(features).items()}

        return jax.jit(look)

    @functools.cached_property
    def _grams(self) -> Callable[..., list[Array]]:
        module = build_classifier(self.bundle.config["classifier"])

        def look(params: dict[str, Any], x: Float[Array, "b h w 3"]) -> list[Array]:
            """Returns the Gram matrices of all convolutions of the stem and all blocks of the levels."""
            _, seen = module.apply({"params": params}, x, method="features", capture_intermediates=True)
            maps: list[Any] = [
                held["__call__"][0]
                for name, held in seen["intermediates"].items()
                if name.startswith(("convs_", "levels_"))
            ]
            return [jnp.einsum("bhwc,bhwd->bcd", m, m) / (m.shape[1] * m.shape[2]) for m in maps]

        return jax.jit(look)


@dataclasses.dataclass(frozen=True)
class RealPictures:
    """Pictures of the set with their labels."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Sequence[bool] | np.ndarray) -> RealPictures:
        """Returns the pictures where `chosen` is true."""
        rows = np.flatnonzero(np.asarray(chosen))
        return RealPictures(self.images[rows], [self.labels[row] for row in rows])


def real_pictures(split: str, indices: Sequence[int], progress: Progress | None = None) -> RealPictures:
    """Draws pictures of a split of the procedural set anew; each depends on its index alone.

    Raises:
      UserError: the split is unknown or an index negative.
    """
    from rdm_jax.data.style_scenes.builder import example

    images, labels = [], []
    for done, index in enumerate(indices, 1):
        made = example(split, int(index))
        images.append(made["image"])
        labels.append({name: made[name] for name in ("subject", "colour", "ground", "style")})
        if progress:
            progress(done, len(indices))
    return RealPictures(np.stack(images), labels)


def drawn_like(labels: Labels, seed: int) -> RealPictures:
    """Draws real pictures with the labels given, each in a pose of its own; on any ground where they name none."""
    from rdm_jax.data.style_scenes.scene import draw
    from rdm_jax.data.style_scenes.vocabulary import GROUNDS, Scene

    images, found = [], []
    for row, wanted in enumerate(labels):
        generator = np.random.default_rng([DRAWING_SEED, seed, row])
        found.append({"ground": str(generator.choice(list(GROUNDS))), **wanted})
        images.append(draw(Scene(**found[-1]), generator))
    return RealPictures(np.stack(images), found)
