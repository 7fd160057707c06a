"""A check that a model's head supports an edit."""

from __future__ import annotations

from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.heads.base import FEATURES


def require(generator: Generator, feature: str) -> None:
    """Raises UserError unless the head of a generator supports a feature, a name in `heads.base.FEATURES`."""
    reason = generator.head.supports(feature, generator.bundle)
    if reason:
        raise UserError(
            f"model {generator.bundle.name!r} does not support {FEATURES[feature]}: {reason}; use a model that does"
        )
