"""Distillation of a model with two roles of neighbors; its style encoder stays as it is (see `distilled`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.schema import within
from rdm_jax.models.condition import Condition
from rdm_jax.training.config import Config
from rdm_jax.training.distillation.settings import Distillation
from rdm_jax.training.restyling import with_restyled
from rdm_jax.training.role_settings import RoleData, Roles
from rdm_jax.training.tasks.distilled import DistillTask, Examples, open_teacher
from rdm_jax.training.tasks.roles import RolesTask, task_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(Distillation):
    """The settings of distilling a model of the task `roles`.

    Attributes:
      data: the images.
      conditioning: what the teacher's examples were conditioned on.
      style_scale: the guidance scale of style neighbors that the student reproduces; 0 is `guidance_scale`.
    """

    data: RoleData
    conditioning: Roles
    style_scale: Annotated[float, within(0.0)] = 0.0


@dataclasses.dataclass(frozen=True)
class RolesDistillTask(DistillTask):
    """Distills a model of the task `roles`."""

    inner: RolesTask

    @property
    def style_scale(self) -> float:
        """The guidance scale of style neighbors; 0 is that of all."""
        return self.config.style_scale

    @property
    def frozen(self) -> Any:
        """What the images need, and the style encoder with what its view needs."""
        parts = {"style_encoder", *self.inner.view.parts}
        return {**self.inner.frozen, **{part: self.teacher.params[part] for part in parts}}

    def examples(self, frozen: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Examples:
        """Returns latents with text, style neighbors and content, as the teacher was trained on them."""
        example_key, posterior_key = jax.random.split(key)
        example = self.inner.example(example_key, frozen, batch["row"])
        x0 = self.inner.x0(frozen, example, posterior_key)
        tokens, _ = self.inner.encode_styles(frozen, example["styles"])
        condition = self.inner.condition(frozen, example, tokens)
        no_content = jnp.zeros((1, *condition.channels.shape[1:]))
        text_alone = jnp.zeros((1, condition.weights.shape[1])).at[:, 0].set(1.0)
        null = Condition(jnp.zeros((1, *condition.tokens.shape[1:])), text_alone, no_content)
        every = jnp.broadcast_to(text_alone, condition.weights.shape)
        unstyled = Condition(condition.tokens, every, condition.channels) if self.style_scale else None
        return Examples(x0, condition, null, unstyled)


def make(
    config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None
) -> RolesDistillTask:
    """Returns the task.

    Raises:
      UserError: the teacher lacks a part or a null condition, or is a model of another task; or as `roles.make`.
    """
    inner, teacher, images = open_teacher(config, progress, start)
    if not teacher.has("style_encoder"):
        raise UserError(f"teacher {teacher.name!r} has one role of neighbors; use task 'distill'")
    inner.conditioning.content_latents = bool(teacher.config["conditioning"].get("content_latents", False))
    inner.model, inner.style_encoder = (type(inner)(teacher.config[part]) for part in ("denoiser", "style_encoder"))
    images = with_restyled(images, config.data, progress)
    return RolesDistillTask(config, task_of(inner, teacher, images, progress))
