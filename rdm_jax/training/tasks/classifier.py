"""Learns to name the attributes of pictures (subject, colour, style): the judge that evaluations ask."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Int32, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models.classifier import build_classifier
from rdm_jax.training.config import Config
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.base import Progress, Task, training_and_held_out

IGNORED = -1
EVAL_BATCH = 256


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> ClassifierTask:
    """Returns the task of `config`, its pictures read.

    The classes of each attribute of `config.attributes` are the values that the training pictures have, sorted.
    `config.unseen` says what cannot be seen: {attribute: {other attribute: values}} leaves the pictures with such a
    value out of that attribute's loss and accuracy.

    Raises:
      UserError: the pictures lack one of the attributes.
    """
    train, test = training_and_held_out(config.data, progress)
    classes = class_names(train.attributes, tuple(config.attributes))
    unseen = {name: {other: tuple(v) for other, v in rule.items()} for name, rule in config.unseen.items()}
    return ClassifierTask(
        config=config,
        classes=classes,
        train=train,
        test=test.take(np.arange(min(len(test), config.eval_pictures))),
        train_labels=labels(train.attributes, classes, unseen),
        test_labels=labels(test.attributes[: config.eval_pictures], classes, unseen),
    )


def class_names(attributes: Sequence[Mapping[str, str]], names: Sequence[str]) -> dict[str, list[str]]:
    """Returns {attribute: its values among the pictures, sorted}.

    Raises:
      UserError: a picture lacks one of the attributes.
    """
    for name in names:
        if any(name not in labels for labels in attributes):
            known = ", ".join(attributes[0]) or "none"
            raise UserError(f"the pictures have no attribute {name!r} (the first one has: {known}); change attributes")
    return {name: sorted({labels[name] for labels in attributes}) for name in names}


def labels(
    attributes: Sequence[Mapping[str, str]],
    classes: Mapping[str, Sequence[str]],
    unseen: Mapping[str, Mapping[str, Sequence[str]]],
) -> Int32[np.ndarray, "n a"]:
    """Returns the class of each attribute of each picture, `IGNORED` where it is unknown or cannot be seen."""
    columns = []
    for name, values in classes.items():
        index = {value: i for i, value in enumerate(values)}
        hidden = unseen.get(name, {})
        seen = [not any(picture.get(other) in hidden[other] for other in hidden) for picture in attributes]
        found = [index.get(picture[name], IGNORED) for picture in attributes]
        columns.append([number if visible else IGNORED for number, visible in zip(found, seen, strict=True)])
    return np.array(columns, np.int32).T


@dataclasses.dataclass(frozen=True)
class ClassifierTask(Task):
    """Pictures with labels; see `rdm_jax.training.tasks.base.Task`."""

    config: Config
    classes: dict[str, list[str]]
    train: ImageSet
    test: ImageSet
    train_labels: Int32[np.ndarray, "n a"]
    test_labels: Int32[np.ndarray, "m a"]

    @property
    def size(self) -> int:
        """The number of training pictures."""
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
        """The hash of the pictures."""
        return {"source": self.train.fingerprint}

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns a picture, moved and mirrored at random, and its labels [a]."""
        image = moved(np.asarray(self.train.images[row]), self.config.augment.shift, generator)
        return {"image": image, "labels": self.train_labels[row]}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns fresh parameters, and no stats."""
        size = self.config.data.size
        return {"classifier": self.module.init(key, jnp.zeros((1, size, size, 3), jnp.float32))["params"]}, {}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the sum over attributes of the mean cross entropy, and the accuracies."""
        blemish_key, dropout_key = jax.random.split(key)
        x = blemished(batch["image"].astype(jnp.float32) / 127.5 - 1.0, blemish_key, self.config.augment)
        logits = self.module.apply(
            {"params": params["classifier"]}, x, deterministic=False, rngs={"dropout": dropout_key}
        )
        loss, metrics = cross_entropy(logits, batch["labels"])
        return loss, (metrics, held.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the accuracy of each attribute on the held-out pictures."""
        named = name_attributes(self.module, params["classifier"], np.asarray(self.test.images[:]))
        for column, (name, found) in enumerate(named.items()):
            seen = self.test_labels[:, column] != IGNORED
            yield f"accuracy/{name}", float((found == self.test_labels[:, column])[seen].mean())

    def export(self, params: Any) -> Bundle:
        """Returns a bundle with the part "classifier"."""
        training = {"source": self.config.data.source, "fingerprint": self.train.fingerprint}
        # Recorded, since it decides what a judge forgives: blur in training makes it kind to blurred samples.
        judging = {"unseen": self.config.unseen.to_dict(), "augment": self.config.augment.to_dict()}
        config = {"name": self.config.name, "classifier": self.settings, "judging": judging, "training": training}
        return Bundle(config, {"classifier": params["classifier"]})


def cross_entropy(
    logits: Mapping[str, Float[Array, "b _"]], classes: Int[Array, "b a"]
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Returns the sum over attributes of the mean cross entropy, and the accuracies; `IGNORED` classes do not count.

    Args:
      logits: {attribute: of each of its classes}.
      classes: [b, a] the right ones, attributes in the same order.
    """
    losses, metrics = [], {}
    for name, values, right in zip(logits, logits.values(), classes.T, strict=True):
        seen = right != IGNORED
        count = jnp.maximum(jnp.sum(seen), 1)
        entropy = optax.softmax_cross_entropy_with_integer_labels(values, jnp.maximum(right, 0))
        losses.append(jnp.sum(entropy * seen) / count)
        metrics[f"accuracy/{name}"] = jnp.sum((values.argmax(-1) == right) & seen) / count
    return jnp.sum(jnp.stack(losses)), metrics


def moved(image: UInt8[np.ndarray, "h w 3"], shift: int, generator: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture moved by up to `shift` pixels on each axis, edges reflected; half of the time mirrored."""
    height, width, _ = image.shape
    down, right = generator.integers(0, 2 * shift + 1, 2)
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
    crop = padded[down : down + height, right : right + width]
    return np.ascontiguousarray(crop[:, ::-1] if generator.random() < 0.5 else crop)


def blemished(x: Float[Array, "b h w 3"], key: Key[Array, ""], config: Config) -> Float[Array, "b h w 3"]:
    """Returns pictures with what drawn samples may suffer from: a little blur, another brightness, noise.

    Args:
      x: [b, h, w, 3] in [-1, 1].
      key: of the draw.
      config: the largest `blur` (share of a 3x3 mean in [0, 1]), `brightness` (added) and `noise` (standard deviation).
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


def name_attributes(
    module: Any, params: Any, pictures: UInt8[np.ndarray, "n h w 3"]
) -> dict[str, Int[np.ndarray, " n"]]:
    """Returns {attribute: most likely class of each picture [n]}."""
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(pictures), EVAL_BATCH):
        batch = np.asarray(pictures[start : start + EVAL_BATCH])
        padded = np.concatenate([batch, np.zeros((EVAL_BATCH - len(batch), *batch.shape[1:]), np.uint8)])
        found = jax.device_get(_named(module, params, images.to_float(padded)))
        parts.append({name: value[: len(batch)] for name, value in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name, _ in module.classes}


@functools.partial(jax.jit, static_argnums=0)
def _named(module: Any, params: Any, x: Float[Array, "b h w 3"]) -> dict[str, Array]:
    return {name: values.argmax(-1) for name, values in module.apply({"params": params}, x).items()}
