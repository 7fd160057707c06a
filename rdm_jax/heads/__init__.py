"""How latents or tokens are made: one folder for each head, and `HEADS`, which names them.

A head's package has `options.Options`, a frozen dataclass (`core.options`) that imports nothing heavy, and `head.HEAD`,
which implements `base.Head`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rdm_jax.core.errors import unknown

if TYPE_CHECKING:
    from rdm_jax.heads.base import Head

HEADS: dict[str, str] = {
    "diffusion": "rdm_jax.heads.diffusion",
    "autoregressive": "rdm_jax.heads.autoregressive",
    "masked": "rdm_jax.heads.masked",
}


def options_of(name: str) -> type:
    """Returns the options of a head, a dataclass; imports nothing else of it."""
    return importlib.import_module(f"{HEADS[name]}.options").Options


def all_options() -> dict[str, type]:
    """Returns {name: options} of all heads."""
    return {name: options_of(name) for name in HEADS}


def head_of(config: Mapping[str, Any]) -> Head:
    """Returns the head that a bundle's configuration names.

    Raises:
      UserError: there is no such head.
    """
    name = str(config.get("head", ""))
    if name not in HEADS:
        raise unknown("head", name, HEADS, hint="export or convert the model again")
    return importlib.import_module(f"{HEADS[name]}.head").HEAD
