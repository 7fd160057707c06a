"""The options of masked models."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rdm_jax.core.checks import at_least_one, at_least_zero, part, positive
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.options import option
from rdm_jax.request import check_guidance

if TYPE_CHECKING:
    from rdm_jax.guidance.common import KnownRegion

MASK_SCHEDULES = ("cosine", "linear")  # how many codes are still masked after each step
GUIDANCE_SCHEDULES = ("constant", "growing")


def _guides() -> Mapping[str, type]:
    guides = importlib.import_module("rdm_jax.guidance").GUIDES
    return {name: guides[name] for name in ("inpaint", "outpaint")}


@dataclasses.dataclass(frozen=True)
class Options:
    """How masked codes are predicted.

    Attributes:
      steps: evaluations of the network; each one predicts all codes, and the least certain are masked again.
      fine_steps: those of the second stage of a model that generates from coarse to fine; 0 is as many as `steps`.
      mask_schedule: a name in `MASK_SCHEDULES`: after a fraction r of the steps, cos(pi r / 2) or 1 - r of the codes
        are still masked.
      guidance_scale: of the conditional over the unconditional logits; 1 disables it.
      guidance_schedule: a name in `GUIDANCE_SCHEDULES`: the scale in all steps, or growing to it linearly from about 1
        (Muse, https://arxiv.org/abs/2301.00704, section 2.7).
      temperature: logits are divided by it; above 0.
      choice_temperature: of the Gumbel noise on the logarithms of the probabilities by which codes are kept; it falls
        linearly to 0 in the last step.
      guides: the part of an image that is kept (`inpaint` and `outpaint` of `rdm_jax.guidance`).
      init: an image that the run starts from; "" starts from masked codes alone.
      strength: the fraction of the steps that an initial image runs through: 1 leaves nothing of it.
    """

    steps: int = option(12, "sampling steps", metavar="S", label="Steps")
    fine_steps: int = option(
        0,
        "sampling steps of the fine stage, where the model generates from coarse to fine (default: --steps)",
        metavar="S",
    )
    mask_schedule: str = option(
        "cosine", "how many codes are masked after each step: cosine or linear", metavar="NAME", label="Mask schedule"
    )
    guidance_scale: float = option(1.0, "classifier-free guidance scale; 1 disables it", metavar="G", label="CFG scale")
    guidance_schedule: str = option(
        "constant", "the guidance scale over the steps: constant, or growing to it", metavar="NAME"
    )
    temperature: float = option(1.0, "divides the logits, above 0", metavar="T", label="Temperature")
    choice_temperature: float = option(
        4.5,
        "noise in the choice of the codes that are kept, 0 or more; it falls to 0 over the steps",
        metavar="T",
        label="Choice temperature",
    )
    guides: tuple[KnownRegion, ...] = option(
        (),
        "the part of an image that is kept",
        metavar="CALL",
        flag="--guide",
        table=_guides,
        what="guide",
    )
    init: str = option("", "start from this image", metavar="FILE", file=True, everywhere=False)
    strength: float = option(
        1.0, "how much of the initial image is masked, above 0, up to 1 (default: 1)", metavar="S", everywhere=False
    )

    def check(self) -> None:
        """Raises UserError for the first option that is out of range."""
        at_least_one("steps", self.steps)
        at_least_zero("fine_steps", self.fine_steps)
        check_guidance(self.guidance_scale)
        if self.mask_schedule not in MASK_SCHEDULES:
            raise unknown("mask schedule", self.mask_schedule, MASK_SCHEDULES)
        if self.guidance_schedule not in GUIDANCE_SCHEDULES:
            raise unknown("guidance schedule", self.guidance_schedule, GUIDANCE_SCHEDULES)
        positive("temperature", self.temperature)
        if not 0 <= self.choice_temperature < float("inf"):
            raise UserError(f"choice_temperature={self.choice_temperature} is out of range; give 0 or more")
        part("strength", self.strength)
        if len(self.guides) > 1:
            raise UserError(f"{len(self.guides)} guides keep a part of an image each; give one")
        if self.init and self.guides:
            raise UserError("a run starts from an image (init) or keeps a part of one (guide); give one of them")
