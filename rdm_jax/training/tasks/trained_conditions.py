"""What the tasks share whose conditions are made by networks that are trained along."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, Key

from rdm_jax.models.condition import Condition
from rdm_jax.training.tasks.conditioned import ConditionedTask


class TrainedConditions(ConditionedTask):
    """Trains the networks of `conditions`, which have `settings`, `init_networks` and `condition`, with the model."""

    conditions: Any

    @property
    def trained(self) -> tuple[str, ...]:
        """The parts of the model that are trained."""
        return (self.network, *self.conditions.settings)

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns initial parameters of all networks; no stats."""
        own, others = jax.random.split(key)
        params, stats = super().init(own)
        return {**params, **self.conditions.init_networks(others)}, stats

    def condition(self, params: Any, batch: dict[str, Array]) -> Condition:
        """Returns the condition of a batch by the networks of `params`."""
        return self.conditions.condition(params, batch)

    def sections(self) -> dict[str, Any]:
        """Returns the sections of the model, and of the networks that make conditions."""
        return {**super().sections(), **self.conditions.settings}
