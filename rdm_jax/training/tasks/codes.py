"""What tasks over the codes of a VQ first stage share: a transformer, codes computed ahead, and conditions.

The first stage and the encoder are frozen, so their outputs are computed once: the codes of every image and the vector
of every caption are memory-mapped caches, and neighbors are streamed from their sidecar.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import resize_and_crop, to_float
from rdm_jax.core.progress import ProgressCallback, StageProgressCallback
from rdm_jax.core.schema import Fields
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.factory import check_one_code, code_count, codes_encoder_from
from rdm_jax.models import CODES, build_transformer
from rdm_jax.models.condition import Condition
from rdm_jax.models.token_transformer import TokenTransformer
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import ImageConditions, batch_condition, open_image_conditions
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.schema import network
from rdm_jax.training.tasks.conditioned import ConditionedTask, abstract_base, abstract_config, open_base

ENCODE_BATCH = 64
SIZES = ("num_codes", "num_tokens", "context_dim", "causal")  # of the transformer, which follow from data and task


def transformer_section() -> Fields:
    """Returns the section of a config that describes the transformer."""
    return network({"": TokenTransformer}, SIZES, by="")


@dataclasses.dataclass(frozen=True)
class CodesTask(ConditionedTask):
    """Trains a transformer over codes.

    Attributes:
      codes: [n, l] the codes of each image in row-major order.
    """

    codes: Integer[np.ndarray, "n l"]

    network: ClassVar[str] = "transformer"
    inputs: ClassVar[tuple[str, ...]] = ("codes",)
    causal: ClassVar[bool]
    """Whether the transformer sees the codes before a position alone."""

    def encoded(self, image: int, generator: np.random.Generator) -> Record:
        """Returns an image's codes [l]."""
        return {"codes": self.codes[image].astype(np.int32)}

    def condition(self, params: Any, batch: dict[str, Array]) -> Condition:
        """Returns the condition of a batch."""
        return batch_condition(params, batch)

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the transformer, and of the null token where it is learned; no stats."""
        codes = jnp.zeros((1, self.codes.shape[1]), jnp.int32)
        params = self.module.init(key, codes, self.conditions.empty)["params"]
        return {self.network: params, **self.conditions.init()}, {}

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the cross-entropy of the held-out images' codes in nats and in bits."""
        for name, value in super().evaluate(params):
            yield name, value
            yield "bits_per_code", value / math.log(2.0)


Made = TypeVar("Made", bound=CodesTask)
Conditioned = Callable[[Config, Bundle, ImageConditions, StageProgressCallback], ImageConditions]


def with_vectors(
    config: Config, base: Bundle, conditions: ImageConditions, progress: StageProgressCallback
) -> ImageConditions:
    """Returns the conditions as they are: the vectors of captions and neighbors are the context tokens."""
    return conditions


def make(
    cls: type[Made], config: Config, progress: StageProgressCallback, conditioned: Conditioned = with_vectors
) -> Made:
    """Returns the task of a class; fills the caches of codes and captions first where they are missing.

    Args:
      cls: the class.
      config: of the run.
      progress: called with (what, done, total).
      conditioned: makes the task's conditions of those with vectors of captions and neighbors.

    Raises:
      UserError: the base bundle lacks a part or its first stage has no codebook, no image is left to train on, or the
        neighbors are missing, too few, or of another data set.
    """
    base, images = open_base(config, progress)
    check_first_stage(base, cls)
    codes = encode_codes(base, images, cache_folder(config.data), functools.partial(progress, "encoding images"))
    conditions = open_image_conditions(config, images, ClipEncoder(base), progress)
    return _task(cls, config, base, conditioned(config, base, conditions, progress), codes)


def abstract(cls: type[Made], config: Config, conditioned: Conditioned = with_vectors) -> Made:
    """Returns the task of a class from `config.architecture` alone, or from the settings of the bundle `config.base`.

    Attention is XLA's, not what this machine would choose; `conditioned` as of `make`.
    """
    base, conditions = abstract_base(config)
    conditions = conditioned(config, base, conditions, lambda *_: None)
    check_first_stage(base, cls)
    side = config.data.size // base.autoencoder.downsampling
    codes = np.zeros((1, code_count(base.autoencoder, (side, side))), np.int32)
    return _task(cls, abstract_config(config), base, conditions, codes, attention_implementation="xla")


def _task(
    cls: type[Made],
    config: Config,
    base: Bundle,
    conditions: ImageConditions,
    codes: Integer[np.ndarray, "n l"],
    **fixed: Any,
) -> Made:
    """Returns the task with the network's sizes filled in from the codes and the conditions."""
    settings = config.model.to_dict() | {
        "num_codes": base.autoencoder.num_codes,
        "num_tokens": codes.shape[1],
        "context_dim": conditions.token_width,
        "causal": cls.causal,
        **fixed,
    }
    return cls(config, base, conditions, build_transformer(settings), settings, codes)


def encode_codes(
    bundle: Bundle,
    images: ImageSet,
    folder: Path,
    progress: ProgressCallback,
    first_stage: str = "autoencoder",
    size: int = 0,
) -> Integer[np.ndarray, "n l"]:
    """Returns the codes of all images in row-major order, cached in `folder` by the hashes of both.

    Args:
      bundle: has a VQ autoencoder.
      images: the images.
      folder: of the caches.
      progress: called with (done, total).
      first_stage: the part that encodes.
      size: of an image in pixels; 0 leaves them as they are.
    """
    size = size or images.images.shape[1]
    name = f"codes-{bundle.hashes[first_stage][:16]}-{images.fingerprint[:16]}-{size}"
    return cached_array(folder / name, len(images), lambda: _encoded(bundle, images, progress, first_stage, size))


def _encoded(
    bundle: Bundle, images: ImageSet, progress: ProgressCallback, first_stage: str, size: int
) -> Iterator[np.ndarray]:
    """Yields the codes of one batch of images after another, in the smallest type that holds them."""
    module = getattr(bundle, first_stage)
    encode, params = jax.jit(codes_encoder_from(module)), jax.device_put(bundle.params[first_stage])
    for start in range(0, len(images), ENCODE_BATCH):
        pixels = np.asarray(images.images[start : start + ENCODE_BATCH])
        batch = to_float(np.stack([resize_and_crop(image, size) for image in pixels]))
        padding = ((0, ENCODE_BATCH - len(batch)), (0, 0), (0, 0), (0, 0))
        codes = np.asarray(encode(params, np.pad(batch, padding)))[: len(batch)]
        yield codes.astype(np.min_scalar_type(module.num_codes))
        progress(min(start + ENCODE_BATCH, len(images)), len(images))


def check_first_stage(base: Bundle, cls: type[CodesTask], first_stage: str = "autoencoder") -> None:
    """Raises UserError if a base's first stage has no codes that a task's transformer predicts."""
    kind = base.config[first_stage]["kind"]
    if kind not in CODES:
        raise UserError(
            f"the first stage of {base.name!r} has no codebook, and a model with the head {cls.head!r} predicts codes; "
            f"give a base whose autoencoder is of kind {' or '.join(map(repr, CODES))} (task first_stage)"
        )
    if not cls.causal:
        check_one_code(repr(base.name), getattr(base, first_stage))
