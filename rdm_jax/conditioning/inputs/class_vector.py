"""A class as a vector beside the time (https://arxiv.org/abs/2105.05233, section 3.1)."""

from __future__ import annotations

import numpy as np

from rdm_jax.conditioning.inputs.base import Given, Input, Target
from rdm_jax.conditioning.inputs.class_label import checked_class
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request


class ClassVector(Input):
    """The class of an image by its number, as a one-hot vector that the denoiser embeds."""

    option = "class_label"
    what = "a class"

    def read(self, request: Request, target: Target) -> Given:
        """Returns the vector of the class; raises UserError if there is no such class."""
        classes = int(target.bundle.config["denoiser"]["vector_dim"])
        number = checked_class(request.class_label, classes, target.bundle.name)
        vector = np.eye(classes, dtype=np.float32)[None, number]
        return Given(f"class {number}", Condition(target.no_tokens, vector=vector))
