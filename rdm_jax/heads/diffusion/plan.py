"""What all images of a diffusion run share, opened and checked before anything is generated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax import factory
from rdm_jax.conditioning import Conditioner, StepSchedule, schedule_steps
from rdm_jax.core import paths
from rdm_jax.core.calls import format_call
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import read_image
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.samplers import Sampler, num_steps
from rdm_jax.diffusion.samplers.coarse_to_fine import CoarseToFine, join_stages
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.diffusion.spacing import Grid
from rdm_jax.guidance import GUIDES, bind_guides
from rdm_jax.guidance.base import BoundGuide, GuideContext
from rdm_jax.heads.diffusion.options import Options


@flax.struct.dataclass
class Start:
    """What a run starts from.

    Attributes:
      latent: [1, h, w, c], or of each image.
      alpha: its factor.
      sigma: the factor of each image's own noise.
    """

    latent: Any
    alpha: Any
    sigma: Any

    def add_noise(self, noise: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns alpha latent + sigma noise."""
        return self.alpha * self.latent + self.sigma * noise


@dataclasses.dataclass(frozen=True)
class Run:
    """What all images of a diffusion run share.

    Attributes:
      sampler: computes the steps.
      steps: those of the run, planned from its first level.
      skipped: how many a whole run has before them.
      schedule: what changes from step to step.
      start: what the run starts from.
      guides: of the run, with their arrays.
      rescale: phi of the guidance rescale.
      contents: [q, n, h, w, c] the latents of each query's content, where images start from them, in turn.
      embedded: whether the network takes the guidance scale, and reproduces guidance in one evaluation.
    """

    sampler: Sampler
    steps: StepInfo
    skipped: int
    schedule: StepSchedule
    start: Start
    guides: tuple[BoundGuide, ...]
    rescale: float
    contents: Float[np.ndarray, "q n h w c"] | None = None
    embedded: bool = False

    def start_of(self, rows: Int[np.ndarray, " b"], turns: Int[np.ndarray, " b"]) -> Start:
        """Returns what images start from.

        Args:
          rows: the query of each image.
          turns: which of the query's images each one is.
        """
        latent = self.start.latent
        if self.contents is not None:
            latent = self.contents[rows, turns % self.contents.shape[1]]
        return dataclasses.replace(self.start, latent=np.broadcast_to(latent, (len(rows), *latent.shape[1:])))

    @property
    def guided(self) -> bool:
        """Whether the network is evaluated under the null condition too."""
        extrapolated = not self.embedded and (self.schedule.guidance != 1).any()
        return bool(extrapolated or self.schedule.also)

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
    options.check()
    sampler = factory.sampler_from(options.sampler, options.eta, options.spacing)
    schedule = factory.schedule_from(context.bundle.config["diffusion"])
    stages = [options]
    if context.bundle.denoiser.stages > 1:
        stages = [options, dataclasses.replace(options, steps=options.fine_steps or options.steps)]
        _check_no_guides(options, context)
    elif options.fine_steps:  # a number that does not fit is refused, also where a model has no fine stage
        sampler.grid(schedule, options.fine_steps)
    plans = [plan_sampler(one, sampler, schedule) for one in stages]
    grid, steps, skipped = plans[0]
    scheduled = [schedule_steps(conditions, _step_schedule(options, own, context.timesteps)) for _, own, _ in plans]
    if len(stages) > 1:
        sampler, steps = CoarseToFine(sampler), join_stages([own for _, own, _ in plans])
        skipped = sum(one for _, _, one in plans)
    return Run(
        sampler=sampler,
        steps=steps,
        skipped=skipped,
        schedule=StepSchedule.joined(scheduled),
        start=_start(options, grid, context),
        guides=bind_guides(options.guides, context),
        rescale=options.guidance_rescale,
        embedded="guidance" in context.bundle.denoiser.supports,
    )


def _check_no_guides(options: Options, context: GuideContext) -> None:
    """Raises UserError if a model that denoises one scale after another has guides."""
    if options.guides:
        raise UserError(
            f"guide {format_call(GUIDES, options.guides[0])!r}: model {context.bundle.name!r} generates from coarse to "
            "fine, and guides need the whole latent in every step; leave the guide out"
        )


