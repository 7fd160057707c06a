"""One number of a table of metrics, with its interval and what it was computed with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from rdm_jax.evaluation.metrics.intervals import RESAMPLES, Interval, bootstrap_mean
from rdm_jax.evaluation.statistics import wilson

LOWER, HIGHER = "lower", "higher"


@dataclasses.dataclass(frozen=True)
class Row:
    """One number.

    Attributes:
      title: what it is called; it names the network unless the literature's name fits.
      value: the number.
      better: "lower" or "higher".
      interval: of 95 %, None where there is none.
      std: the standard deviation over subsets or parts, None where there are none.
      parameters: what else defines it, as JSON values.
      stand_in: the network of the project that it is by, where that is none of the table's; "" otherwise.
    """

    title: str
    value: float
    better: str
    interval: Interval | None = None
    std: float | None = None
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stand_in: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the number as JSON values."""
        low, high = self.interval or (None, None)
        shared = {"title": self.title, "value": self.value, "better": self.better, "low": low, "high": high}
        network = {"network": self.stand_in, "stand_in": True} if self.stand_in else {}
        return {**shared, "std": self.std, "parameters": dict(self.parameters), **network}


def mean_row(
    title: str, values: Shaped[np.ndarray, " n"], better: str, seed: int, parameters: Mapping[str, Any]
) -> Row:
    """Returns the mean of one number for each image, with its bootstrap interval; of booleans Wilson's.

    Resamples of a fraction that is 0 or 1 do not vary, and its interval would be empty.
    """
    if values.dtype == bool:
        interval, how = wilson(int(values.sum()), len(values)), {"interval": "Wilson"}
    else:
        interval, how = bootstrap_mean(values, seed=seed), {"interval": "bootstrap", "resamples": RESAMPLES}
    value = float(values.astype(np.float64).mean())
    return Row(title, value, better, interval, parameters={**parameters, **how})
