"""The retrieval-augmented diffusion model (https://arxiv.org/abs/2204.11824): latents, conditioned on neighbors.

The first stage and the encoder are frozen, so their outputs are computed once: the moments of every image and the
vector of every caption are memory-mapped caches, and neighbors are streamed from their sidecar.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.schema import Fields, one_of
from rdm_jax.data.batches import Record
from rdm_jax.diffusion.objective import (
    TIME_DENSITIES,
    TIME_WEIGHTS,
    by_bands,
    diffusion_loss,
    sample_timesteps,
    time_weights,
)
from rdm_jax.diffusion.parameterization import PREDICTIONS
from rdm_jax.diffusion.schedule import SCHEDULES, Schedule, build_schedule
from rdm_jax.factory import sampler_from
from rdm_jax.models import BACKBONES, SIZES, build_denoiser, with_sizes
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import ImageConditions, batch_condition, open_image_conditions
from rdm_jax.training.config import Config
from rdm_jax.training.latents import Latents, Scaling, open_latents
from rdm_jax.training.schema import Positive, network, sampling_options
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.conditioned import (
    ConditionedRun,
    ConditionedTask,
    abstract_base,
    abstract_config,
    open_base,
)

BANDS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """The `diffusion` section.

    Attributes:
      num_timesteps: of the schedule.
      prediction: what the network predicts, a name in `parameterization.PREDICTIONS`.
      schedule: a name in `schedule.SCHEDULES`.
      beta_start: of the scaled linear schedule.
      beta_end: of the same.
    """

    num_timesteps: Positive
    prediction: Annotated[str, one_of(PREDICTIONS)]
    schedule: Annotated[str, one_of(SCHEDULES)]
    beta_start: float = 0.0
    beta_end: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(ConditionedRun):
    """The settings of a diffusion model.

    Attributes:
      model: the denoiser.
      diffusion: the noise schedule and what is predicted.
      time_density: of the times that are trained on, a name in `objective.TIME_DENSITIES`.
      time_weight: of each time's error, a name in `objective.TIME_WEIGHTS`.
      latents: their scale and shift; measured on the data where empty.
      sampling: the defaults of the exported model.
    """

    model: Annotated[Mapping[str, Any], network(BACKBONES, SIZES)]
    diffusion: Annotated[Mapping[str, Any], Fields({"": Noise}, by="")]
    time_density: Annotated[str, one_of(TIME_DENSITIES)] = "uniform"
    time_weight: Annotated[str, one_of(TIME_WEIGHTS)] = "uniform"
    latents: Annotated[Mapping[str, Any], Fields({"": Scaling}, by="", optional=True)] = dataclasses.field(
        default_factory=dict
    )
    sampling: Annotated[Mapping[str, Any], sampling_options("diffusion")]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.diffusion, self.sampling)


def check_noise(diffusion: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Raises UserError if a `diffusion` section describes no schedule, or a `sampling` section no sampler."""
    schedule, settings = diffusion["schedule"], SCHEDULES[diffusion["schedule"]][1]
    for key in diffusion:
        if key not in ("schedule", "prediction", *settings):
            raise UserError(f"diffusion.{key} is no setting of schedule {schedule!r}; leave it out")
    build_schedule(diffusion)
    sampler_from(sampling.get("sampler", "ddim"), sampling.get("eta", 0.0), sampling.get("spacing", ""))


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
        x, t = jnp.zeros((1, *self.latents.shape)), jnp.zeros((1,))
        params = self.module.init(key, x, t, self.conditions.empty)["params"]
        return {"denoiser": params, **self.conditions.init()}, {}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the weighted squared error of the prediction at random times, and its mean within bands of time."""
        config = self.config.diffusion
        posterior_key, noise_key, time_key, dropout_key = jax.random.split(key, 4)
        x0 = self.latents.x0(extras.frozen, batch, posterior_key)
        t = sample_timesteps(time_key, len(x0), len(self.schedule), self.config.time_density)

        def apply(x: Array, t: Array, condition: Condition) -> Array:
            dropout = {"deterministic": False, "rngs": {"dropout": dropout_key}} if self.module.dropout else {}
            return self.module.apply({"params": params["denoiser"]}, x, t, condition, **dropout)

        noise = jax.random.normal(noise_key, x0.shape)
        condition = batch_condition(params, batch)
        losses = diffusion_loss(apply, x0, condition, t, noise, self.schedule, config.prediction)
        weights = time_weights(self.config.time_weight, self.schedule, t, config.prediction)
        bands = by_bands(losses, t, len(self.schedule), BANDS)
        return jnp.mean(weights * losses), ({f"band_{i}": bands[i] for i in range(BANDS)}, extras.stats)

    def sections(self) -> dict[str, Any]:
        """Returns the sections of the model's configuration that only diffusion models have."""
        return {"latents": dict(self.latents.scaling), "diffusion": self.config.diffusion.to_dict()}


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> DiffusionTask:
    """Returns the task; fills the caches of moments and captions first where they are missing.

    Raises:
      UserError: the base bundle lacks a part, no image is left to train on, or the neighbors are missing, too few, or
        of another data set.
    """
    base, images = open_base(config, progress)
    latents = open_latents(base, images, config, progress)
    conditions = open_image_conditions(config, images, ClipEncoder(base), progress)
    return _task(config, latents, conditions)


def abstract(config: Config) -> DiffusionTask:
    """Returns the task from `config.architecture` alone, or from the settings of the bundle `config.base`.

    Attention is XLA's, not what this machine would choose.
    """
    base, conditions = abstract_base(config)
    latents = Latents(base, conditions.images, None, config.latents.to_dict() or {"scale": 1.0})
    if config.data.cache_latents:
        height, width, _ = latents.shape
        encoded = base.autoencoder.encoded * base.autoencoder.embed_dim
        latents = dataclasses.replace(latents, moments=np.zeros((1, height, width, encoded), np.float16))
    return _task(abstract_config(config), latents, conditions, attention_implementation="xla")


def _task(config: Config, latents: Latents, conditions: ImageConditions, **fixed: Any) -> DiffusionTask:
    """Returns the task with the network's sizes filled in from its latents and its conditions."""
    height, _, channels = latents.shape
    settings = with_sizes(
        config.model.to_dict(),
        in_channels=channels,
        out_channels=channels,
        context_dim=conditions.width,
        latent_size=height,
        **fixed,
    )
    return DiffusionTask(config, latents.base, conditions, build_denoiser(settings), settings, latents)
