"""What all images of a diffusion run share, opened and checked before anything is generated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float

from rdm_jax import factory
from rdm_jax.conditioning import Conditioner, StepSchedule, schedule_steps
from rdm_jax.core.checks import at_least_one, part, share
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.samplers import Sampler, num_steps, slice_steps
from rdm_jax.guidance import bind_guides
from rdm_jax.guidance.base import BoundGuide, GuideContext
from rdm_jax.heads.diffusion.options import Options
from rdm_jax.request import check_guidance


@flax.struct.dataclass
class Start:
    """What a run starts from.

    Attributes:
      latent: [1, h, w, c].
      alpha: its factor.
      sigma: the factor of each image's own noise.
    """

    latent: Array | np.ndarray
    alpha: Array | np.ndarray
    sigma: Array | np.ndarray

    def add_noise(self, noise: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns alpha latent + sigma noise."""
        return self.alpha * self.latent + self.sigma * noise


@dataclasses.dataclass(frozen=True)
class Run:
    """What all images of a diffusion run share.

    Attributes:
      sampler: computes the steps.
      steps: those that are left, where the run starts in the middle.
      skipped: the number of steps of the sampler's plan before them.
      schedule: what changes from step to step.
      start: what the run starts from.
      guides: of the run, with their arrays.
      rescale: phi of the guidance rescale.
    """

    sampler: Sampler
    steps: StepInfo
    skipped: int
    schedule: StepSchedule
    start: Start
    guides: tuple[BoundGuide, ...]
    rescale: float

    @property
    def guided(self) -> bool:
        """Whether the network is evaluated under the null condition too."""
        return bool((self.schedule.guidance != 1).any() or self.schedule.also)

    @property
    def total(self) -> int:
        """The number of steps."""
        return num_steps(self.steps)

    @functools.cached_property
    def infos(self) -> StepInfo:
        """The steps with their entries of the schedule, on the host: slices on a device would be small programs."""
        return jax.tree.map(np.asarray, self.schedule.attach(self.steps))


def plan_run(options: Options, conditions: Sequence[Conditioner], context: GuideContext) -> Run:
    """Returns what all images of a run share: files are read, references encoded, steps planned.

    Args:
      options: of the run.
      conditions: of the request.
      context: what guides are made for: the model and the latents' size.

    Raises:
      UserError: a file, a guide, the sampler or a number is invalid.
    """
    check(options)
    sampler = factory.sampler_from(options.sampler, options.eta, options.spacing)
    steps = sampler.plan(factory.schedule_from(context.bundle.config["diffusion"]), options.steps)
    skipped = 0
    if options.init and not options.init.endswith(".npy"):
        skipped = num_steps(steps) - max(1, round(options.strength * num_steps(steps)))
        steps = slice_steps(steps, skipped, num_steps(steps))
    return Run(
        sampler=sampler,
        steps=steps,
        skipped=skipped,
        schedule=schedule_steps(conditions, _step_schedule(options, steps, context.timesteps)),
        start=_start(options, steps, context),
        guides=bind_guides(options.guides, context),
        rescale=options.guidance_rescale,
    )


def check(options: Options) -> None:
    """Raises UserError for the first option that is out of range."""
    at_least_one("steps", options.steps)
    check_guidance(options.guidance_scale)
    share("guidance_rescale", options.guidance_rescale)
    if len(options.guidance_interval) != 2:
        raise UserError(f"guidance interval {options.guidance_interval} is not a pair; give FROM and TO")
    for value in options.guidance_interval:
        share("guidance_interval", value)
    begin, end = options.guidance_interval
    if begin > end:
        raise UserError(f"guidance interval from {begin} to {end} is empty; time runs from 0 (the image) to 1 (noise)")
    part("strength", options.strength)


def read_noise(file: str, latent: tuple[int, int, int]) -> Float[np.ndarray, "1 h w c"]:
    """Returns the noise that a .npy file holds.

    Raises:
      UserError: the file cannot be read, or holds noise of another size.
    """
    try:
        noise = np.load(Path(file).expanduser(), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read noise from {file}: {error}") from error
    if noise.shape != (1, *latent):
        raise UserError(f"{file} holds noise of shape {noise.shape}, and this run takes {(1, *latent)}; invert again")
    return noise.astype(np.float32)


def _start(options: Options, steps: StepInfo, context: GuideContext) -> Start:
    """Returns what a run starts from: random noise, an image with noise added, or the noise of a file."""
    one, zero = np.ones((), np.float32), np.zeros((), np.float32)
    if not options.init:
        return Start(np.zeros((1, *context.latent), np.float32), zero, one)
    if options.init.endswith(".npy"):
        return Start(read_noise(options.init, context.latent), one, zero)
    alpha, sigma = (np.asarray(steps.coefficients[name][0], np.float32) for name in ("alpha", "sigma"))
    return Start(context.latent_of(options.init), alpha, sigma)


def _step_schedule(options: Options, steps: StepInfo, timesteps: int) -> StepSchedule:
    """Returns the schedule of a run before its conditioners: guidance within its interval."""
    times, (begin, end) = np.asarray(steps.t, np.float32), options.guidance_interval
    guided = (times >= begin * timesteps - 0.5) & (times <= end * timesteps + 0.5)
    ones = np.ones(len(times), np.float32)
    scale = np.where(guided, np.float32(options.guidance_scale), ones)
    return StepSchedule(guidance=scale, weight=ones, null_weight=ones)
