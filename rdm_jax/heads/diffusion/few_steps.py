"""Few-step models: what a model that was distilled records about itself, and how else it is sampled.

The section `distillation` of a bundle's configuration says what the network was trained for. Its section `sampling` has
the same settings as defaults, so that a few-step model needs no options of its own.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from rdm_jax import factory
from rdm_jax.bundle import Bundle, locate, read_config
from rdm_jax.core.errors import UserError
from rdm_jax.heads.diffusion.options import Options

_LOG = logging.getLogger(__name__)

SECTION = "distillation"
GUIDANCE = ("guidance_scale", "style_scale", "guidance_interval", "guidance_rescale")  # options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distilled:
    """The section `distillation` of a model's configuration.

    Attributes:
      teacher: the name of the model that it was distilled from.
      method: how, a name in `training.distillation.METHODS`.
      sampler: that it was trained for.
      spacing: of its timesteps.
      steps: the number of steps that it was trained for; 0 for any small number.
      guidance_scale: that its one evaluation reproduces; with a range, the default one.
      style_scale: the same of style neighbors; 0 is `guidance_scale`.
      guidance_range: the scales that the network takes as an input; empty where the scale is fixed.
    """

    teacher: str
    method: str
    sampler: str
    spacing: str
    steps: int
    guidance_scale: float
    style_scale: float = 0.0
    guidance_range: tuple[float, ...] = ()

    @staticmethod
    def of(bundle: Bundle) -> Distilled | None:
        """Returns the section of a bundle; None if it was not distilled.

        Raises:
          UserError: the section lacks a key or has an unknown one.
        """
        section = bundle.config.get(SECTION)
        if section is None:
            return None
        fields = {field.name for field in dataclasses.fields(Distilled)}
        if not isinstance(section, Mapping) or set(section) != fields:
            raise UserError(
                f"the settings of model {bundle.name!r} are damaged: {SECTION} has the keys {', '.join(sorted(fields))}"
                "; export it again"
            )
        return Distilled(**{**section, "guidance_range": tuple(section["guidance_range"])})

    def section(self) -> dict[str, Any]:
        """Returns the section as a dictionary."""
        return dataclasses.asdict(self)

    def sampling(self, of_teacher: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the section `sampling` but for the number of steps, from the teacher's; guidance is built in."""
        kept = {name: value for name, value in of_teacher.items() if name not in GUIDANCE}
        scale = self.guidance_scale if self.guidance_range else 1.0
        return {**kept, "sampler": self.sampler, "spacing": self.spacing, "eta": 0.0, "guidance_scale": scale}


def student_of(model: str) -> str:
    """Returns the name of the few-step model that ships with the package for another model, or that model itself.

    Args:
      model: the name or folder of a model; a few-step model needs no other.

    Raises:
      UserError: there is no such model, or none ships for it.
    """
    if SECTION in read_config(locate(model)):
        return model
    for name in Bundle.names():
        if read_config(locate(name)).get(SECTION, {}).get("teacher") == model:
            return name
    raise UserError(
        f"no few-step model of {model!r} ships with the package; distill one by `rdm train --config distill "
        f"--config.teacher={model}`, export it and give it by --model"
    )


def warn_other_use(options: Options, bundle: Bundle) -> None:
    """Warns, one line each, where a few-step model is sampled in another way than it was trained for.

    Raises:
      UserError: the model's section `distillation` is damaged.
    """
    model = Distilled.of(bundle)
    if model:
        for line in _other_use(options, model):
            _LOG.warning("model %r %s", bundle.name, line)


def _other_use(options: Options, model: Distilled) -> Iterator[str]:
    chosen = factory.sampler_from(options.sampler, options.eta, options.spacing)
    if chosen != factory.sampler_from(model.sampler, 0.0, model.spacing):
        made_for = f"sampler {model.sampler!r} with spacing {model.spacing!r}"
        yield f"was distilled for {made_for}; with others its images are worse"
    if model.steps and options.steps != model.steps:
        yield (
            f"was distilled for {model.steps} steps; with {options.steps} its images are worse: leave --steps out, or "
            "use its teacher"
        )
    if not model.guidance_range and options.guidance_scale != 1.0:
        yield (
            f"reproduces guidance scale {model.guidance_scale:g} without guidance; scale {options.guidance_scale:g} "
            "guides a second time and takes two evaluations a step"
        )
    if model.guidance_range and not model.guidance_range[0] <= options.guidance_scale <= model.guidance_range[1]:
        low, high = model.guidance_range
        yield f"takes guidance scales from {low:g} to {high:g}; {options.guidance_scale:g} was not trained"
    if options.style_scale:
        yield "has its guidance of style neighbors built in; a style scale guides a second time"
