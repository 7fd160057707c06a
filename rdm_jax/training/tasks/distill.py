"""Distillation of a model of the task `diffusion` (see `distilled`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import Conditioning, batch_condition, open_image_conditions
from rdm_jax.training.config import Config
from rdm_jax.training.distillation.settings import Distillation
from rdm_jax.training.latents import open_latents
from rdm_jax.training.model_record import NULL_TOKEN
from rdm_jax.training.neighbors import NeighborData
from rdm_jax.training.tasks.diffusion import DiffusionTask
from rdm_jax.training.tasks.distilled import DistillTask, Examples, open_teacher


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Distillation):
    """The settings of distilling a model of the task `diffusion`.

    Attributes:
      data: the training images and their neighbors.
      emphasis: {attribute: {value: times}} of images that an epoch has several times.
      conditioning: how often the teacher was trained on each condition.
    """

    data: NeighborData
    emphasis: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    conditioning: Conditioning


@dataclasses.dataclass(frozen=True)
class DiffusionDistillTask(DistillTask):
    """Distills a model of the task `diffusion`."""

    inner: DiffusionTask

    @property
    def frozen(self) -> Any:
        """What the images need, and the learned null token."""
        token = self.teacher.config["conditioning"].get("null_token")
        null = {} if token is None else {NULL_TOKEN: {"token": np.asarray(token, np.float32)}}
        return {**self.inner.frozen, **null}

    def examples(self, frozen: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Examples:
        """Returns latents with their caption and neighbors, as the teacher was trained on them."""
        condition = batch_condition(frozen, batch)
        tokens = jnp.zeros((1, *condition.tokens.shape[1:]))
        if NULL_TOKEN in frozen:
            tokens = tokens.at[:, 0].set(frozen[NULL_TOKEN]["token"][None])
        weights = jnp.zeros((1, tokens.shape[1])).at[:, 0].set(1.0)
        return Examples(self.inner.latents.x0(frozen, batch, key), condition, Condition(tokens, weights))


def make(
    config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None
) -> DiffusionDistillTask:
    """Returns the task.

    Raises:
      UserError: the teacher lacks a part or a null condition, or is a model of another task; or as `diffusion.make`.
    """
    inner, teacher, images = open_teacher(config, progress, start)
    if teacher.has("style_encoder"):
        raise UserError(f"teacher {teacher.name!r} has two roles of neighbors; use task 'distill_roles'")
    own = teacher.config["conditioning"]
    for name, default in (("unit_tokens", False), ("null", "zeros")):
        if config.conditioning[name] != own.get(name, default):
            raise UserError(
                f"conditioning.{name}={config.conditioning[name]}, and teacher {teacher.name!r} was trained with "
                f"{own.get(name, default)}; set --config.conditioning.{name}={own.get(name, default)}"
            )
    if not config.data.neighbors and (config.guidance_scale != 1 or config.guidance_range):
        raise UserError("without data.neighbors there is no condition to guide by; set --config.guidance_scale=1")
    latents = open_latents(teacher, images, inner, progress)
    conditions = open_image_conditions(inner, images, ClipEncoder(teacher), progress)
    task = DiffusionTask(inner, teacher, conditions, teacher.denoiser, teacher.config["denoiser"], latents)
    return DiffusionDistillTask(config, task)
