"""A classifier of the attributes of images (subject, color, style), which evaluates models."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Int32, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError, some
from rdm_jax.core.images import to_float
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.held_out import is_held_out
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models.classifier import Classifier, build_classifier
from rdm_jax.training.config import Config
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.schema import Count, Positive, Probability, Run, network
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.base import Task, training_and_held_out, training_images

IGNORED = -1
EVAL_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes of the training images, as generated images have them.

    Attributes:
      shift: the largest shift in pixels.
      blur: the largest weight of a 3x3 mean.
      brightness: the largest change, of pixels in [-1, 1].
      noise: the largest standard deviation.
      mirror: whether half of them are mirrored.
    """

    shift: Count = 0
    blur: Probability = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    mirror: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The settings of a classifier.

    Attributes:
      attributes: of the images, that it names; "caption" is the caption where no attribute has that name.
      most_common: {attribute: number of its classes}: the values that most images have; other values do not count.
      always: {attribute: values} that are among the classes in any case.
      unseen: {attribute: {other attribute: values}}: images with such a value do not count for the attribute.
      held_out_share: of the images of `data.split` that are held out, by their attributes (see `data.held_out`); 0 for
        those of the split `data.held_out`.
      complete: the fraction of training images that surely have a class of every attribute; the others are any.
      eval_images: the most held-out images to evaluate on.
      augment: what images are changed by.
      model: the network.
    """

    attributes: tuple[str, ...]
    most_common: Mapping[str, Positive] = dataclasses.field(default_factory=dict)
    always: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unseen: Mapping[str, Mapping[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    held_out_share: Probability = 0.0
    complete: Probability = 0.0
    eval_images: Positive = 2048
    augment: Augment
    model: Annotated[Mapping[str, Any], network({"": Classifier}, filled=("classes",), by="")]


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> ClassifierTask:
    """Returns the task of `config`, its images read.

    Raises:
      UserError: the images lack one of the attributes, or none is left to train or to evaluate on.
    """
    if config.held_out_share:
        return task_of(config, *_parts(config, training_images(config.data, config.data.split, progress)))
    return task_of(config, *training_and_held_out(config.data, progress))


def task_of(config: Config, train: ImageSet, test: ImageSet) -> ClassifierTask:
    """Returns the task of images to train and to evaluate on.

    The classes of each attribute of `config.attributes` are the sorted values of the training images, or the
    `config.most_common` of them. `config.unseen`, {attribute: {other attribute: values}}, excludes images with such a
    value from that attribute's loss and accuracy.

    Raises:
      UserError: the images lack one of the attributes.
    """
    described = _described(train)
    always = {name: tuple(values) for name, values in config.always.items()}
    classes = class_names(described, tuple(config.attributes), config.most_common.to_dict(), always)
    unseen = {name: {other: tuple(v) for other, v in rule.items()} for name, rule in config.unseen.items()}
    # Spread evenly: sets are often sorted by what is to be named.
    shown = test.take(np.arange(0, len(test), -(-len(test) // config.eval_images)))
    return ClassifierTask(
        config=config,
        classes=classes,
        train=train,
        test=shown,
        train_labels=labels(described, classes, unseen),
        test_labels=labels(_described(shown), classes, unseen),
    )


def _parts(config: Config, images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Returns the images to train on and those that are held out by their attributes."""
    described = _described(images)
    _check_attributes(described, config.attributes)
    held_out = np.array(
        [is_held_out([one[name] for name in config.attributes], config.held_out_share) for one in described]
    )
    if held_out.all() or not held_out.any():
        raise UserError(
            f"held_out_share={config.held_out_share} of {len(images)} images leaves none to "
            f"{'train' if held_out.all() else 'evaluate'} on; change it"
        )
    return images.take(np.flatnonzero(~held_out)), images.take(np.flatnonzero(held_out))


def _described(images: ImageSet) -> list[dict[str, str]]:
    """Returns the attributes of each image and, as one of them, its caption."""
    return [{"caption": one, **known} for one, known in zip(images.captions, images.attributes, strict=True)]


