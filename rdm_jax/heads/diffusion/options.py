"""The options of diffusion models."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rdm_jax.core.checks import at_least_one, at_least_zero, part, positive, share
from rdm_jax.core.errors import UserError
from rdm_jax.core.options import option
from rdm_jax.request import check_guidance

if TYPE_CHECKING:
    from rdm_jax.guidance.base import GuidanceMethod


def _guides() -> Mapping[str, type]:
    return importlib.import_module("rdm_jax.guidance").GUIDES


@dataclasses.dataclass(frozen=True)
class Options:
    """How a diffusion model samples.

    Attributes:
      steps: sampling steps of the whole schedule.
      fine_steps: those of the fine stage of a model that generates from coarse to fine; 0 is as many as `steps`.
      sampler: its name in `diffusion.samplers.SAMPLERS`, with options as "euler(churn=20)".
      spacing: its timesteps, a name in `diffusion.spacing.SPACINGS`; the sampler's own if empty.
      eta: the amount of fresh noise of samplers that take it.
      guidance_scale: of classifier-free guidance; 1 disables it.
      style_scale: the same of style neighbors, where the model has two roles of them; 0 is `guidance_scale`.
      guidance_interval: (from, to) as fractions of the time, 0 at the image and 1 at noise; outside it the scale is 1.
      guidance_rescale: phi of the guidance rescale, in [0, 1].
      guides: methods of guidance (`rdm_jax.guidance`).
      init: an image that the run starts from, or a .npy file of the noise it starts from; "" for random noise.
      initial_noise: the standard deviation of the noise that a run starts from; GLIDE's upsampler takes 0.997.
      strength: the fraction of the steps that an initial image runs through: 1 leaves nothing of it.
      content_strength: the same where a run starts from its content neighbors; 1 starts from noise.
    """

    steps: int = option(50, "sampling steps", metavar="S", label="Steps")
    fine_steps: int = option(
        0,
        "sampling steps of the fine stage, where the model generates from coarse to fine (default: --steps)",
        metavar="S",
    )
    sampler: str = option(
        "ddim",
        "the sampler, with its options as 'euler(churn=20)' (--list-samplers)",
        metavar="NAME",
        label="Sampler",
    )
    spacing: str = option(
        "",
        "the timesteps (default: the sampler's own; --list-samplers)",
        metavar="NAME",
    )
    eta: float = option(0.0, "fresh noise in each step, 0 to 1", metavar="E", label="Eta")
    guidance_scale: float = option(1.0, "classifier-free guidance scale; 1 disables it", metavar="G", label="CFG scale")
    style_scale: float = option(
        0.0, "guidance scale of the style neighbors, where the model has two roles (default: that of all)", metavar="G"
    )
    guidance_interval: tuple[float, float] = option(
        (0.0, 1.0), "guide only between these fractions of the time, from 0 (the image) to 1 (noise)", metavar="FROM TO"
    )
    guidance_rescale: float = option(0.0, "guidance rescale phi, 0 to 1", metavar="PHI")
    guides: tuple[GuidanceMethod, ...] = option(
        (),
        "a guide, as \"clip(text='a storm', weight=50)\" (repeatable; --list-guides)",
        metavar="CALL",
        flag="--guide",
        table=_guides,
        what="guide",
    )
    init: str = option(
        "", "start from this image, or from a .npy of `rdm edit invert`", metavar="FILE", file=True, everywhere=False
    )
    strength: float = option(
        1.0, "how noisy the initial image is made, above 0, up to 1 (default: 1)", metavar="S", everywhere=False
    )
    initial_noise: float = option(
        1.0, "standard deviation of the noise that a run starts from (default: 1)", metavar="S"
    )
    content_strength: float = option(
        1.0,
        "start from the content neighbor, made this noisy, above 0; the default, 1, starts from noise",
        metavar="S",
        everywhere=False,
    )

    def check(self) -> None:
        """Raises UserError for the first option that is out of range."""
        at_least_one("steps", self.steps)
        at_least_zero("fine_steps", self.fine_steps)
        check_guidance(self.guidance_scale)
        check_guidance(self.style_scale)
        share("guidance_rescale", self.guidance_rescale)
        if len(self.guidance_interval) != 2:
            raise UserError(f"guidance interval {self.guidance_interval} is not a pair; give FROM and TO")
        for value in self.guidance_interval:
            share("guidance_interval", value)
        begin, end = self.guidance_interval
        if begin > end:
            raise UserError(
                f"guidance interval from {begin} to {end} is empty; time runs from 0 (the image) to 1 (noise)"
            )
        part("strength", self.strength)
        positive("initial_noise", self.initial_noise)
        part("content_strength", self.content_strength)
        if self.content_strength != 1 and self.init:
            raise UserError(
                f"content_strength {self.content_strength:g} starts from the content, and init {self.init} from an "
                "image or noise; give one of them"
            )
