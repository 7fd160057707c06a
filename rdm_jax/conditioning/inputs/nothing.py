"""No input: an unconditional model."""

from __future__ import annotations

from rdm_jax.conditioning.inputs.base import Given, Input, Target
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request


class Nothing(Input):
    """The input of an unconditional model."""

    what = "no condition"

    def read(self, request: Request, target: Target) -> Given:
        """Returns a condition without tokens."""
        return Given("unconditional", Condition(target.no_tokens))
