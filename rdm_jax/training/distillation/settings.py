"""The settings of a run that distills a model, whatever the model's own task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import Fields, within
from rdm_jax.training.distillation import METHODS, Method
from rdm_jax.training.schema import Positive, Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Run):
    """The settings of distillation.

    Attributes:
      teacher: the model.
      stages: the number of steps of each stage's student.
      updates: of each stage.
      steps: their sum; not set.
      method: a name in `training.distillation.METHODS` as `kind`, and its settings.
      guidance_scale: that one evaluation of the student reproduces; 1 is the teacher without guidance.
      guidance_range: the least and the greatest scale of a student that takes the scale as an input, for which
        `guidance_scale` is the default; empty for a fixed scale.
      reference_steps: of the teacher's result that an evaluation compares with.
    """

    teacher: str
    stages: Annotated[tuple[int, ...], within(1)]
    updates: Annotated[tuple[int, ...], within(1)]
    steps: int = 0
    method: Annotated[Mapping[str, Any], Fields(METHODS, default="progressive")] = dataclasses.field(
        default_factory=lambda: {"kind": "progressive"}
    )
    guidance_scale: float = 1.0
    guidance_range: tuple[float, ...] = ()
    reference_steps: Positive = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages or len(self.updates) != len(self.stages):
            raise UserError(
                f"updates={self.updates} and stages={self.stages} differ in length; give the updates of each stage"
            )
        if self.steps not in (0, sum(self.updates)):
            raise UserError(f"steps={self.steps} follows from updates, {sum(self.updates)} in all; leave steps out")
        object.__setattr__(self, "steps", sum(self.updates))
        method_of(self.method).check(self.stages)
        if self.guidance_range and not (
            len(self.guidance_range) == 2
            and self.guidance_range[0] < self.guidance_range[1]
            and self.guidance_range[0] <= self.guidance_scale <= self.guidance_range[1]
        ):
            raise UserError(
                f"guidance_range={self.guidance_range} is no range around guidance_scale={self.guidance_scale:g}; give "
                "the least and the greatest scale"
            )


def method_of(section: Mapping[str, Any]) -> Method:
    """Returns the method of a `method` section; raises UserError for a setting out of range."""
    settings = dict(section)
    return METHODS[settings.pop("kind")](**settings)
