"""The contract between the training loop and what it trains."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, load_images, stream_images
from rdm_jax.data.sources import open_source
from rdm_jax.data.tfds_source import prepare_own
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder, sets_folder
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.state import Extras, State

HELD_OUT_EVERY = 20
EVAL_BATCHES = 8  # of held-out images, for the loss of generative tasks


class Task(abc.ABC):
    """A training task: its records, its parameters, its loss, its evaluation, its figures, and the exported model."""

    config: Config

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """The number of records in an epoch."""

    @property
    def frozen(self) -> Any:
        """Parameters of frozen networks, on the host; replicated once, on every device."""
        return {}

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the data and the bundles of the run, for its checkpoints."""
        return {}

    @abc.abstractmethod
    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns one training record; `generator` belongs to the record and the epoch."""

    def complete(self, batch: Record) -> Record:
        """Returns a batch of records, completed by what is read for all of them at once."""
        return batch

    @property
    def stages(self) -> tuple[int, ...]:
        """The number of updates of each stage; the learning rate and the average's warm-up start anew in every one."""
        return (self.config.steps,)

    def begin_stage(self, state: State, stage: int) -> State:
        """Returns the state that the first update of a stage starts from, given that after the last one before."""
        return state

    @abc.abstractmethod
    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters, {part: tree}, and stats."""

    def averaged(self, params: Any) -> Any:
        """Returns the parts with a moving average: those that are evaluated and exported."""
        return params

    @abc.abstractmethod
    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the scalar to minimize, further metrics, and the updated stats."""

    @abc.abstractmethod
    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields named values measured on held-out data with averaged parameters."""

    @property
    def comparable_images(self) -> int:
        """The number of held-out images that generated ones can be compared with; 0 for tasks that generate none."""
        return 0

    def generated(self, params: Any, count: int) -> tuple[UInt8[np.ndarray, "n h w 3"], UInt8[np.ndarray, "n h2 w2 3"]]:
        """Returns images that averaged parameters generate under conditions of held-out images, and these images.

        Args:
          params: averaged.
          count: of images, up to `comparable_images`.
        """
        raise NotImplementedError(f"{type(self).__name__} generates no images")

    def figures(self, params: Any) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields named images made with averaged parameters, from the same inputs and seeds at every step."""
        return iter(())

    @property
    @abc.abstractmethod
    def model(self) -> ModelRecord:
        """What the exported model consists of beside the averaged parameters."""

    def export(self, params: Any) -> Bundle:
        """Returns the model with averaged parameters."""
        return self.model.bundle(params)


def spread(count: int, total: int) -> Int[np.ndarray, " count"]:
    """Returns `count` of `total` rows, spread evenly: images are often sorted by class."""
    return (np.arange(1, count + 1) * total) // max(count, 1) - 1


def held_out_loss(task: Any) -> Callable[..., Array]:
    """Returns the compiled function (params, extras, batch, key) to the loss of a task without dropout.

    Args:
      task: a dataclass whose `module` has dropout.
    """
    evaluated = dataclasses.replace(task, module=task.module.clone(dropout=0.0))
    zero = jnp.zeros((), jnp.int32)
    return jax.jit(lambda params, extras, batch, key: evaluated.loss(params, extras, batch, key, zero)[0])


def training_images(data: Config, split: str, progress: StageProgressCallback) -> ImageSet:
    """Returns the images that `config.data` names, of one split.

    Args:
      data: `source` (folder, zip or TFDS name), `data_dir`, `size`; `cache`: decoded once, into `data_dir`, or every
        time; `prepare`: make a procedural set that is missing.
      split: of the source, "" for a folder or zip without splits.
      progress: called with (stage, done, total).
    """
    if data.prepare:
        prepare_own(data.source, sets_folder(data), progress)
    source = open_source(data.source, split=split or None, data_dir=sets_folder(data))
    if not data.cache:
        return stream_images(source, data.size)
    return load_images(
        source, data.size, cache_folder(data), lambda *at: progress(f"reading images {split}".strip(), *at)
    )


def training_and_held_out(data: Config, progress: StageProgressCallback) -> tuple[ImageSet, ImageSet]:
    """Returns the images to train on and those to evaluate on.

    The latter are the split `data.held_out`; if it is empty, every `HELD_OUT_EVERY`-th image of the source.
    """
    images = training_images(data, data.split, progress)
    if data.held_out:
        return images, training_images(data, data.held_out, progress)
    rows = np.arange(len(images))
    held_out = rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return images.take(rows[~held_out]), images.take(rows[held_out])


def blank_image(size: int) -> ImageSet:
    """Returns one blank image of a size, for the dry run."""
    return ImageSet(np.zeros((1, size, size, 3), np.uint8), [""], [{}], np.arange(1), "0" * 64)
