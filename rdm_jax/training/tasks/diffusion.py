"""The retrieval-augmented diffusion model (https://arxiv.org/abs/2204.11824): latents, conditioned on neighbors.

The first stage and the encoder are frozen, so their outputs are computed once: the moments of every image and the
vector of every caption are memory-mapped caches, and neighbors are streamed from their sidecar.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.models import BACKBONES, SIZES, build_denoiser, with_sizes
from rdm_jax.models.condition import Condition
from rdm_jax.models.dit import TIMES
from rdm_jax.parts import check_scales
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import ImageConditions, batch_condition, open_image_conditions
from rdm_jax.training.config import Config
from rdm_jax.training.denoising import (
    DenoisingRun,
    denoising_loss,
    diffusion_section,
    initial_inputs,
    output_channels,
)
from rdm_jax.training.latents import Latents, open_latents
from rdm_jax.training.schema import network
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.conditioned import (
    ConditionedRun,
    ConditionedTask,
    abstract_base,
    abstract_config,
    open_base,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(ConditionedRun, DenoisingRun):
    """The settings of a diffusion model.

    Attributes:
      model: the denoiser.
    """

    model: Annotated[Mapping[str, Any], network(BACKBONES, SIZES)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.get("path") and self.diffusion["num_timesteps"] != TIMES:
            raise UserError(
                f"model.path={self.model['path']} is a path of {TIMES} times, and diffusion.num_timesteps is "
                f"{self.diffusion['num_timesteps']}; set it to {TIMES}"
            )


@dataclasses.dataclass(frozen=True)
class DiffusionTask(ConditionedTask):
    """Trains a denoiser.

    Attributes:
      latents: the training images, encoded by the base's autoencoder.
    """

    latents: Latents

    network: ClassVar[str] = "denoiser"
    head: ClassVar[str] = "diffusion"
    inputs: ClassVar[tuple[str, ...]] = ("image", "moments")

    @property
    def frozen(self) -> Any:
        """The autoencoder's parameters, where images are encoded in every step."""
        return self.latents.frozen

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return build_schedule(self.config.diffusion.to_dict())

    def encoded(self, image: int, generator: np.random.Generator) -> Record:
        """Returns an image's moments, or the image."""
        return self.latents.read(image, generator)

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of the denoiser, and of the null token where it is learned; no stats."""
        inputs = initial_inputs(self.module, self.latents.shape, self.conditions.empty)
        params = self.module.init(key, *inputs)["params"]
        return {"denoiser": params, **self.conditions.init()}, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the weighted error of the prediction at random times, and its mean within bands of time."""
        posterior_key, noise_key, time_key, dropout_key = jax.random.split(key, 4)
        x0 = self.latents.x0(extras.frozen, batch, posterior_key)
        condition, keys = self.condition({**extras.frozen, **params}, batch), (noise_key, time_key, dropout_key)
        loss, bands = denoising_loss(self.config, self.schedule, self.module, params["denoiser"], x0, condition, keys)
        return loss, (bands, extras.stats)

    def condition(self, params: Any, batch: dict[str, Array]) -> Condition:
        """Returns the condition of a batch, by the trained parameters and the frozen ones."""
        return batch_condition(params, batch)

    def sections(self) -> dict[str, Any]:
        """Returns the sections of the model's configuration that only diffusion models have."""
        return {"latents": dict(self.latents.scaling), "diffusion": diffusion_section(self.config)}


class UnsampledTask(DiffusionTask):
    """Trains a denoiser whose condition is more than held-out images have at hand: none are sampled in training."""

    def figures(self, params: Any) -> Any:
        """Returns no figures."""
        return iter(())

    @property
    def comparable_images(self) -> int:
        """None: generated images are compared by the exported model."""
        return 0

    def generated(self, params: Any, count: int) -> tuple[UInt8[np.ndarray, "n h w 3"], UInt8[np.ndarray, "n h w 3"]]:
        """Raises UserError: there is no whole condition of a held-out image."""
        raise UserError("evaluators of generated images need captions or neighbors alone; leave evaluators=loss")


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> DiffusionTask:
    """Returns the task; fills the caches of moments and captions first where they are missing.

    Raises:
      UserError: the base bundle lacks a part, no image is left to train on, or the neighbors are missing, too few, or
        of another data set.
    """
    base, images = open_base(config, progress)
    latents = open_latents(base, images, config, progress)
    conditions = open_image_conditions(config, images, ClipEncoder(base), progress)
    return build_task(DiffusionTask, config, latents, conditions)


def abstract(config: Config) -> DiffusionTask:
    """Returns the task from `config.architecture` alone, or from the settings of the bundle `config.base`.

    Attention is XLA's, not what this machine would choose.
    """
    base, conditions = abstract_base(config)
    latents = abstract_latents(config, base, conditions)
    return build_task(DiffusionTask, abstract_config(config), latents, conditions, attention_implementation="xla")


def abstract_latents(config: Config, base: Bundle, conditions: ImageConditions) -> Latents:
    """Returns latents of a blank image, as the configuration stores them."""
    latents = Latents(base, conditions.images, None, config.latents.to_dict() or {"scale": 1.0})
    if not config.data.cache_latents:
        return latents
    height, width, _ = latents.shape
    encoded = base.autoencoder.encoded * base.autoencoder.embed_dim
    return dataclasses.replace(latents, moments=np.zeros((1, height, width, encoded), np.float16))


Made = TypeVar("Made", bound=DiffusionTask)


def build_task(cls: type[Made], config: Config, latents: Latents, conditions: ImageConditions, **fixed: Any) -> Made:
    """Returns the task of a class with the network's sizes filled in from its latents and its conditions."""
    height, _, channels = latents.shape
    settings = with_sizes(
        config.model.to_dict(),
        in_channels=channels,
        out_channels=output_channels(config, channels),
        context_dim=conditions.token_width,
        latent_size=height,
        **fixed,
    )
    module = build_denoiser(settings)
    check_scales("the denoiser of config.model", module, latents.base.autoencoder)
    return cls(config, latents.base, conditions, module, settings, latents)
