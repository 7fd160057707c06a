"""The second stage of masked codes (Muse, https://arxiv.org/abs/2301.00704, section 2.6), with neighbors.

The base is a finished model of masked codes that also holds a finer first stage. The codes of its own first stage, of
the same image, condition the transformer over the finer ones; both are computed once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Key

from rdm_jax import parts
from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.building import null_token
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.factory import code_count
from rdm_jax.heads.masked.program import BASE, FINE
from rdm_jax.models import FineTransformer, build_fine_transformer
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import ImageConditions, batch_condition, open_image_conditions
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.model_record import NULL_TOKEN, ModelRecord
from rdm_jax.training.schema import network
from rdm_jax.training.tasks import masked
from rdm_jax.training.tasks.codes import check_first_stage, encode_codes
from rdm_jax.training.tasks.conditioned import abstract_base, abstract_config, base_settings, open_base

SIZES = ("num_codes", "num_tokens", "coarse_codes", "coarse_tokens", "context_dim")  # they follow from data and base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(masked.Schema):
    """The settings of a second stage.

    Attributes:
      model: the second network.
    """

    model: Annotated[Mapping[str, Any], network({"": FineTransformer}, SIZES, by="")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTask(masked.MaskedTask):
    """Trains a transformer to predict masked fine codes from the other ones and from all coarse codes.

    Attributes:
      coarse: [n, m] the codes of each image in the base's own first stage, in row-major order.
    """

    coarse: Integer[np.ndarray, "n m"]

    network: ClassVar[str] = FINE.network
    inputs: ClassVar[tuple[str, ...]] = ("codes", "coarse")

    def encoded(self, image: int, generator: np.random.Generator) -> Record:
        """Returns an image's codes in both first stages."""
        return {**super().encoded(image, generator), "coarse": self.coarse[image].astype(np.int32)}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the second network; no stats."""
        fine, coarse = (jnp.zeros((1, codes.shape[1]), jnp.int32) for codes in (self.codes, self.coarse))
        return {self.network: self.module.init(key, fine, coarse, self.conditions.empty)["params"]}, {}

    def logits(self, params: Any, inputs: Int[Array, "b l"], batch: dict[str, Array], **dropout: Any) -> Any:
        """Returns the logits [b, l, k] of fine codes, some of them masked, given the coarse ones and the conditions."""
        variables, condition = {"params": params[self.network]}, self.condition(params, batch)
        return self.module.apply(variables, inputs, batch["coarse"], condition, **dropout)

    def condition(self, params: Any, batch: dict[str, Array]) -> Condition:
        """Returns the condition of a batch, with the null token of the base."""
        token = null_token(self.base.config)
        return batch_condition({} if token is None else {NULL_TOKEN: {"token": jnp.asarray(token)}}, batch)

    @property
    def model(self) -> ModelRecord:
        """The base with the second network beside its other parts; images have the size of the fine first stage."""
        others = {key: one for key, one in self.base.config.items() if key not in ("sha256", "schema", self.network)}
        own = {"name": self.config.name, self.network: self.settings, "sampling": self.config.sampling.to_dict()}
        kept = tuple(part for part in self.base.params if part != self.network)
        return ModelRecord.of({**others, **own}, self.base, self.config.base, kept)


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> FineTask:
    """Returns the task; fills the caches of codes and captions first where they are missing.

    Raises:
      UserError: the base is no model of masked codes with a finer first stage, it is conditioned otherwise, no image is
        left to train on, or the neighbors are missing, too few, or of another data set.
    """
    base, images = open_base(config, progress)
    check_base(config, base)
    encode = functools.partial(encode_codes, base, images, cache_folder(config.data))
    fine = encode(functools.partial(progress, "encoding images"), FINE.first_stage)
    coarse = encode(functools.partial(progress, "encoding small images"), BASE.first_stage, _coarse_size(base))
    conditions = open_image_conditions(config, images, ClipEncoder(base), progress)
    return _task(config, base, conditions, fine, coarse)


def abstract(config: Config) -> FineTask:
    """Returns the task from `config.architecture` alone, or from the settings of the bundle `config.base`.

    Attention is XLA's, not what this machine would choose.
    """
    given: Any = base_settings(config)
    settings = given.to_dict() if isinstance(given, Config) else given
    described = {key: settings[key] for key in (BASE.network, BASE.first_stage, FINE.first_stage) if key in settings}
    conventions = {key: settings[key] for key in ("head", "conditioning", "sampling") if key in settings}
    shapes = {part: trees.unflatten(parts.abstract_params(described, part)) for part in described}
    base = Bundle({"name": config.name, **described, **conventions}, shapes)
    check_base(config, base)
    side, (_, conditions) = config.data.size // base.fine_autoencoder.downsampling, abstract_base(config)
    fine = np.zeros((1, code_count(base.fine_autoencoder, (side, side))), np.int32)
    coarse = np.zeros((1, base.transformer.num_tokens), np.int32)
    return _task(abstract_config(config), base, conditions, fine, coarse, attention_implementation="xla")


def _coarse_size(base: Bundle) -> int:
    """Returns the height and width in pixels of the images that the base generates."""
    return base.transformer.latent_size * base.autoencoder.downsampling


def _task(
    config: Config,
    base: Bundle,
    conditions: ImageConditions,
    fine: Integer[np.ndarray, "n l"],
    coarse: Integer[np.ndarray, "n m"],
    **fixed: Any,
) -> FineTask:
    """Returns the task with the network's sizes filled in; raises UserError if the fine codes are no more than others.

    Args:
      config: of the run.
      base: the finished model.
      conditions: of the images.
      fine: the codes of the images in the fine first stage.
      coarse: those in the base's own.
      fixed: further fields of the network.
    """
    if fine.shape[1] <= coarse.shape[1]:
        raise UserError(
            f"an image of data.size={config.data.size} has {fine.shape[1]} codes in the fine first stage of "
            f"{base.name!r}, and {coarse.shape[1]} in the other; give a finer one, or a larger data.size"
        )
    sizes = fine.shape[1], base.autoencoder.num_codes, coarse.shape[1], conditions.token_width
    filled = dict(zip(SIZES, (base.fine_autoencoder.num_codes, *sizes), strict=True))
    settings = config.model.to_dict() | filled | fixed
    module = build_fine_transformer(settings)
    parts.check_second_stage(base.name, base.transformer, module)
    return FineTask(config, base, conditions, module, settings, fine, coarse=coarse)


def check_base(config: Config, base: Bundle) -> None:
    """Raises UserError unless a base is a model of masked codes with a finer first stage and the run's conventions."""
    head, name = base.config.get("head"), base.name
    if head != masked.MaskedTask.head or "vector" in base.transformer.supports:
        what = f"has the head {head!r}" if head != masked.MaskedTask.head else "takes a vector of the text too"
        raise UserError(f"base {name!r} {what}, and a second stage needs a model of masked codes (task masked)")
    if not base.has(FINE.first_stage):
        raise UserError(
            f"base {name!r} has no {FINE.first_stage}; join one: rdm export BASE --fine-first-stage VQ --out NEW_BASE"
        )
    for first_stage in (BASE.first_stage, FINE.first_stage):
        check_first_stage(base, FineTask, first_stage)
    given = base.config["conditioning"]
    for key, default in (("unit_tokens", False), ("null", "zeros")):
        own, needed = config.conditioning[key], given.get(key, default)
        if own != needed:
            raise UserError(
                f"conditioning.{key}={own}, and base {name!r} is conditioned with {needed}; both stages share their "
                f"condition: set it to {needed}"
            )
