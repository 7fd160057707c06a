"""A class as one context token (https://arxiv.org/abs/2112.10752, section 4.3.1)."""

from __future__ import annotations

import numpy as np

from rdm_jax.conditioning.inputs.base import PART, Given, Input, Target
from rdm_jax.core.errors import UserError
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request


class ClassLabel(Input):
    """The class of an image by its number; the encoder's last embedding is the null class, where it has one."""

    option = "class_label"
    what = "a class"
    encoded = True

    def read(self, request: Request, target: Target) -> Given:
        """Returns the token of the class; raises UserError if there is no such class."""
        encoder = getattr(target.bundle, PART)
        number = checked_class(request.class_label, encoder.num_classes, target.bundle.name)
        null = self._token(target, encoder.num_classes) if encoder.null_class else None
        names = target.settings.get("class_names", ())  # of models that are trained here
        label = f"class {number} ({names[number]})" if number < len(names) else f"class {number}"
        return Given(label, self._token(target, number), null)

    @staticmethod
    def _token(target: Target, number: int) -> Condition:
        return Condition(target.encode(np.array([number], np.int32)))


def checked_class(number: int, count: int, model: str) -> int:
    """Returns the number of a class; raises UserError if a model has none with that number."""
    if not 0 <= number < count:
        raise UserError(f"class {number} is out of range; model {model!r} has classes 0 to {count - 1}")
    return number
