"""An ordinary CLIP's opinion of the clean estimate."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from rdm_jax.core.calls import OR_A_LIST
from rdm_jax.core.checks import positive
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import read_picture
from rdm_jax.factory import image_encoder_from
from rdm_jax.guidance.clean_clip import clip_distance
from rdm_jax.guides.base import Bend, Kind, Networks, Scene, per_image


@dataclasses.dataclass(frozen=True)
class Clip(Kind):
    """Leads the clean estimate to a text, a picture, or both, by the model's own CLIP on random cutouts."""

    text: str = ""
    image: str = ""
    weight: float | list[float] = dataclasses.field(default=100.0, metadata=OR_A_LIST)
    cutouts: float = 8
    smoothness: float = 0.0
    source: ClassVar[str] = "arXiv 2209.13360 (MGAD)"
    needs = {"clip": "", "autoencoder": ""}

    @property
    def static(self) -> tuple[Any, ...]:
        """The number of cutouts."""
        return (int(self.cutouts),)

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the targets' vectors and the weights."""
        if not self.text and not self.image:
            raise UserError("guide clip leads nowhere; give it text='...' or image='FILE'")
        positive("cutouts", float(int(self.cutouts)))
        targets = [scene.text(self.text)] if self.text else []
        targets += [scene.encoder.encode_images([read_picture(self.image)])] if self.image else []
        shares = np.full((1, len(targets)), 1.0 / len(targets), np.float32)
        weights = {"weight": per_image(self.weight), "smoothness": np.float32(self.smoothness)}
        return {"targets": np.stack(targets, axis=1), "shares": shares, **weights}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the objective."""
        bundle = networks.bundle
        look = image_encoder_from(bundle.clip, bundle.config["clip"])
        objective = clip_distance(
            networks.decode,
            functools.partial(look, networks.params["clip"]),
            inputs["targets"],
            inputs["shares"],
            inputs["weight"],
            size=int(bundle.clip.vision.image_size),
            cutouts=int(self.cutouts),
            smoothness=inputs["smoothness"],
        )
        return Bend(objectives=(objective,))
