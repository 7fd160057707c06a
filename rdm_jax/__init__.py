"""Retrieval-augmented diffusion in JAX: a prompt retrieves neighbors from a database, which determine the style.

import rdm_jax
generator = rdm_jax.Generator.load("style-scenes")
result = generator.sample(["a red boat"], database="neon", num_images=4)
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdm_jax.bundle import Bundle as Bundle
    from rdm_jax.core.errors import UserError as UserError
    from rdm_jax.generator import Generator as Generator
    from rdm_jax.generator import Result as Result
    from rdm_jax.retrieval.database import Database as Database

# transformers serves the tokenizer alone, and need not say that PyTorch is missing.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "rdm_jax.bundle",
    "Database": "rdm_jax.retrieval.database",
    "Generator": "rdm_jax.generator",
    "Result": "rdm_jax.generator",
    "UserError": "rdm_jax.core.errors",
}

__all__ = ["Bundle", "Database", "Generator", "Result", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported at the first access, so that `import rdm_jax` and `rdm --help` do not wait for JAX.
    if name not in _HOMES:
        raise AttributeError(f"module 'rdm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
