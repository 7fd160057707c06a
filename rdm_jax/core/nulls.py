"""What stands for no condition, by the names that a bundle's `conditioning.null` has."""

from __future__ import annotations

NULLS = ("zeros", "learned")
"""Of models that guidance can lead away from no condition: zeros, or a vector of its own, as the context."""
NO_NULL = "none"
"""Of models that were always trained with their condition, which guidance has no null for."""
