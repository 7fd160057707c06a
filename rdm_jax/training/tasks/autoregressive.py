"""The retrieval-augmented autoregressive model (https://arxiv.org/abs/2204.11824): codes, conditioned on neighbors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.training.config import Config
from rdm_jax.training.schema import sampling_options
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import codes
from rdm_jax.training.tasks.codes import CodesTask, transformer_section
from rdm_jax.training.tasks.conditioned import ConditionedRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(ConditionedRun):
    """The settings of an autoregressive model.

    Attributes:
      model: the transformer.
      sampling: the defaults of the exported model.
    """

    model: Annotated[Mapping[str, Any], transformer_section()]
    sampling: Annotated[Mapping[str, Any], sampling_options("autoregressive")]


@dataclasses.dataclass(frozen=True)
class AutoregressiveTask(CodesTask):
    """Trains a transformer to predict each code from those before it."""

    head: ClassVar[str] = "autoregressive"
    causal: ClassVar[bool] = True

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the mean cross-entropy of a code given those before it, in nats, and the same in bits."""
        dropout = {"deterministic": False, "rngs": {"dropout": key}} if self.module.dropout else {}
        condition = self.condition(params, batch)
        logits = self.module.apply({"params": params["transformer"]}, batch["codes"], condition, **dropout)
        loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["codes"]))
        return loss, ({"bits_per_code": loss / math.log(2.0)}, extras.stats)


def make(
    config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None
) -> AutoregressiveTask:
    """Returns the task; see `codes.make`."""
    return codes.make(AutoregressiveTask, config, progress)


def abstract(config: Config) -> AutoregressiveTask:
    """Returns the task from its configuration alone; see `codes.abstract`."""
    return codes.abstract(AutoregressiveTask, config)
