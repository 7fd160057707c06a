"""Classifier guidance: Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233), section 4, on noisy pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.guidance.gradient import Objective

Classify = Callable[[Float[Array, "b h w c"], Array], Mapping[str, Float[Array, "b _"]]]
"""x_t and its times [b] to the logits of each attribute."""


def class_likelihood(classify: Classify, classes: Mapping[str, Int[Array, " b"]], weight: Any) -> Objective:
    """Returns the objective log p(y | x_t), summed over attributes.

    Args:
      classify: a classifier of noisy pictures.
      classes: {attribute: the wanted class of each image, -1 where any will do}.
      weight: the scale s of the paper; 1 samples from p(x) p(y | x), more sharpens p(y | x).
    """

    def measure(x_t: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, " b"]:
        """Returns the summed log-probability of each image's wanted classes."""
        logits = classify(x_t, jnp.broadcast_to(info.t, x_t.shape[:1]))
        total = jnp.zeros(len(x_t))
        for name, wanted in classes.items():
            logs = jax.nn.log_softmax(logits[name], axis=-1)
            chosen = jnp.take_along_axis(logs, jnp.maximum(wanted, 0)[:, None], axis=1)[:, 0]
            total += jnp.where(wanted >= 0, chosen, 0.0)
        return total

    return Objective(measure, weight)
