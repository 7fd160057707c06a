"""The retrieval-augmented autoregressive model RARM (https://arxiv.org/abs/2204.11824): codes, conditioned on neighbors.

The first stage and the encoder are frozen, so their outputs are computed once: the codes of every image and the vector
of every caption are memory-mapped caches, and neighbors are streamed from their sidecar.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import to_float
from rdm_jax.data.batches import Record
from rdm_jax.data.pictures import Pictures, cached_array
from rdm_jax.models import AutoencoderVQ, abstract_params, build_autoencoder, build_transformer
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.request import NULLS
from rdm_jax.training.conditioning import (
    ImageConditions,
    batch_condition,
    conditioning_section,
    open_image_conditions,
)
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.base import Progress, Task, blank_picture, training_pictures

ENCODE_BATCH = 64
EVAL_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class AutoregressiveTask(Task):
    """Trains a transformer over codes.

    Attributes:
      base: the bundle with the frozen encoder and autoencoder.
      images: the training images, held-out ones among them.
      codes: [n, l] the codes of each image in row-major order.
      conditions: what conditions each image.
      module: the network.
      settings: its configuration.
    """

    config: Config
    base: Bundle
    images: Pictures
    codes: Int[np.ndarray, "n l"]
    conditions: ImageConditions
    module: Any
    settings: dict[str, Any]

    @property
    def size(self) -> int:
        """The number of records in an epoch."""
        return len(self.rows)

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the images, of the base and of the neighbors' database."""
        return {"source": self.images.fingerprint, "base": self.base.digest, **self.conditions.record}

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The image of each record: all but the held-out ones."""
        return np.delete(np.arange(len(self.images)), self.held_out)

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """The images kept for evaluation, spread evenly: a folder's images are sorted by class."""
        count = self.config.data.held_out_rows
        return (np.arange(1, count + 1) * len(self.images)) // max(count, 1) - 1

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns one record: an image's codes [l], and a random condition."""
        return self._read(int(self.rows[row]), generator)

    def complete(self, batch: Record) -> Record:
        """Returns codes [b, l] and their conditions (see `ImageConditions.complete`)."""
        return {"codes": batch["codes"], **self.conditions.complete(batch)}

    def _read(self, image: int, generator: np.random.Generator) -> Record:
        return {"codes": self.codes[image].astype(np.int32), **self.conditions.sample(image, generator)}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the transformer, and of the null token where it is learned; no stats."""
        codes = jnp.zeros((1, self.codes.shape[1]), jnp.int32)
        params = self.module.init(key, codes, self.conditions.empty)["params"]
        return {"transformer": params, **self.conditions.init()}, {}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the mean cross-entropy of a code given those before it, in nats, and the same in bits."""
        dropout = {"deterministic": False, "rngs": {"dropout": key}} if self.module.dropout else {}
        condition = batch_condition(params, batch)
        logits = self.module.apply({"params": params["transformer"]}, batch["codes"], condition, **dropout)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["codes"]))
        return loss, ({"bits_per_code": loss / math.log(2.0)}, held.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the cross-entropy of the held-out images' codes in nats and in bits, without dropout."""
        generator, size, losses = np.random.default_rng(0), self.config.batch_size, []
        count = min(EVAL_BATCHES, len(self.held_out) // size)
        for i in range(count):
            records = [self._read(int(row), generator) for row in self.held_out[i::count][:size]]
            batch = self.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
            losses.append(float(self._evaluated(params, batch)))
        if losses:
            yield "loss", float(np.mean(losses))
            yield "bits_per_code", float(np.mean(losses)) / math.log(2.0)

    @functools.cached_property
    def _evaluated(self) -> Callable[..., Array]:
        still = dataclasses.replace(self, module=self.module.clone(dropout=0.0))
        key, zero = jax.random.key(0), jnp.zeros((), jnp.int32)
        return jax.jit(lambda params, batch: still.loss(params, Held({}, {}), batch, key, zero)[0])

    def export(self, params: Any) -> Bundle:
        """Returns the model: the frozen parts, the transformer and the conventions that it was trained by."""
        config = {key: value for key, value in self.base.config.items() if key != "sha256"} | {
            "name": self.config.name,
            "head": "autoregressive",
            "transformer": self.settings,
            "conditioning": conditioning_section(self.config.conditioning, params),
            "sampling": self.config.sampling.to_dict(),
        }
        parts = {part: self.base.params[part] for part in ("clip", "autoencoder")}
        return Bundle(config, {**parts, "transformer": params["transformer"]}, self.base.tokenizer)


def encode_codes(
    bundle: Bundle, images: Pictures, folder: Path, progress: Callable[[int, int], None]
) -> Int[np.ndarray, "n l"]:
    """Returns the codes of all images in row-major order, cached in `folder` by the hashes of both.

    Args:
      bundle: has a VQ autoencoder.
      images: the images.
      folder: of the caches.
      progress: called with (done, total).
    """
    name = f"codes-{bundle.hashes['autoencoder'][:16]}-{images.fingerprint[:16]}-{images.images.shape[1]}"
    return cached_array(folder / name, len(images), lambda: _encoded(bundle, images, progress))


def _encoded(bundle: Bundle, images: Pictures, progress: Callable[[int, int], None]) -> Iterator[np.ndarray]:
    """Yields the codes of one batch of images after another, in the smallest type that holds them."""
    module = bundle.autoencoder
    encode = jax.jit(lambda params, x: module.apply({"params": params}, x, method="codes"))
    params = jax.device_put(bundle.params["autoencoder"])
    for start in range(0, len(images), ENCODE_BATCH):
        batch = to_float(np.asarray(images.images[start : start + ENCODE_BATCH]))
        padding = ((0, ENCODE_BATCH - len(batch)), (0, 0), (0, 0), (0, 0))
        codes = np.asarray(encode(params, np.pad(batch, padding)))[: len(batch)]
        yield codes.reshape(len(batch), -1).astype(np.min_scalar_type(module.num_codes))
        progress(min(start + ENCODE_BATCH, len(images)), len(images))


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> AutoregressiveTask:
    """Returns the task; fills the caches of codes and captions first where they are missing.

    Raises:
      UserError: the base bundle lacks a part or its first stage has no codebook, no image is left to train on, or the
        neighbors are missing, too few, or of another data set.
    """
    base = Bundle.open(config.base)
    base.require("clip", "autoencoder")
    check_first_stage(base.autoencoder, base.name)
    if config.conditioning.null not in NULLS:
        raise unknown("conditioning.null", config.conditioning.null, NULLS)
    images = training_pictures(config.data, config.data.split, progress)
    if config.data.held_out_rows >= len(images):
        raise UserError(
            f"data.held_out_rows={config.data.held_out_rows} leaves none of {len(images)} images to train on; "
            "hold out fewer"
        )
    codes = encode_codes(base, images, cache_folder(config.data), functools.partial(progress, "encoding images"))
    return _task(config, base, images, codes, open_image_conditions(config, images, ClipEncoder(base), progress))


def check_first_stage(autoencoder: Any, model: str) -> None:
    """Raises UserError if a model's first stage has no codebook."""
    if not isinstance(autoencoder, AutoencoderVQ):
        raise UserError(
            f"the first stage of {model!r} has no codebook, and an autoregressive model predicts codes; give a base "
            'whose autoencoder is of kind "vq" (task first_stage)'
        )


def abstract(config: Config) -> AutoregressiveTask:
    """Returns the task from `config.architecture` alone, or from the settings of the bundle `config.base`.

    Attention is XLA's, not what this machine would choose.
    """
    parts = config.architecture.to_dict() if "architecture" in config else Bundle.open(config.base).config
    autoencoder = build_autoencoder(parts["autoencoder"])
    check_first_stage(autoencoder, config.name)
    frozen = trees.unflatten(abstract_params(autoencoder))
    base = Bundle({"name": config.name, "autoencoder": parts["autoencoder"]}, {"autoencoder": frozen})
    images = blank_picture(config.data.size)
    codes = np.zeros((1, (config.data.size // autoencoder.downsampling) ** 2), np.int32)
    conditions = ImageConditions(config.conditioning, images, int(parts["clip"]["embed_dim"]), None, None)
    config = config.copy_and_resolve_references().unlock()
    config.data.held_out_rows = 0
    return _task(config, base, images, codes, conditions, attention_implementation="xla")


def _task(
    config: Config, base: Bundle, images: Pictures, codes: np.ndarray, conditions: ImageConditions, **fixed: Any
) -> AutoregressiveTask:
    """Returns the task with the network's sizes filled in from the codes and the conditions."""
    settings = config.model.to_dict() | {
        "num_codes": base.autoencoder.num_codes,
        "num_tokens": codes.shape[1],
        "context_dim": conditions.width,
        **fixed,
    }
    return AutoregressiveTask(config, base, images, codes, conditions, build_transformer(settings), settings)
