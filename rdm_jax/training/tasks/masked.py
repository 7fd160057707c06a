"""Masked codes (MaskGIT, https://arxiv.org/abs/2202.04200; Muse, https://arxiv.org/abs/2301.00704), with neighbors.

Some of the codes of an image are replaced by the mask token, and the transformer predicts them from the others.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.training.config import Config
from rdm_jax.training.schema import Probability, sampling_options
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import codes
from rdm_jax.training.tasks.base import held_out_loss
from rdm_jax.training.tasks.codes import CodesTask, transformer_section
from rdm_jax.training.tasks.conditioned import ConditionedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(ConditionedRun):
    """The settings of a model of masked codes.

    Attributes:
      label_smoothing: how much of the target's probability all codes have in equal parts, in training.
      model: the transformer.
      sampling: the defaults of the exported model.
    """

    label_smoothing: Probability = 0.0
    model: Annotated[Mapping[str, Any], transformer_section()]
    sampling: Annotated[Mapping[str, Any], sampling_options("masked")]


@dataclasses.dataclass(frozen=True)
class MaskedTask(CodesTask):
    """Trains a transformer to predict masked codes from the others.

    Attributes:
      smooths: whether labels are smoothed.
    """

    smooths: bool = True

    head: ClassVar[str] = "masked"
    causal: ClassVar[bool] = False

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the mean cross-entropy of a masked code in nats, and the same without smoothing in bits."""
        targets, (time, order, own) = batch["codes"], jax.random.split(key, 3)
        masked = masked_positions(jax.random.uniform(time, targets.shape[:1]), jax.random.uniform(order, targets.shape))
        dropout = {"deterministic": False, "rngs": {"dropout": own}} if self.module.dropout else {}
        logits = self.logits(params, jnp.where(masked, self.module.mask_token, targets), batch, **dropout)
        plain = masked_loss(logits, targets, masked)
        smoothing = self.config.label_smoothing if self.smooths else 0.0
        loss = masked_loss(logits, targets, masked, smoothing) if smoothing else plain
        return loss, ({"bits_per_code": plain / math.log(2.0)}, extras.stats)

    def logits(self, params: Any, inputs: Int[Array, "b l"], batch: dict[str, Array], **dropout: Any) -> Any:
        """Returns the logits [b, l, k] of codes, some of them masked, given the conditions of a batch."""
        variables = {"params": params[self.network]}
        return self.module.apply(variables, inputs, self.condition(params, batch), **dropout)

    @functools.cached_property
    def _evaluated(self) -> Callable[..., Array]:
        return held_out_loss(dataclasses.replace(self, smooths=False))


def masked_positions(time: Float[Array, " b"], uniform: Float[Array, "b l"]) -> Bool[Array, "b l"]:
    """Returns which codes are masked: cos(pi time / 2) of them, rounded, and one or more (Muse, section 2.6).

    Args:
      time: [b] uniform in [0, 1).
      uniform: [b, l] uniform in [0, 1), whose order chooses the codes.
    """
    share = jnp.cos(time * math.pi / 2.0)
    count = jnp.maximum(1.0, jnp.round(uniform.shape[1] * share))
    return jnp.argsort(uniform, axis=-1) < count[:, None]


def masked_loss(
    logits: Float[Array, "b l k"], codes: Int[Array, "b l"], masked: Bool[Array, "b l"], smoothing: float = 0.0
) -> Float[Array, ""]:
    """Returns the mean cross-entropy of the masked codes.

    Args:
      logits: of all codes.
      codes: the targets.
      masked: one or more of them; the others have no loss.
      smoothing: how much of the target's probability all codes have in equal parts.
    """
    each = optax.softmax_cross_entropy_with_integer_labels(logits, codes)
    if smoothing:
        uniform = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
        each = (1.0 - smoothing) * each + smoothing * uniform
    return jnp.sum(each * masked) / jnp.sum(masked)


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> MaskedTask:
    """Returns the task; see `codes.make`."""
    return codes.make(MaskedTask, config, progress)


def abstract(config: Config) -> MaskedTask:
    """Returns the task from its configuration alone; see `codes.abstract`."""
    return codes.abstract(MaskedTask, config)
