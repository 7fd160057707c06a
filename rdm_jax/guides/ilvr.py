"""Low frequencies of a reference."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array

from rdm_jax.core.checks import required, share
from rdm_jax.guidance.ilvr import ilvr, low_pass
from rdm_jax.guides.base import Bend, Kind, Networks, Scene


@dataclasses.dataclass(frozen=True)
class Ilvr(Kind):
    """Gives pictures the low frequencies of a reference: means over factor x factor latents, until a share of the
    time is left."""

    image: str = ""
    factor: float = 4
    until: float = 0.0
    source: ClassVar[str] = "arXiv 2108.02938, algorithm 1"

    @property
    def static(self) -> tuple[Any, ...]:
        """The factor."""
        return (int(self.factor),)

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the reference's latent and the time where conditioning ends."""
        reference = scene.latent_of(required("image", self.image, "a picture's file"))
        jax.eval_shape(lambda x: low_pass(x, int(self.factor)), reference)  # refuses a factor that does not fit
        return {"reference": reference, "until": np.float32(share("until", self.until) * scene.timesteps - 0.5)}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the hook."""
        return Bend(hooks=(ilvr(inputs["reference"], int(self.factor), inputs["until"], noise),))
