"""A class of an attribute, by the model's classifier of noisy latents."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rdm_jax.core.calls import OR_A_LIST
from rdm_jax.core.errors import unknown
from rdm_jax.guidance.classifier import class_likelihood
from rdm_jax.guides.base import Bend, Kind, Networks, Scene, per_image
from rdm_jax.models.noised_encoder import split_logits


@dataclasses.dataclass(frozen=True)
class Classifier(Kind):
    """Leads x_t to a class of an attribute, by a classifier of noisy latents."""

    attribute: str = ""
    label: str = ""
    weight: float | list[float] = dataclasses.field(default=30.0, metadata=OR_A_LIST)
    source: ClassVar[str] = "arXiv 2105.05233, section 4"
    needs = {"noised_classifier": "configs/noised_classifier.py"}

    @property
    def static(self) -> tuple[Any, ...]:
        """The attribute."""
        return (self.attribute,)

    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns the class and the weight."""
        classes = scene.bundle.config["noised_classifier"]["classes"]
        if self.attribute not in classes:
            raise unknown("attribute", self.attribute, classes, hint="of guide classifier")
        if self.label not in classes[self.attribute]:
            raise unknown(self.attribute, self.label, classes[self.attribute], hint="of guide classifier")
        wanted = np.array([classes[self.attribute].index(self.label)], np.int32)
        return {"class": wanted, "weight": per_image(self.weight)}

    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns the objective."""
        module: Any = networks.bundle.noised_classifier
        classes = networks.bundle.config["noised_classifier"]["classes"]

        def classify(x: Array, t: Array) -> dict[str, Array]:
            """Returns the logits of every attribute."""
            return split_logits(module.apply({"params": networks.params["noised_classifier"]}, x, t), classes)

        wanted = {self.attribute: jnp.broadcast_to(inputs["class"], noise.shape[:1])}
        return Bend(objectives=(class_likelihood(classify, wanted, inputs["weight"]),))
