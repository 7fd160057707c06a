"""Classifier guidance: Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233), section 4, on noisy images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.core.errors import unknown
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.guidance.base import GuidanceMethod, GuideContext, GuideEffects, Networks, weights_per_image
from rdm_jax.guidance.gradient import Objective
from rdm_jax.models.noised_encoder import split_logits

Classify = Callable[[Float[Array, "b h w c"], Array], Mapping[str, Float[Array, "b _"]]]
"""x_t and its times [b] to the logits of each attribute."""


def class_likelihood(classify: Classify, classes: Mapping[str, Int[Array, " b"]], weight: Any) -> Objective:
    """Returns the objective log p(y | x_t), summed over attributes.

    Args:
      classify: a classifier of noisy images.
      classes: {attribute: the target class of each image, -1 for none}.
      weight: the scale s of the paper; 1 samples from p(x) p(y | x), more sharpens p(y | x).
    """

    def measure(x_t: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, " b"]:
        """Returns the summed log-probability of each image's target classes."""
        logits = classify(x_t, jnp.broadcast_to(info.t, x_t.shape[:1]))
        total = jnp.zeros(len(x_t))
        for name, wanted in classes.items():
            logs = jax.nn.log_softmax(logits[name], axis=-1)
            chosen = jnp.take_along_axis(logs, jnp.maximum(wanted, 0)[:, None], axis=1)[:, 0]
            total += jnp.where(wanted >= 0, chosen, 0.0)
        return total

    return Objective(measure, weight)


@dataclasses.dataclass(frozen=True)
class ClassifierGuidance(GuidanceMethod):
    """Guides x_t towards a class of an attribute, by a classifier of noisy latents."""

    attribute: str = ""
    label: str = ""
    weight: float | list[float] = 30.0
    source: ClassVar[str] = "arXiv 2105.05233, section 4"
    needs: ClassVar[Mapping[str, str]] = {"noised_classifier": "noised_classifier"}

    @property
    def static(self) -> tuple[Any, ...]:
        """The attribute."""
        return (self.attribute,)

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the class and the weight."""
        classes = context.bundle.config["noised_classifier"]["classes"]
        if self.attribute not in classes:
            raise unknown("attribute", self.attribute, classes, hint="of guide classifier")
        if self.label not in classes[self.attribute]:
            raise unknown(self.attribute, self.label, classes[self.attribute], hint="of guide classifier")
        target = np.array([classes[self.attribute].index(self.label)], np.int32)
        return {"class": target, "weight": weights_per_image(self.weight)}

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the objective."""
        module: Any = networks.bundle.noised_classifier
        classes = networks.bundle.config["noised_classifier"]["classes"]

        def classify(x: Array, t: Array) -> dict[str, Array]:
            """Returns the logits of every attribute."""
            return split_logits(module.apply({"params": networks.params["noised_classifier"]}, x, t), classes)

        target = {self.attribute: jnp.broadcast_to(inputs["class"], noise.shape[:1])}
        return GuideEffects(objectives=(class_likelihood(classify, target, inputs["weight"]),))
