"""Inputs beside captions and neighbors in training: a class, a layout, or a segmentation of each image.

The encoder of an input is trained with the denoiser. Layouts and segmentations are those of the procedural set.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from rdm_jax.conditioning.inputs.layout import Object, Vocabulary
from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import one_of
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import build_input_encoder
from rdm_jax.models.condition import Condition
from rdm_jax.training.config import Config
from rdm_jax.training.labels import attribute
from rdm_jax.training.schema import Positive, Probability

ANNOTATED = ("style_scenes", "style_scenes/tiny")  # sets whose images have layouts
MOST_OBJECTS = 4
POSITIONS = 400  # tokens of a layout, 20 x 20 places of corners among them


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSettings:
    """The `input` section of a config.

    Attributes:
      kind: of the input, a name in `conditioning.inputs.INPUTS`.
      attribute: of the images, whose values are the classes.
      null_probability: of the null class; 0 trains none.
      layers: blocks of the encoder of a layout.
      heads: of each block.
      head_channels: of each head.
      channels: of a segmentation, beside the noisy latent.
    """

    kind: Annotated[str, one_of(("class", "layout", "segmentation"))]
    attribute: str = "subject"
    null_probability: Probability = 0.0
    layers: Positive = 2
    heads: Positive = 4
    head_channels: Positive = 16
    channels: Positive = 3


@dataclasses.dataclass(frozen=True)
class TrainingInput:
    """The input of each training image.

    Attributes:
      settings: of the encoder, the bundle's section "input_encoder".
      conditioning: entries of the bundle's section "conditioning".
      read: an image to what its encoder takes.
      null_probability: of the encoder's null class, where it has one.
    """

    settings: Mapping[str, Any]
    conditioning: Mapping[str, Any]
    read: Callable[[int], Shaped[np.ndarray, "..."]]
    null_probability: float = 0.0

    @functools.cached_property
    def encoder(self) -> Any:
        """The network."""
        return build_input_encoder(self.settings)

    @property
    def channels(self) -> int:
        """Channels beside the noisy latent."""
        return int(self.settings.get("channels", 0))

    def sample(self, image: int, generator: np.random.Generator) -> Shaped[np.ndarray, "..."]:
        """Returns the input of an image, or the null class by chance."""
        null = self.null_probability and generator.random() < self.null_probability
        return np.array(self.settings["num_classes"]) if null else self.read(image)

    def condition(self, params: Any, inputs: Array, base: Condition, null: Array) -> Condition:
        """Returns the condition of a batch: its inputs and its neighbors.

        Args:
          params: of the encoder.
          inputs: of the batch, what `sample` returned.
          base: the tokens of captions, in the first place, and of neighbors; captions are left out.
          null: [b] whether an image has no neighbors by chance; it then has the null class, where there is one.
        """
        neighbors, weights = base.tokens[:, 1:], base.weights[:, 1:]
        if self.null_probability and neighbors.shape[1]:
            inputs = jnp.where(null, self.settings["num_classes"], inputs)
        encoded = self.encoder.apply({"params": params}, inputs)
        if self.channels:
            return Condition(neighbors, weights if neighbors.shape[1] else None, encoded)
        tokens = jnp.concatenate([encoded, neighbors], axis=1)
        ones = jnp.ones(encoded.shape[:2])
        return Condition(tokens, jnp.concatenate([ones, weights], axis=1) if neighbors.shape[1] else None)


def open_input(config: Config, images: ImageSet, width: int, downsampling: int) -> TrainingInput:
    """Returns the input of a run's images.

    Args:
      config: of the run: `input` and `data`.
      images: the training images.
      width: of a context token.
      downsampling: of the first stage.

    Raises:
      UserError: the images have no such attribute, or no layouts.
    """
    chosen = config.input
    if chosen.kind == "class":
        return _classes(chosen, images, width)
    if chosen.null_probability:
        raise UserError(f"input.null_probability is of classes, and input.kind is {chosen.kind!r}; set it to 0")
    _check_annotated(config.data)
    return {"layout": _layouts, "segmentation": _segmentations}[chosen.kind](config, images, width, downsampling)


def _classes(chosen: Config, images: ImageSet, width: int) -> TrainingInput:
    names, numbers = np.unique(attribute(images, chosen.attribute), return_inverse=True)
    has_null = chosen.null_probability > 0
    settings = {"kind": "class", "num_classes": len(names), "width": width, "null_class": has_null}
    conditioning = {"input": "class", "class_names": names.tolist()}
    return TrainingInput(settings, conditioning, lambda image: np.array(numbers[image]), chosen.null_probability)


def _layouts(config: Config, images: ImageSet, width: int, downsampling: int) -> TrainingInput:
    from rdm_jax.data.style_scenes.annotations import OBJECTS

    words = Vocabulary(POSITIONS, 3 * MOST_OBJECTS + 2, len(OBJECTS))
    sizes = {name: config.input[name] for name in ("layers", "heads", "head_channels")}
    settings = {"kind": "tokens", "vocab_size": words.size, "context_length": words.length, "width": width, **sizes}
    conditioning = {"input": "layout", "layout_names": list(OBJECTS), "layout_classes": words.classes}

    def read(image: int) -> Shaped[np.ndarray, "..."]:
        """Returns the tokens of an image's objects."""
        return words.tokens([Object(number, box) for number, box in _annotation(config, images, image).boxes])

    return TrainingInput(settings, conditioning, read)


def _segmentations(config: Config, images: ImageSet, width: int, downsampling: int) -> TrainingInput:
    from rdm_jax.data.style_scenes.annotations import LABELS

    stages = downsampling.bit_length() - 1
    settings = {"kind": "labels", "num_labels": len(LABELS), "channels": config.input.channels, "stages": stages}
    conditioning = {"input": "segmentation", "label_names": list(LABELS)}

    def read(image: int) -> Shaped[np.ndarray, "..."]:
        """Returns the labels of an image's pixels."""
        return _annotation(config, images, image).labels

    return TrainingInput(settings, conditioning, read)


def _annotation(config: Config, images: ImageSet, image: int) -> Any:
    from rdm_jax.data.style_scenes.annotations import annotation

    return annotation(config.data.split, int(images.rows[image]))


def _check_annotated(data: Config) -> None:
    """Raises UserError if the training images have no layouts, or are changed after they were laid out."""
    if data.source not in ANNOTATED:
        raise UserError(f"data.source={data.source} has no layouts; {' and '.join(ANNOTATED)} have")
    if data.mirror:
        raise UserError("data.mirror=true mirrors images and not their layouts; set it to false")
    from rdm_jax.data.style_scenes.vocabulary import SIZE

    if data.size != SIZE:
        raise UserError(f"data.size={data.size}, and the layouts are of {SIZE} pixels; use that size")
