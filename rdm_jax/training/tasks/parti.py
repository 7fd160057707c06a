"""Text to image by the codes of a first stage (Parti, https://arxiv.org/abs/2206.10789), with neighbors.

An encoder reads the tokens of the caption, and RARM's transformer predicts each code from those before it. It attends
to the encoder's states and, in the same attention, to the projected vectors of the neighbors. All three are trained
together. An encoder without blocks leaves a decoder that attends to the embedded tokens.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.training.conditioning import ImageConditions
from rdm_jax.training.config import Config
from rdm_jax.training.tasks import autoregressive, codes
from rdm_jax.training.tasks.conditioned import base_settings
from rdm_jax.training.tasks.trained_conditions import TrainedConditions
from rdm_jax.training.text_conditions import Text, TextConditions, with_texts, without_texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(autoregressive.Schema):
    """The settings of a text-to-image model over codes.

    Attributes:
      text: the encoder of captions.
    """

    text: Text

    def __post_init__(self) -> None:
        super().__post_init__()
        conditioning = self.conditioning
        if conditioning.neighbors and not self.data.neighbors:
            raise UserError(
                f"conditioning.neighbors={conditioning.neighbors} needs data.neighbors; give it, or set "
                "conditioning.neighbors=0"
            )
        if conditioning.null != "zeros":
            raise UserError(
                f"conditioning.null={conditioning.null}: the empty text is no condition here; set it to zeros"
            )
        if conditioning.unit_tokens:
            raise UserError(
                "conditioning.unit_tokens=true: neighbors are projected and normalized here; set it to false"
            )


@dataclasses.dataclass(frozen=True)
class PartiTask(TrainedConditions, autoregressive.AutoregressiveTask):
    """Trains a transformer over codes together with the encoder of texts and the projection of neighbors."""

    conditions: TextConditions


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> PartiTask:
    """Returns the task; see `codes.make`.

    Raises:
      UserError: as there, or the base has no tokenizer.
    """
    return codes.make(PartiTask, config, progress, with_texts)


def abstract(config: Config) -> PartiTask:
    """Returns the task from its configuration alone; see `codes.abstract`."""

    def conditioned(config: Config, base: Bundle, conditions: ImageConditions, _: Any) -> TextConditions:
        """Returns conditions with the vocabulary of the base's text tower."""
        return without_texts(config, conditions, int(base_settings(config)["clip"]["text"]["vocab_size"]))

    return codes.abstract(PartiTask, config, conditioned)
