"""What stands for no condition, by the names that a bundle's `conditioning.null` has."""

from __future__ import annotations

NULLS = ("zeros", "learned")
"""The null conditions that classifier-free guidance guides away from: a context of zeros, or a learned vector."""
NO_NULL = "none"
"""Of models that were always trained with their condition: they have no null, so that guidance is not possible."""
