"""What generative tasks share: training images, each with a random condition, on a frozen encoder and first stage."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core import sheets, trees
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import resize_and_crop
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import abstract_params, build_autoencoder
from rdm_jax.training.conditioning import Conditioning, ImageConditions, conditioning_section
from rdm_jax.training.config import Config, load_architecture
from rdm_jax.training.figures import Figures
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.neighbors import NeighborData
from rdm_jax.training.schema import Run
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.base import EVAL_BATCHES, Task, blank_image, held_out_loss, spread, training_images

SHOWN, SHOWN_NEIGHBORS = 8, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionedRun(Run):
    """The settings of generative tasks.

    Attributes:
      base: the bundle with the encoder and the first stage.
      architecture: the shipped architecture that a dry run without the base takes them from; "" needs the base.
      data: the training images and their neighbors.
      emphasis: {attribute: {value: times}} of images that an epoch has several times.
      conditioning: how often each condition is trained on.
    """

    base: str
    architecture: str = ""
    data: NeighborData
    emphasis: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    conditioning: Conditioning

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditioning.null == "learned" and not self.data.neighbors:
            raise UserError("conditioning.null=learned needs data.neighbors: without them nothing else is trained on")


@dataclasses.dataclass(frozen=True)
class ConditionedTask(Task):
    """Trains a network to generate what a first stage encodes, given a condition.

    Attributes:
      base: the bundle with the frozen encoder and first stage.
      conditions: what conditions each training image.
      module: the network.
      settings: its configuration.
    """

    config: Config
    base: Bundle
    conditions: ImageConditions
    module: Any
    settings: dict[str, Any]

    network: ClassVar[str]
    """The part of the model that is trained."""
    head: ClassVar[str]
    """The head of the exported model, a name in `heads.HEADS`."""
    inputs: ClassVar[tuple[str, ...]]
    """The names in a record of what the network learns to generate."""

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts of the model that are trained."""
        return (self.network,)

    @abc.abstractmethod
    def encoded(self, image: int, generator: np.random.Generator) -> Record:
        """Returns what the network learns to generate of one image, or the image, by names in `inputs`."""

    @property
    def images(self) -> ImageSet:
        """The training images, held-out ones among them."""
        return self.conditions.images

    @property
    def size(self) -> int:
        """The number of records in an epoch; emphasized images count several times."""
        return len(self.rows)

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the images, of the base and of the neighbors' database."""
        return {"source": self.images.fingerprint, "base": self.base.digest, **self.conditions.record}

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The image of each record: all but the held-out ones, repeated by `emphasis`."""
        rows = np.delete(np.arange(len(self.images)), self.held_out)
        return np.repeat(rows, repeats([self.images.attributes[row] for row in rows], self.config.emphasis))

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """The images kept for evaluation, spread evenly: a folder's images are sorted by class."""
        return spread(self.config.data.held_out_rows, len(self.images))

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns one record: an image, or what it is encoded to, and a random condition."""
        return self._read(int(self.rows[row]), generator)

    def complete(self, batch: Record) -> Record:
        """Returns images, or what they are encoded to, and their conditions (see `ImageConditions.complete`)."""
        inputs = {name: batch[name] for name in self.inputs if name in batch}
        return {**inputs, **self.conditions.complete(batch)}

    def _read(self, image: int, generator: np.random.Generator) -> Record:
        return {**self.encoded(image, generator), **self.conditions.sample(image, generator)}

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the loss on the held-out images, with the same random numbers in every evaluation."""
        extras = Extras({}, jax.device_put(self.frozen))
        batches = enumerate(self.held_out_batches())
        losses = [float(self._evaluated(params, extras, batch, jax.random.key(i))) for i, batch in batches]
        if losses:
            yield "loss", float(np.mean(losses))

    def held_out_batches(self) -> Iterator[Record]:
        """Yields batches of held-out images, with the same conditions every time."""
        generator, size = np.random.default_rng(0), self.config.batch_size
        count = min(EVAL_BATCHES, len(self.held_out) // size)
        for i in range(count):
            records = [self._read(int(row), generator) for row in self.held_out[i::count][:size]]
            yield self.complete({name: np.stack([record[name] for record in records]) for name in records[0]})

    @functools.cached_property
    def _evaluated(self) -> Callable[..., Array]:
        return held_out_loss(self)

    def figures(self, params: Any) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields held-out images, their nearest neighbors, and what is generated under the model's own condition."""
        rows = self.held_out[:: max(len(self.held_out) // SHOWN, 1)][:SHOWN]
        if not len(rows):
            return
        generated = self._generated(self.export(params), rows)
        size = self.images.images.shape[1]
        sheet = {
            "image": np.stack([np.asarray(self.images.images[row]) for row in rows]),
            **self.conditions.nearest_images(rows, self.config.sampling.condition, SHOWN_NEIGHBORS),
            "generated": np.stack([resize_and_crop(image, size) for image in generated]),
        }
        yield "samples", sheets.grid(np.stack(list(sheet.values())), row_labels=list(sheet), zoom=1)

    @property
    def comparable_images(self) -> int:
        """The number of held-out images."""
        return len(self.held_out)

    def generated(self, params: Any, count: int) -> tuple[UInt8[np.ndarray, "n h w 3"], UInt8[np.ndarray, "n h2 w2 3"]]:
        """Returns images generated under the conditions of held-out images, with the same seeds, and these images."""
        rows = self.held_out[spread(count, len(self.held_out))]
        images = self._generated(self.export(params), rows)
        return images, np.stack([np.asarray(self.images.images[row]) for row in rows])

    def _generated(self, model: Bundle, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns what is generated for images under their captions and nearest neighbors."""
        name = self.config.sampling.condition
        return self._figures.generate(
            model,
            *self.conditions.nearest(rows, name),
            texts=[self.images.captions[row] for row in rows],
            trained=self.trained,
            condition=self.conditions.shown(name),
            seed=self.config.seed,
        )

    @functools.cached_property
    def _figures(self) -> Figures:
        return Figures()

    def sections(self) -> dict[str, Any]:
        """Returns further sections of the model's configuration."""
        return {}

    @property
    def model(self) -> ModelRecord:
        """The frozen parts, the network and the conventions that it was trained by."""
        config = {
            "name": self.config.name,
            "head": self.head,
            self.network: self.settings,
            "conditioning": conditioning_section(self.config.conditioning),
            "sampling": self.config.sampling.to_dict(),
            **self.sections(),
        }
        return ModelRecord.of(config, self.base, self.config.base, ("clip", "autoencoder"))

    def export(self, params: Any) -> Bundle:
        """Returns the model with averaged parameters."""
        return self.model.bundle(params, self.base)


def open_base(config: Config, progress: StageProgressCallback) -> tuple[Bundle, ImageSet]:
    """Returns the base bundle and the training images of a run.

    Raises:
      UserError: the base lacks a part, or no image is left to train on.
    """
    base = Bundle.open(config.base)
    base.require("clip", "autoencoder")
    images = training_images(config.data, config.data.split, progress)
    if config.data.held_out_rows >= len(images):
        raise UserError(
            f"data.held_out_rows={config.data.held_out_rows} leaves none of {len(images)} images to train on; "
            "hold out fewer"
        )
    return base, images


def base_settings(config: Config) -> Mapping[str, Any] | Config:
    """Returns the settings of `config.architecture`, or else of the bundle `config.base`.

    Raises:
      UserError: it has no encoder or no first stage.
    """
    parts: Any = load_architecture(config.architecture) if config.architecture else Bundle.open(config.base).config
    lacking = [part for part in ("autoencoder", "clip") if part not in parts]
    if lacking:
        name = f"architecture {config.architecture!r}" if config.architecture else f"base {config.base!r}"
        raise UserError(
            f"{name} has no {' and no '.join(lacking)}, which the dry run takes from it; set --config.base to a bundle "
            "that has both, and --config.architecture= to nothing"
        )
    return parts


def abstract_base(config: Config) -> tuple[Bundle, ImageConditions]:
    """Returns a base without parameters and conditions without data, with the settings of `base_settings`.

    Raises:
      UserError: as there.
    """
    parts = base_settings(config)
    settings = dict(parts["autoencoder"])
    frozen = trees.unflatten(abstract_params(build_autoencoder(settings)))
    base = Bundle({"name": config.name, "autoencoder": settings}, {"autoencoder": frozen})
    images = blank_image(config.data.size)
    return base, ImageConditions(config.conditioning, images, int(parts["clip"]["embed_dim"]), None, None)


def abstract_config(config: Config) -> Config:
    """Returns the configuration of a task over one blank image: none is held out or emphasized."""
    config = config.copy_and_resolve_references().unlock()
    config.emphasis, config.data.held_out_rows = type(config)(), 0
    return config


def repeats(attributes: Sequence[Mapping[str, str]], emphasis: Config) -> np.ndarray:
    """Returns how many times an epoch has each image [n].

    Args:
      attributes: of each image.
      emphasis: {attribute: {value: times}}; factors of several attributes multiply, other images count once.

    Raises:
      UserError: no image has a named value, or a number of times is below 1.
    """
    times = np.ones(len(attributes), np.int64)
    for attribute, factors in emphasis.items():
        values = np.array([str(labels.get(attribute)) for labels in attributes])
        for value, factor in factors.items():
            if factor != 1 and value not in values:
                known = set(values.tolist()) - {"None"}
                raise unknown(f"emphasis.{attribute}", value, known, hint="or set it to 1")
            if factor < 1:
                raise UserError(f"emphasis.{attribute}.{value}={factor} is out of range; give 1 or more")
            times[values == value] *= factor
    return times
