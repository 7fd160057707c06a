"""What the tasks share that train a further part of a finished model."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from rdm_jax.bundle import Bundle
from rdm_jax.training.config import Config
from rdm_jax.training.model_record import ModelRecord
from rdm_jax.training.tasks.base import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartTask(Task):
    """Trains a network that becomes another part of a finished model.

    Attributes:
      part: the name of that part.
      config: of the run.
      base: the finished model.
      module: the network.
      settings: its configuration.
    """

    part: ClassVar[str]
    config: Config
    base: Bundle
    module: Any
    settings: dict[str, Any]

    @property
    def model(self) -> ModelRecord:
        """The finished model with the network beside its other parts."""
        others = {key: value for key, value in self.base.config.items() if key not in ("sha256", "schema", self.part)}
        parts = tuple(part for part in self.base.params if part != self.part)
        return ModelRecord.of({**others, self.part: self.settings}, self.base, self.config.base, parts)

    def export(self, params: Any) -> Bundle:
        """Returns the model with averaged parameters."""
        return self.model.bundle(params, self.base)