def class_names(
    attributes: Sequence[Mapping[str, str]],
    names: Sequence[str],
    most_common: Mapping[str, int] | None = None,
    always: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[str]]:
    """Returns {attribute: its values among the images, sorted}.

    Args:
      attributes: of each image.
      names: the attributes.
      most_common: {attribute: how many values}, the most common ones, and among equally common ones the first by name.
      always: {attribute: values} that are among the most common ones in any case.

    Raises:
      UserError: an image lacks one of the attributes.
    """
    _check_attributes(attributes, names)
    most_common, always = most_common or {}, always or {}
    found = {}
    for name in names:
        counts = Counter(labels[name] for labels in attributes)
        places = {value: (value not in always.get(name, ()), -count, value) for value, count in counts.items()}
        found[name] = sorted(sorted(counts, key=places.__getitem__)[: most_common.get(name)])
    return found


def _check_attributes(attributes: Sequence[Mapping[str, str]], names: Sequence[str]) -> None:
    """Raises UserError where an image lacks an attribute."""
    for name in names:
        if any(name not in labels for labels in attributes):
            known = some(attributes[0]) or "none"
            raise UserError(f"the images have no attribute {name!r} (the first one has: {known}); change attributes")


def labels(
    attributes: Sequence[Mapping[str, str]],
    classes: Mapping[str, Sequence[str]],
    unseen: Mapping[str, Mapping[str, Sequence[str]]],
) -> Int32[np.ndarray, "n a"]:
    """Returns the class of each attribute of each image, `IGNORED` where it is unknown or invisible."""
    columns = []
    for name, values in classes.items():
        index = {value: i for i, value in enumerate(values)}
        hidden = unseen.get(name, {})
        visible = [not any(image.get(other) in hidden[other] for other in hidden) for image in attributes]
        numbers = [index.get(image[name], IGNORED) for image in attributes]
        columns.append([number if shown else IGNORED for number, shown in zip(numbers, visible, strict=True)])
    return np.array(columns, np.int32).T


@dataclasses.dataclass(frozen=True)
class ClassifierTask(Task):
    """Trains the classifier on images with labels."""

    config: Config
    classes: dict[str, list[str]]
    train: ImageSet
    test: ImageSet
    train_labels: Int32[np.ndarray, "n a"]
    test_labels: Int32[np.ndarray, "m a"]

    @property
    def size(self) -> int:
        """The number of training images."""
        return len(self.train)

    @property
    def settings(self) -> dict[str, Any]:
        """The network's configuration."""
        return {"classes": self.classes, **self.config.model.to_dict()}

    @property
    def module(self) -> Any:
        """The network."""
        return build_classifier(self.settings)

    @property
    def record(self) -> dict[str, str]:
        """The hash of the images."""
        return {"source": self.train.fingerprint}

    @functools.cached_property
    def _complete(self) -> Int[np.ndarray, " m"]:
        """The training images with a class of every attribute."""
        return np.flatnonzero((self.train_labels != IGNORED).all(axis=1))

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns an image, shifted and perhaps mirrored at random, and its labels [a]."""
        augment = self.config.augment
        if len(self._complete) and generator.random() < self.config.complete:
            row = int(generator.choice(self._complete))
        image = shifted(np.asarray(self.train.images[row]), augment.shift, generator, augment.mirror)
        return {"image": image, "labels": self.train_labels[row]}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters, and no stats."""
        size = self.config.data.size
        return {"classifier": self.module.init(key, jnp.zeros((1, size, size, 3), jnp.float32))["params"]}, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the sum over attributes of the mean cross entropy, and the accuracies."""
        augment_key, dropout_key = jax.random.split(key)
        x = augmented(batch["image"].astype(jnp.float32) / 127.5 - 1.0, augment_key, self.config.augment)
        logits = self.module.apply(
            {"params": params["classifier"]}, x, deterministic=False, rngs={"dropout": dropout_key}
        )
        loss, metrics = cross_entropy(logits, batch["labels"])
        return loss, (metrics, extras.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the accuracy of each attribute on the held-out images."""
        named = name_attributes(self.module, params["classifier"], np.asarray(self.test.images[:]))
        for column, (name, found) in enumerate(named.items()):
            seen = self.test_labels[:, column] != IGNORED
            yield f"accuracy/{name}", float((found == self.test_labels[:, column])[seen].mean())

    @property
    def model(self) -> ModelRecord:
        """The classifier, with what evaluations need to know of its training."""
        share = self.config.held_out_share
        source = {"source": self.config.data.source, "fingerprint": self.train.fingerprint}
        # The augmentations decide what a classifier tolerates: one trained with blur accepts blurred samples.
        evaluation = {"unseen": self.config.unseen.to_dict(), "augment": self.config.augment.to_dict()}
        evaluation |= {"held_out_share": share} if share else {}
        training = {"classifier": source}
        config = {"name": self.config.name, "classifier": self.settings, "evaluation": evaluation, "training": training}
        return ModelRecord.of(config)


