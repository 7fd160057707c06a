"""A classifier of a few random weights, for features that are compared."""

from __future__ import annotations

from rdm_jax.bundle import Bundle
from tests.helpers import tiny


def bundle(name: str = "random", seed: int = 0, width: int = 4) -> Bundle:
    """Returns a bundle with a classifier of two attributes; it has 4 + 2 `width` features."""
    settings = {"classes": {"shape": ["a", "b"], "style": ["x", "y", "z"]}, "stem": [4], "widths": [width]}
    config = {"name": name, "classifier": {**settings, "num_groups": 2}}
    return Bundle(config, {"classifier": tiny.random_params(config, "classifier", seed)})
