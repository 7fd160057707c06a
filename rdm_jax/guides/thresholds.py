"""Bounds of what is believed of x0, for strong guidance."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from rdm_jax.core.checks import part, positive
from rdm_jax.guidance.thresholding import dynamic_thresholding, static_thresholding
from rdm_jax.guides.base import Bend, Kind, Networks, Scene


@dataclasses.dataclass(frozen=True)
class Threshold(Kind):
    """Cuts x0 off at -bound and bound."""

    bound: float = 3.0
    source: ClassVar[str] = "arXiv 2205.11487, section 2.3 (static)"

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the bound."""
        return {"bound": np.float32(positive("bound", self.bound))}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the guide."""
        return Bend(guides=(static_thresholding(inputs["bound"]),))


@dataclasses.dataclass(frozen=True)
class DynamicThreshold(Kind):
    """Shrinks a picture's x0 whose quantile lies beyond the bound."""

    quantile: float = 0.995
    bound: float = 3.0
    source: ClassVar[str] = "arXiv 2205.11487, section 2.3 (dynamic)"

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns quantile and bound."""
        return {
            "quantile": np.float32(part("quantile", self.quantile)),
            "bound": np.float32(positive("bound", self.bound)),
        }

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the guide."""
        return Bend(guides=(dynamic_thresholding(inputs["quantile"], inputs["bound"]),))