def cross_entropy(
    logits: Mapping[str, Float[Array, "b _"]], classes: Int[Array, "b a"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the sum over attributes of the mean cross entropy, and the accuracies; `IGNORED` classes do not count.

    Args:
      logits: {attribute: [b, classes]}.
      classes: [b, a] the labels, attributes in the same order.
    """
    losses, metrics = [], {}
    for name, values, label in zip(logits, logits.values(), classes.T, strict=True):
        counted = label != IGNORED
        count = jnp.maximum(jnp.sum(counted), 1)
        entropy = optax.softmax_cross_entropy_with_integer_labels(values, jnp.maximum(label, 0))
        losses.append(jnp.sum(entropy * counted) / count)
        metrics[f"accuracy/{name}"] = jnp.sum((values.argmax(-1) == label) & counted) / count
    return jnp.sum(jnp.stack(losses)), metrics


def shifted(
    image: UInt8[np.ndarray, "h w 3"], shift: int, generator: np.random.Generator, mirror: bool = True
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image shifted by up to `shift` pixels on each axis, edges reflected; half are mirrored if wanted."""
    down, right = generator.integers(0, 2 * shift + 1, 2) - shift
    rows, columns = _reflected(image.shape[0], int(down)), _reflected(image.shape[1], int(right))
    mirrored = generator.random() < 0.5 and mirror
    return image.take(rows, axis=0).take(columns[::-1] if mirrored else columns, axis=1)


def _reflected(size: int, shift: int) -> Int[np.ndarray, " size"]:
    """Returns the positions that a line of pixels shows after a shift; beyond its ends it is reflected."""
    position = np.abs(np.arange(size) + shift)
    return np.minimum(position, 2 * (size - 1) - position)


def augmented(x: Float[Array, "b h w 3"], key: Key[Array, ""], config: Config) -> Float[Array, "b h w 3"]:
    """Returns images with random blur, brightness and noise, as generated images have them.

    Args:
      x: [b, h, w, 3] in [-1, 1].
      key: of the random numbers.
      config: the largest `blur` (weight of a 3x3 mean, in [0, 1]), `brightness` (added), `noise` (standard deviation).
    """
    blur_key, brightness_key, level_key, noise_key = jax.random.split(key, 4)
    shape = (x.shape[0], 1, 1, 1)
    blur = jax.random.uniform(blur_key, shape, jnp.float32, 0.0, config.blur)
    brightness = jax.random.uniform(brightness_key, shape, jnp.float32, -config.brightness, config.brightness)
    level = jax.random.uniform(level_key, shape, jnp.float32, 0.0, config.noise)
    edged = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (edged[:, :-2] + edged[:, 1:-1] + edged[:, 2:]) / 3.0
    mean = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 3.0
    noise = level * jax.random.normal(noise_key, x.shape, jnp.float32)
    return jnp.clip(x + blur * (mean - x) + brightness + noise, -1.0, 1.0)


def name_attributes(module: Any, params: Any, images: UInt8[np.ndarray, "n h w 3"]) -> dict[str, Int[np.ndarray, " n"]]:
    """Returns {attribute: most likely class of each image [n]}."""
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(images), EVAL_BATCH):
        batch = np.asarray(images[start : start + EVAL_BATCH])
        padded = np.concatenate([batch, np.zeros((EVAL_BATCH - len(batch), *batch.shape[1:]), np.uint8)])
        found = jax.device_get(_named(module, params, to_float(padded)))
        parts.append({name: value[: len(batch)] for name, value in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name, _ in module.classes}


@functools.partial(jax.jit, static_argnums=0)
def _named(module: Any, params: Any, x: Float[Array, "b h w 3"]) -> dict[str, Array]:
    return {name: values.argmax(-1) for name, values in module.apply({"params": params}, x).items()}