def plan_sampler(options: Options, sampler: Sampler, schedule: Schedule) -> tuple[Grid, StepInfo, int]:
    """Returns the levels of a run, its steps, and how many of the whole plan's steps it leaves out.

    A run from an image with noise added begins at the level that leaves a fraction `strength` of the grid's steps, at
    least one (`content_strength` where the image is its content). It is planned from that level on: a step in the
    middle of a plan relies on what those before it computed.

    Raises:
      UserError: the spacing is unknown, or the number of steps does not fit the schedule.
    """
    whole = sampler.grid(schedule, options.steps)
    planned = sampler.plan_on(whole, schedule)
    strength = options.strength if starts_from_image(options) else options.content_strength
    if strength == 1:
        return whole, planned, 0
    grid = whole.since(len(whole) - max(1, round(strength * len(whole))))
    steps = sampler.plan_on(grid, schedule)
    return grid, steps, num_steps(planned) - num_steps(steps)


def edited_size(options: Options, downsampling: int) -> tuple[int, int] | None:
    """Returns (height, width) of the image that a run starts from, or of the first one that a guide keeps; else None.

    Args:
      options: of the run.
      downsampling: of the first stage, for the noise of a file.

    Raises:
      UserError: a file cannot be read.
    """
    if starts_from_image(options):
        return read_image(options.init).shape[:2]
    if options.init:
        height, width = load_noise(options.init).shape[1:3]
        return height * downsampling, width * downsampling
    sizes = (guide.edited() for guide in options.guides)
    return next((size for size in sizes if size is not None), None)


def read_noise(file: str, latent: tuple[int, int, int]) -> Float[np.ndarray, "1 h w c"]:
    """Returns the noise that a .npy file holds.

    Raises:
      UserError: the file cannot be read, or holds noise of another size.
    """
    noise = load_noise(file)
    if noise.shape != (1, *latent):
        raise UserError(f"{file} holds noise of shape {noise.shape}, and this run takes {(1, *latent)}; invert again")
    return noise.astype(np.float32)


def load_noise(file: str) -> Float[np.ndarray, "1 h w c"]:
    """Returns the noise that a .npy file holds, of any size; raises UserError if it cannot be read."""
    try:
        noise = np.load(paths.local(file), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot read noise from {file}: {error}") from error
    if not isinstance(noise, np.ndarray) or noise.ndim != 4 or not np.issubdtype(noise.dtype, np.floating):
        raise UserError(
            f"{file} holds no noise, an array of shape [1, h, w, c]; give the noise.npy of `rdm edit invert`"
        )
    return noise


def starts_from_image(options: Options) -> bool:
    """Returns whether a run starts from an image with noise added."""
    return bool(options.init) and not options.init.endswith(".npy")


def _start(options: Options, grid: Grid, context: GuideContext) -> Start:
    """Returns what a run starts from: random noise, an image with noise added, or the noise of a file."""
    one, zero = np.ones((), np.float32), np.zeros((), np.float32)
    alpha, sigma = np.float32(grid.alpha[0]), np.float32(grid.sigma[0])
    if not options.init:
        nothing = np.zeros((1, *context.latent), np.float32)  # which each image's content replaces, if any
        scale = np.float32(options.initial_noise)
        return Start(nothing, zero, scale) if options.content_strength == 1 else Start(nothing, alpha, sigma)
    if not starts_from_image(options):
        return Start(read_noise(options.init, context.latent), one, zero)
    if options.strength == 1:  # nothing of the image is left, whatever the noise at the grid's first level
        return Start(context.latent_of(options.init), zero, one)
    return Start(context.latent_of(options.init), alpha, sigma)


def _step_schedule(options: Options, steps: StepInfo, timesteps: int) -> StepSchedule:
    """Returns the schedule of a run before its conditioners: guidance within its interval."""
    times, (begin, end) = np.asarray(steps.t, np.float32), options.guidance_interval
    guided = (times >= begin * timesteps - 0.5) & (times <= end * timesteps + 0.5)
    ones = np.ones(len(times), np.float32)
    # With a scale of the style the output is null + scale (C - null) + style (A - C), where C has text and content and
    # A the style as well (https://arxiv.org/abs/2211.09800, eq. 3), which is
    # null + style (A - null) + (scale - style) (C - null).
    # The other order, style before content, leads towards any image of the style, whatever it shows.
    style = options.style_scale or options.guidance_scale
    guidance = np.where(guided, np.float32(style), ones)
    unstyled = np.where(guided, np.float32(options.guidance_scale - style), np.zeros_like(ones))
    also = (unstyled,) if options.style_scale else ()
    return StepSchedule(guidance=guidance, weight=ones, null_weight=ones, also=also)
