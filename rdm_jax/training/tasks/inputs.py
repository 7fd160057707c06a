"""A latent diffusion model with an input of its own: a class, a layout or a segmentation, alone or beside neighbors.

The conditions are those of latent diffusion (https://arxiv.org/abs/2112.10752, section 3.3); neighbors are further
context tokens (https://arxiv.org/abs/2204.11824).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.inputs.base import PART
from rdm_jax.core.errors import UserError
from rdm_jax.core.nulls import NO_NULL
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.models import build_denoiser, with_sizes
from rdm_jax.models.condition import Condition
from rdm_jax.parts import check_scales
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import batch_condition, open_image_conditions
from rdm_jax.training.config import Config
from rdm_jax.training.denoising import initial_inputs, output_channels
from rdm_jax.training.inputs import InputSettings, TrainingInput, open_input
from rdm_jax.training.latents import open_latents
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.tasks import diffusion
from rdm_jax.training.tasks.conditioned import open_base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(diffusion.Schema):
    """The settings of a diffusion model with an input.

    Attributes:
      input: what conditions it beside neighbors.
    """

    input: InputSettings


@dataclasses.dataclass(frozen=True)
class InputTask(diffusion.UnsampledTask):
    """Trains a denoiser and the encoder of its input.

    Attributes:
      input: of each training image.
    """

    input: TrainingInput

    inputs: ClassVar[tuple[str, ...]] = (*diffusion.DiffusionTask.inputs, "input")

    def encoded(self, image: int, generator: np.random.Generator) -> Record:
        """Returns an image's moments, or the image, and its input."""
        return {**super().encoded(image, generator), "input": self.input.sample(image, generator)}

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the denoiser and the encoder; no stats."""
        keys = jax.random.split(key)
        first = jnp.asarray(self.input.read(0))[None]
        encoder = self.input.encoder.init(keys[1], first)["params"]
        empty = dataclasses.replace(self.conditions.empty, weights=jnp.ones((1, self.conditions.places)))
        condition = self.input.condition(encoder, first, empty, jnp.zeros((1,), bool))
        inputs = initial_inputs(self.module, self.latents.shape, condition)
        return {"denoiser": self.module.init(keys[0], *inputs)["params"], PART: encoder}, {}

    def condition(self, params: Any, batch: dict[str, Array]) -> Condition:
        """Returns the condition of a batch."""
        base = batch_condition(params, batch)
        return self.input.condition(params[PART], batch["input"], base, batch["null"])

    @property
    def model(self) -> ModelRecord:
        """The frozen parts, the networks and the conventions that they were trained by."""
        record = super().model
        dropped = self.config.conditioning.null_probability if self.conditions.neighbors else 0.0
        guided = self.input.null_probability > 0 or dropped > 0
        own = {**self.input.conditioning, **({} if guided else {"null": NO_NULL})}
        conditioning = {**record.config["conditioning"], **own}
        config = {**record.config, "conditioning": conditioning, PART: dict(self.input.settings)}
        return dataclasses.replace(record, config=config)


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> InputTask:
    """Returns the task; see `tasks.diffusion.make`.

    Raises:
      UserError: as there, the images have no such input, the null token is learned, or there are no neighbors.
    """
    if config.conditioning.null == "learned":
        raise UserError("conditioning.null=learned is of captions; an input has a null class or none: set it to zeros")
    if config.conditioning.neighbors and not config.data.neighbors:
        raise UserError(
            f"conditioning.neighbors={config.conditioning.neighbors} need data.neighbors; give them, or set it to 0"
        )
    base, images = open_base(config, progress)
    latents = open_latents(base, images, config, progress)
    conditions = open_image_conditions(config, images, ClipEncoder(base), progress)
    height, _, channels = latents.shape
    width = conditions.width
    own = open_input(config, images, width, base.autoencoder.downsampling)
    without_tokens = bool(own.channels) and conditions.neighbors is None
    settings = with_sizes(
        config.model.to_dict(),
        in_channels=channels,
        out_channels=output_channels(config, channels),
        context_dim=0 if without_tokens else width,
        latent_size=height,
        condition_channels=own.channels,
    )
    module = build_denoiser(settings)
    check_scales("the denoiser of config.model", module, base.autoencoder)
    return InputTask(config, base, conditions, module, settings, latents, own)
