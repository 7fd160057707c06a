"""The style encoder alone, trained to tell styles apart.

With the denoiser (task `roles`) it sees few styles in a step. Trained alone before, it sees many times more images in
the same time, and the denoiser starts with tokens that describe styles.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.images import to_float
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models.style_encoder import StyleEncoder
from rdm_jax.training.config import Config
from rdm_jax.training.labels import attribute
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.naming import HEAD, init_head, naming_loss
from rdm_jax.training.restyling import with_restyled
from rdm_jax.training.restyling.settings import StyledData
from rdm_jax.training.schema import Count, Probability, Run, network
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.base import Task, spread, training_images
from rdm_jax.training.tasks.classifier import shifted

EVAL_BATCH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Run):
    """The settings of a style encoder's training.

    Attributes:
      data: the images.
      balance: in [0, 1]: 0 takes images as often as each other, 1 takes styles as often as each other.
      shift: the largest shift of an image in pixels.
      style_encoder: the network.
    """

    data: StyledData
    balance: Probability = 0.5
    shift: Count = 0
    style_encoder: Annotated[Mapping[str, Any], network({"": StyleEncoder}, ("image_size",), by="")]


@dataclasses.dataclass(frozen=True)
class StyleEncoderTask(Task):
    """Trains a style encoder on labeled images.

    Attributes:
      images: the images.
      styles: [n] the number of each image's style.
      settings: of the network.
    """

    config: Config
    images: ImageSet
    styles: Int32[np.ndarray, " n"]
    settings: Mapping[str, Any]

    @property
    def size(self) -> int:
        """The number of training images."""
        return len(self._rows)

    @functools.cached_property
    def module(self) -> StyleEncoder:
        """The network."""
        return StyleEncoder(**self.settings)

    @functools.cached_property
    def _held_out(self) -> np.ndarray:
        return spread(self.config.data.held_out_rows, len(self.images))

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return np.setdiff1d(np.arange(len(self.images)), self._held_out)

    @functools.cached_property
    def _cumulative(self) -> np.ndarray:
        """The cumulative probability of each training image, by the size of its style."""
        counts = np.bincount(self.styles[self._rows])[self.styles[self._rows]]
        odds = np.cumsum(counts.astype(np.float64) ** -self.config.balance)
        return odds / odds[-1]

    @property
    def record(self) -> dict[str, str]:
        """The hash of the images."""
        return {"source": self.images.fingerprint}

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns a random image, shifted, with the number of its style."""
        place = np.searchsorted(self._cumulative, generator.random(), side="right")
        chosen = self._rows[min(int(place), len(self._rows) - 1)]
        image = shifted(np.asarray(self.images.images[chosen]), self.config.shift, generator, mirror=False)
        return {"image": image, "style": self.styles[chosen]}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the network and of the head that names styles; no stats."""
        keys = jax.random.split(key)
        params = self.module.init(keys[0], jnp.zeros((1, *self.images.images.shape[1:])))["params"]
        head = init_head(keys[1], self.module.vector_dim, int(self.styles.max()) + 1)
        return {"style_encoder": params, HEAD: head}, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the cross entropy of the styles' names, and how many are right."""
        images = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        encoded: Any = self.module.apply({"params": params["style_encoder"]}, images)
        loss, named = naming_loss(params[HEAD], encoded[1], batch["style"])
        return loss, ({"named": named}, extras.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields how many of the held-out images have the style of the held-out image that is nearest to them."""
        if len(self._held_out) < 2:
            return
        vectors = np.concatenate([*self._encoded(params["style_encoder"])])[: len(self._held_out)]
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        found = self.styles[self._held_out]
        yield "nearest", float(np.mean(found[cosines.argmax(axis=1)] == found))

    def _encoded(self, params: Any) -> Iterator[np.ndarray]:
        encode = jax.jit(lambda images: self.module.apply({"params": params}, images)[1])
        for begin in range(0, len(self._held_out), EVAL_BATCH):
            rows = np.resize(self._held_out[begin : begin + EVAL_BATCH], EVAL_BATCH)
            yield np.asarray(encode(to_float(np.asarray(self.images.images[rows]))))

    def averaged(self, params: Any) -> Any:
        """Returns the network alone."""
        return {"style_encoder": params["style_encoder"]}

    @property
    def model(self) -> ModelRecord:
        """The network, and the images that it was trained on."""
        training = {"style_encoder": {"source": self.config.data.source, "fingerprint": self.images.fingerprint}}
        return ModelRecord.of({"name": self.config.name, "style_encoder": dict(self.settings), "training": training})


def make(
    config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None
) -> StyleEncoderTask:
    """Returns the task.

    Raises:
      UserError: the images lack an attribute.
    """
    images = training_images(config.data, config.data.split, progress)
    return task_of(config, with_restyled(images, config.data, progress))


def task_of(config: Config, images: ImageSet) -> StyleEncoderTask:
    """Returns the task of a set of images.

    Raises:
      UserError: the images lack an attribute.
    """
    styles = np.unique(attribute(images, config.data.style), return_inverse=True)[1].astype(np.int32)
    settings = {**config.style_encoder.to_dict(), "image_size": images.images.shape[1]}
    return StyleEncoderTask(config, images, styles, settings)
