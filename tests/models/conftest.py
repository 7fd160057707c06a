"""Random parameters without the cost of an initialization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn


@pytest.fixture(scope="session")
def random_params() -> Callable[..., Any]:
    """Returns a function from a network and its arguments to random parameters: no zeros, variances positive."""

    def params(network: nn.Module, *arguments: jax.Array, **keywords: Any) -> Any:
        generator = np.random.default_rng(0)
        abstract = jax.eval_shape(lambda *a: network.init(*a, **keywords), jax.random.key(0), *arguments)

        def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
            values = 0.2 * generator.standard_normal(shape.shape, np.float32)
            return np.exp(values) if path[-1].key == "var" else values

        return jax.tree_util.tree_map_with_path(leaf, abstract)

    return params
