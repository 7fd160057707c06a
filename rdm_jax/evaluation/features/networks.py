"""Networks whose features are compared: a converted Inception-v3 or CLIP, or a classifier that stands in for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit
from rdm_jax.core.mesh import batch_sharding, local_mesh, put_locally
from rdm_jax.evaluation.classifiers import EMBEDDED as STAND_IN_CLASSIFIER
from rdm_jax.evaluation.features import resizing
from rdm_jax.evaluation.features.published import published_name
from rdm_jax.models.classifier import build_classifier
from rdm_jax.retrieval.encoder import ClipEncoder

PARTS = ("inception", "clip", "classifier")
STAND_IN_CLIP = "style-scenes"
CLASSIFIER_SIDE = 64  # pixels of the sets that the project's classifiers are trained on
BATCH = 64

Outputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network that maps images to features, on all devices of this process.

    Attributes:
      bundle: that holds it.
      part: a name in `PARTS`.
      resizing: of an Inception, a name in `resizing.MODES`; the others have one way.
      stand_in: whether it takes the place of a network that was not given.
      batch: images at once; rounded up to a multiple of the devices.
    """

    bundle: Bundle
    part: str
    resizing: str = "clean"
    stand_in: bool = False
    batch: int = BATCH

    def __post_init__(self) -> None:
        resizing.check_mode(self.resizing)
        devices = jax.local_device_count()
        object.__setattr__(self, "batch", -(-self.batch // devices) * devices)

    @functools.cached_property
    def published(self) -> str | None:
        """The name of the published weights; None for any others."""
        return published_name(self.bundle, self.part)

    @property
    def title(self) -> str:
        """The name of the network in tables."""
        return self.published or f"the {self.part} of {self.bundle.name!r}"

    @property
    def record(self) -> dict[str, Any]:
        """What must be equal for two sets of features to be comparable, as JSON values."""
        return {
            "name": self.title,
            "part": self.part,
            "sha256": self.bundle.hashes[self.part],
            "published": self.published is not None,
            "preprocessing": self.preprocessing,
        }

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes the network's input, as JSON values."""
        if self.part == "inception":
            divisor = 127.5 if self.resizing == "legacy_pytorch" else 128
            return {"size": resizing.SIDE, "resize": self.resizing, "divisor": divisor}
        if self.part == "clip":
            return ClipEncoder(self.bundle).preprocessing
        return {"size": CLASSIFIER_SIDE, "resize": "bicubic with antialiasing until it fills the square, cropped"}

    @functools.cached_property
    def width(self) -> int:
        """The number of features."""
        blank = self.prepare(np.zeros((self._side, self._side, 3), np.uint8))
        shape = jax.ShapeDtypeStruct((self.batch, *blank.shape), blank.dtype)
        return jax.eval_shape(self._apply, self.bundle.params[self.part], shape)["features"].shape[1]

    def prepare(self, image: UInt8[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "side side 3"]:
        """Returns one image of any size as the network's input; it runs in threads."""
        if self.part == "inception":
            return resizing.normalize(resizing.resize(image, self.resizing), self.resizing)
        return fit(image, self._side, self._side)

    def __call__(self, prepared: Shaped[np.ndarray, "b side side 3"]) -> Outputs:
        """Returns the features of up to `batch` prepared images, each [b, ...] in float32.

        Returns:
          "features" [b, d] and, except for a CLIP, "logits" [b, classes]: of an Inception without the bias, as the
          Inception Score is computed; of a classifier those of the attribute with the most classes.
        """
        count = len(prepared)
        if count > self.batch:
            raise ValueError(f"{count} images are more than a batch of {self.batch}")
        # Padded, so that one shape is compiled.
        padded = np.concatenate([prepared, np.repeat(prepared[-1:], self.batch - count, axis=0)])
        found = self._apply(self._params, jax.device_put(padded, batch_sharding(self._mesh)))
        return {name: np.asarray(value, np.float32)[:count] for name, value in found.items()}

    @functools.cached_property
    def _side(self) -> int:
        sides = {"inception": resizing.SIDE, "classifier": CLASSIFIER_SIDE}
        return sides.get(self.part) or ClipEncoder(self.bundle).image_size

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return local_mesh()

    @functools.cached_property
    def _params(self) -> Any:
        return put_locally(self.bundle.params[self.part], self._mesh)

    @functools.cached_property
    def _apply(self) -> Callable[..., dict[str, jax.Array]]:
        return jax.jit({"inception": _inception, "clip": _clip, "classifier": _classifier}[self.part](self.bundle))


def _inception(bundle: Bundle) -> Callable[..., dict[str, jax.Array]]:
    def apply(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        outputs = bundle.inception.apply({"params": params}, x)
        return {"features": outputs["pool"], "logits": outputs["pool"] @ params["fc"]["kernel"]}

    return apply


def _clip(bundle: Bundle) -> Callable[..., dict[str, jax.Array]]:
    settings = bundle.config["clip"]
    mean, std = (np.asarray(settings[key], np.float32)[None, None, None] for key in ("mean", "std"))

    def apply(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        normalized = (x.astype(np.float32) / 255.0 - mean) / std
        return {"features": bundle.clip.apply({"params": params}, normalized, method="encode_image")}

    return apply


def _classifier(bundle: Bundle) -> Callable[..., dict[str, jax.Array]]:
    module, classes = build_classifier(bundle.config["classifier"]), bundle.config["classifier"]["classes"]
    attribute = max(classes, key=lambda name: len(classes[name]))

    def apply(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        bound = module.bind({"params": params})
        features = bound.features(x.astype(np.float32) / 127.5 - 1.0)
        return {"features": features, "logits": bound.classify(features)[attribute]}

    return apply


def stand_in(part: str, batch: int = BATCH) -> FeatureNetwork:
    """Returns the network of the project that stands in for a published one: its classifier, or its CLIP for "clip".

    Raises:
      UserError: this copy of the package ships none.
    """
    if part == "clip":
        return FeatureNetwork(Bundle.open(STAND_IN_CLIP, parts=("clip",)), "clip", stand_in=True, batch=batch)
    if not STAND_IN_CLASSIFIER.is_dir():
        raise UserError("no classifier ships with this copy of the package; give a feature network by --features")
    return FeatureNetwork(Bundle.open(STAND_IN_CLASSIFIER), "classifier", stand_in=True, batch=batch)
