"""Distillation of diffusion models into few steps: one file for each method, and `METHODS`, the table of their names.

A method says on which levels of noise the student is trained, what its loss is, and how its model is sampled. The task
(`training.tasks.distill`) supplies data, conditions and guidance, which no method knows.
"""

from __future__ import annotations

from rdm_jax.training.distillation.base import Method, Networks, between
from rdm_jax.training.distillation.consistency import Consistency
from rdm_jax.training.distillation.lcm import LCM
from rdm_jax.training.distillation.progressive import Progressive

__all__ = ["METHODS", "Method", "Networks", "between"]

METHODS: dict[str, type[Method]] = {"progressive": Progressive, "consistency": Consistency, "lcm": LCM}
