"""A classifier of noisy latents, whose gradient guides sampling (https://arxiv.org/abs/2105.05233, section 4)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.models import build_noised_encoder
from rdm_jax.models.noised_encoder import split_logits
from rdm_jax.training.config import Config
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import noised
from rdm_jax.training.tasks.classifier import IGNORED, class_names, cross_entropy, labels
from rdm_jax.training.tasks.noised import NoisedTask, noised_latents, open_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(noised.Schema):
    """The settings of a classifier of noisy latents.

    Attributes:
      attributes: of the images, that it names.
    """

    attributes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedClassifierTask(NoisedTask):
    """Trains one linear head for each attribute of the images on a shared network.

    Attributes:
      classes: [n, a] of the images to train on.
      held_out_classes: [m, a] of those to evaluate on.
      names: {attribute: names of its classes}; the network's output is the logits of all attributes in this order.
    """

    part = "noised_classifier"
    classes: Int32[np.ndarray, "n a"]
    held_out_classes: Int32[np.ndarray, "m a"]
    names: dict[str, list[str]]

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns an image or its moments, and its classes [a]."""
        return {**self.latents.read(row, generator), "labels": self.classes[row]}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the sum over attributes of the mean cross entropy, and the accuracies."""
        noise_key, dropout_key = jax.random.split(key)
        x, t = noised_latents(self.latents, self.schedule, extras.frozen, batch, noise_key)
        logits = self.module.apply(
            {"params": params["noised_classifier"]}, x, t, deterministic=False, rngs={"dropout": dropout_key}
        )
        loss, metrics = cross_entropy(split_logits(logits, self.names), batch["labels"])
        return loss, (metrics, extras.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the accuracy of each attribute on held-out latents, over all times and in each quarter of them."""
        frozen, correct, times, labeled = jax.device_put(self.held_out.frozen), [], [], []
        for number, (rows, batch) in enumerate(self.held_out_batches()):
            predicted, t = self._predicted(params, frozen, batch, jax.random.key(number))
            correct.append(np.asarray(predicted) == self.held_out_classes[rows])
            times.append(np.asarray(t) * 4 // len(self.schedule))
            labeled.append(self.held_out_classes[rows] != IGNORED)
        hit, quarter, known = (np.concatenate(parts) for parts in (correct, times, labeled))
        for column, name in enumerate(self.names):
            yield f"accuracy/{name}", float(hit[known[:, column], column].mean())
            for i in range(4):
                chosen = known[:, column] & (quarter == i)
                if chosen.any():
                    yield f"accuracy_{i}/{name}", float(hit[chosen, column].mean())

    @functools.cached_property
    def _predicted(self) -> Callable[..., tuple[Array, Array]]:
        @jax.jit
        def predicted(params: Any, frozen: Any, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Array, Array]:
            """Returns the most likely class of each attribute [b, a], and the times."""
            x, t = noised_latents(self.held_out, self.schedule, frozen, batch, key)
            logits = split_logits(self.module.apply({"params": params["noised_classifier"]}, x, t), self.names)
            return jnp.stack([values.argmax(-1) for values in logits.values()], axis=1), t

        return predicted


def make(
    config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None
) -> NoisedClassifierTask:
    """Returns the task of `config`, whose `attributes` are those that the classifier predicts.

    Raises:
      UserError: the model `config.base` lacks a part, or the images one of the attributes.
    """
    common = open_model(config, progress)
    training, held_out = common["latents"], common["held_out"]
    names = class_names(training.images.attributes, tuple(config.attributes))
    classes, held_out_classes = (labels(part.images.attributes, names, {}) for part in (training, held_out))
    features = sum(len(values) for values in names.values())
    sizes = {
        "in_channels": training.shape[-1],
        "latent_size": training.shape[0],
        "features": features,
        "classes": names,
    }
    settings = config.model.to_dict() | sizes
    return NoisedClassifierTask(
        **common,
        module=build_noised_encoder(settings),
        settings=settings,
        classes=classes,
        held_out_classes=held_out_classes,
        names=names,
    )
