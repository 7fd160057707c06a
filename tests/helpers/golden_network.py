"""The network of two convolutions of the golden files of few-step methods, in NHWC."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np


def nhwc(array):
    """Returns [..., c, h, w] as [..., h, w, c]."""
    return np.moveaxis(np.asarray(array), -3, -1)


def network(data: Mapping[str, np.ndarray], prefix: str):
    """Returns the function (x, t, classes) to its output, and the weights under a prefix of a golden file."""
    names = ("w1", "b1", "w2", "b2", "freq", "phase", "table")
    weights = {name: jnp.asarray(data[f"{prefix}.{name}"]) for name in names}

    def apply(x, t, classes, weights=weights):
        def conv(x, kernel, bias):
            dimensions = ("NHWC", "OIHW", "NHWC")
            return (
                jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
                + bias[None, None, None]
            )

        time = jnp.cos(t.astype(jnp.float32)[:, None] * weights["freq"][None] + weights["phase"][None])
        hidden = conv(x, weights["w1"], weights["b1"]) + (time + weights["table"][classes])[:, None, None]
        return conv(jnp.tanh(hidden), weights["w2"], weights["b2"])

    return apply, weights
