"""A diffusion model conditioned on several encoders at a time, each of which may be absent (eDiff-I,
https://arxiv.org/abs/2211.01324, section 3), with neighbors as one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.encoders import NEIGHBORS, TEXT_STATES
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.schema import Fields
from rdm_jax.training.config import Config
from rdm_jax.training.encoder_conditions import (
    EncoderConditions,
    Encoders,
    abstract_encoder_conditions,
    open_encoder_conditions,
)
from rdm_jax.training.latents import open_latents
from rdm_jax.training.tasks import diffusion
from rdm_jax.training.tasks.conditioned import abstract_base, abstract_config, base_settings, open_base
from rdm_jax.training.tasks.diffusion import abstract_latents, build_task
from rdm_jax.training.tasks.trained_conditions import TrainedConditions
from rdm_jax.training.text_conditions import Text

UNUSED = ("text_probability", "text_and_neighbors_probability")  # of `conditioning`: encoders have rates of their own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(diffusion.Schema):
    """The settings of a diffusion model with several encoders.

    Attributes:
      encoders: how often each one is dropped.
      text: the encoder of captions that is trained along, where there is one.
    """

    encoders: Encoders
    text: Annotated[Mapping[str, Any], Fields({"": Text}, by="", optional=True)] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        rates, conditioning = self.encoders.rates, self.conditioning
        if not rates:
            raise UserError("encoders has no encoder with a rate below 1; set one, as encoders.clip_text=0.2")
        for name in UNUSED:
            if getattr(conditioning, name):
                raise UserError(f"conditioning.{name}={getattr(conditioning, name)}: encoders have rates; set it to 0")
        if conditioning.null != "zeros" or conditioning.unit_tokens:
            raise UserError(
                "conditioning.null and conditioning.unit_tokens: the null token is learned here, and outputs are "
                "projected and normalized; set them to zeros and false"
            )
        if (NEIGHBORS in rates) != bool(conditioning.neighbors) or (NEIGHBORS in rates) != bool(self.data.neighbors):
            raise UserError(
                f"encoders.neighbors={self.encoders.neighbors}, conditioning.neighbors={conditioning.neighbors} and "
                f"data.neighbors={self.data.neighbors!r}: give all three, or a rate of 1, 0 and nothing"
            )
        if (TEXT_STATES in rates) != bool(self.text):
            raise UserError(
                f"encoders.text_states={self.encoders.text_states} is of the text encoder in the section text; give "
                "both, or a rate of 1 and no such section"
            )


@dataclasses.dataclass(frozen=True)
class EncodersTask(TrainedConditions, diffusion.DiffusionTask):
    """Trains a denoiser together with the projections of the encoders, and a text encoder where there is one."""

    conditions: EncoderConditions

    @property
    def frozen(self) -> Any:
        """The autoencoder's parameters, where images are encoded in every step, and those of CLIP's text tower."""
        return {**super().frozen, **self.conditions.frozen}


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> EncodersTask:
    """Returns the task; see `tasks.diffusion.make` and `open_encoder_conditions` for what is encoded first.

    Raises:
      UserError: as there, or the backbone takes no vector beside the time, and the run has one.
    """
    base, images = open_base(config, progress)
    latents = open_latents(base, images, config, progress)
    conditions = open_encoder_conditions(config, rates_of(config), base, images, progress)
    return build_task(EncodersTask, config, latents, conditions, **_vector(config, conditions))


def abstract(config: Config) -> EncodersTask:
    """Returns the task from its configuration alone; see `diffusion.abstract`."""
    base, plain = abstract_base(config)
    text = base_settings(config)["clip"]["text"]
    conditions = abstract_encoder_conditions(config, rates_of(config), plain, text)
    fixed = {**_vector(config, conditions), "attention_implementation": "xla"}
    return build_task(EncodersTask, abstract_config(config), abstract_latents(config, base, plain), conditions, **fixed)


def rates_of(config: Config) -> dict[str, float]:
    """Returns the rates of a run's encoders, in the order of their tokens."""
    return Encoders(**config.encoders.to_dict()).rates


def _vector(config: Config, conditions: EncoderConditions) -> dict[str, int]:
    """Returns the size of the vector beside the time, as the backbone's field; nothing where there is none."""
    size, kind = conditions.projections.vector_dim, config.model.kind
    if size and kind != "unet":
        raise UserError(f"encoders.beside_time=true needs model.kind=unet, and it is {kind}; set it to false")
    return {"vector_dim": size} if size else {}
