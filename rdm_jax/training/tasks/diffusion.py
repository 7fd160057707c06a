"""The retrieval-augmented diffusion model (https://arxiv.org/abs/2204.11824): latents, conditioned on neighbors.

The first stage and the encoder are frozen, so their outputs are computed once: the moments of every image and the
vector of every caption are memory-mapped caches, and neighbors are streamed from their sidecar.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.core import sheets, trees
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import resize_and_crop
from rdm_jax.data.batches import Record
from rdm_jax.data.pictures import Pictures
from rdm_jax.diffusion.objective import by_bands, diffusion_loss, sample_timesteps, time_weights
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.models import abstract_params, build_autoencoder, build_denoiser, with_sizes
from rdm_jax.models.condition import Condition
from rdm_jax.request import NULLS
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import (
    ImageConditions,
    batch_condition,
    conditioning_section,
    open_image_conditions,
)
from rdm_jax.training.config import Config
from rdm_jax.training.figures import Figures
from rdm_jax.training.latents import Latents, open_latents
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.base import Progress, Task, blank_picture, training_pictures

EVAL_BATCHES = 8
BANDS = 4
SHOWN, SHOWN_NEIGHBORS = 8, 2


@dataclasses.dataclass(frozen=True)
class DiffusionTask(Task):
    """Trains a denoiser.

    Attributes:
      latents: the training images, encoded by the base's autoencoder.
      conditions: what conditions each image.
      module: the network.
      settings: its configuration.
    """

    config: Config
    latents: Latents
    conditions: ImageConditions
    module: Any
    settings: dict[str, Any]

    @property
    def base(self) -> Bundle:
        """The bundle with the frozen encoder and autoencoder."""
        return self.latents.base

    @property
    def images(self) -> Pictures:
        """The training images, held-out ones among them."""
        return self.latents.pictures

    @property
    def size(self) -> int:
        """The number of records in an epoch; emphasized images count several times."""
        return len(self.rows)

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the images, of the base and of the neighbors' database."""
        return {"source": self.images.fingerprint, "base": self.base.digest, **self.conditions.record}

    @property
    def frozen(self) -> Any:
        """The autoencoder's parameters, where images are encoded in every step."""
        return self.latents.frozen

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The image of each record: all but the held-out ones, repeated by `emphasis`."""
        rows = np.delete(np.arange(len(self.images)), self.held_out)
        return np.repeat(rows, repeats([self.images.attributes[row] for row in rows], self.config.emphasis))

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """The images kept for evaluation, spread evenly: a folder's images are sorted by class."""
        count = self.config.data.held_out_rows
        return (np.arange(1, count + 1) * len(self.images)) // max(count, 1) - 1

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return build_schedule(self.config.diffusion.to_dict())

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns one record: an image, or its moments, and a random condition."""
        return self._read(int(self.rows[row]), generator)

    def complete(self, batch: Record) -> Record:
        """Returns images or moments, and their conditions (see `ImageConditions.complete`)."""
        inputs = {name: batch[name] for name in ("image", "moments") if name in batch}
        return {**inputs, **self.conditions.complete(batch)}

    def _read(self, image: int, generator: np.random.Generator) -> Record:
        return {**self.latents.read(image, generator), **self.conditions.sample(image, generator)}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the denoiser, and of the null token where it is learned; no stats."""
        x, t = jnp.zeros((1, *self.latents.shape)), jnp.zeros((1,))
        params = self.module.init(key, x, t, self.conditions.empty)["params"]
        return {"denoiser": params, **self.conditions.init()}, {}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the weighted squared error of the prediction at random times, and its mean within bands of time."""
        config = self.config.diffusion
        posterior_key, noise_key, time_key, dropout_key = jax.random.split(key, 4)
        x0 = self.latents.x0(held.frozen, batch, posterior_key)
        t = sample_timesteps(time_key, len(x0), len(self.schedule), self.config.time_density)

        def apply(x: Array, t: Array, condition: Condition) -> Array:
            dropout = {"deterministic": False, "rngs": {"dropout": dropout_key}} if self.module.dropout else {}
            return self.module.apply({"params": params["denoiser"]}, x, t, condition, **dropout)

        noise = jax.random.normal(noise_key, x0.shape)
        condition = batch_condition(params, batch)
        losses = diffusion_loss(apply, x0, condition, t, noise, self.schedule, config.prediction)
        weights = time_weights(self.config.time_weight, self.schedule, t, config.prediction)
        bands = by_bands(losses, t, len(self.schedule), BANDS)
        return jnp.mean(weights * losses), ({f"band_{i}": bands[i] for i in range(BANDS)}, held.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the loss on the held-out images, at the same times and noise in every evaluation."""
        generator = np.random.default_rng(0)
        held, losses = Held({}, jax.device_put(self.frozen)), []
        size = self.config.batch_size
        count = min(EVAL_BATCHES, len(self.held_out) // size)
        for i in range(count):
            records = [self._read(int(row), generator) for row in self.held_out[i::count][:size]]
            batch = self.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
            losses.append(float(self._evaluated(params, held, batch, jax.random.key(i))))
        if losses:
            yield "loss", float(np.mean(losses))

    @functools.cached_property
    def _evaluated(self) -> Callable[..., Array]:
        zero = jnp.zeros((), jnp.int32)
        return jax.jit(lambda params, held, batch, key: self.loss(params, held, batch, key, zero)[0])

    def figures(self, params: Any) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields held-out images, their nearest neighbors, and what is generated under the model's own condition."""
        rows = self.held_out[:: max(len(self.held_out) // SHOWN, 1)][:SHOWN]
        if not len(rows) or not self.config.sampling.steps:
            return
        model, name = self.export(params), self.config.sampling.condition
        queries, neighbors = self.conditions.nearest(rows, name)
        shown = self.conditions.shown(name)
        generated = self._figures.generate(model, queries, neighbors, condition=shown, seed=self.config.seed)
        size = self.images.images.shape[1]
        sheet = {
            "image": np.stack([np.asarray(self.images.images[row]) for row in rows]),
            **self.conditions.nearest_images(rows, name, SHOWN_NEIGHBORS),
            "generated": np.stack([resize_and_crop(image, size) for image in generated]),
        }
        yield "samples", sheets.grid(np.stack(list(sheet.values())), row_labels=list(sheet), zoom=1)

    @functools.cached_property
    def _figures(self) -> Figures:
        return Figures()

    def export(self, params: Any) -> Bundle:
        """Returns the model: the frozen parts, the denoiser and the conventions that it was trained by."""
        config = {key: value for key, value in self.base.config.items() if key != "sha256"} | {
            "name": self.config.name,
            "head": "diffusion",
            "latents": dict(self.latents.scaling),
            "denoiser": self.settings,
            "diffusion": self.config.diffusion.to_dict(),
            "conditioning": conditioning_section(self.config.conditioning, params),
            "sampling": self.config.sampling.to_dict(),
        }
        parts = {part: self.base.params[part] for part in ("clip", "autoencoder") if self.base.has(part)}
        return Bundle(config, {**parts, "denoiser": params["denoiser"]}, self.base.tokenizer)


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


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> DiffusionTask:
    """Returns the task; fills the caches of moments and captions first where they are missing.

    Raises:
      UserError: the base bundle lacks a part, no image is left to train on, or the neighbors are missing, too few, or
        of another data set.
    """
    base = Bundle.open(config.base)
    base.require("clip", "autoencoder")
    if config.conditioning.null not in NULLS:
        raise unknown("conditioning.null", config.conditioning.null, NULLS)
    images = training_pictures(config.data, config.data.split, progress)
    if config.data.held_out_rows >= len(images):
        raise UserError(
            f"data.held_out_rows={config.data.held_out_rows} leaves none of {len(images)} images to train on; "
            "hold out fewer"
        )
    latents = open_latents(base, images, config, progress)
    conditions = open_image_conditions(config, images, ClipEncoder(base), progress)
    return _task(config, latents, conditions)


def abstract(config: Config) -> DiffusionTask:
    """Returns the task from `config.architecture` alone, or from the settings of the bundle `config.base`.

    Attention is XLA's, not what this machine would choose.
    """
    parts = config.architecture.to_dict() if "architecture" in config else Bundle.open(config.base).config
    autoencoder = build_autoencoder(parts["autoencoder"])
    frozen = trees.unflatten(abstract_params(autoencoder))
    base = Bundle({"name": config.name, "autoencoder": parts["autoencoder"]}, {"autoencoder": frozen})
    images = blank_picture(config.data.size)
    latents = Latents(base, images, None, config.latents.to_dict() or {"scale": 1.0})
    height, width, _ = latents.shape
    if config.data.cache_latents:
        encoded = autoencoder.encoded * autoencoder.embed_dim
        latents = dataclasses.replace(latents, moments=np.zeros((1, height, width, encoded), np.float16))
    conditions = ImageConditions(config.conditioning, images, int(parts["clip"]["embed_dim"]), None, None)
    config = config.copy_and_resolve_references().unlock()
    config.emphasis, config.data.held_out_rows = ConfigDict(), 0
    return _task(config, latents, conditions, attention_implementation="xla")


def _task(config: Config, latents: Latents, conditions: ImageConditions, **fixed: Any) -> DiffusionTask:
    """Returns the task with the network's sizes filled in from its latents and its conditions."""
    height, _, channels = latents.shape
    settings = with_sizes(
        config.model.to_dict(),
        in_channels=channels,
        out_channels=channels,
        context_dim=conditions.width,
        latent_size=height,
        **fixed,
    )
    return DiffusionTask(config, latents, conditions, build_denoiser(settings), settings)
