from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_style_encoder

CONFIG = {
    "kind": "patches",
    "view": "latent",
    "image_size": 16,
    "token_dim": 5,
    "input_shape": [6, 4, 3],
    "patch": 2,
    "hidden": 7,
    "vector_dim": 4,
}


def silu(x):
    return x / (1 + np.exp(-x))


def test_tokens_are_two_layers_over_the_pixels_of_each_patch():
    encoder = build_style_encoder(CONFIG)
    maps = np.random.default_rng(0).standard_normal((2, 6, 4, 3)).astype(np.float32)
    params = jax.device_get(jax.jit(encoder.init)(jax.random.key(0), maps)["params"])
    tokens, vectors = jax.jit(encoder.apply)({"params": params}, maps)
    assert tokens.shape == (2, encoder.tokens, 5) and encoder.tokens == 6
    hidden = np.zeros((2, 6, 7))
    for number, (row, column) in enumerate((r, c) for r in range(0, 6, 2) for c in range(0, 4, 2)):
        pixels = maps[:, row : row + 2, column : column + 2].reshape(2, -1)
        hidden[:, number] = silu(pixels @ params["patch"]["kernel"] + params["patch"]["bias"])
    expected = hidden @ params["token"]["kernel"] + params["token"]["bias"] + params["positions"]
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    pooled = hidden.mean(axis=1) @ params["vector"]["kernel"] + params["vector"]["bias"]
    np.testing.assert_allclose(vectors, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(("changes", "shape"), [({}, (6, 4, 2)), ({"patch": 4}, (6, 4, 3))])
def test_maps_that_do_not_fit_are_refused(changes, shape):
    encoder = build_style_encoder(CONFIG | changes)
    with pytest.raises(UserError, match="takes maps of"):
        jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, *shape)))


def test_unknown_kinds_and_missing_settings_are_named():
    with pytest.raises(UserError, match="'tiles'"):
        build_style_encoder(CONFIG | {"kind": "tiles"})
    with pytest.raises(UserError, match="lacks input_shape"):
        build_style_encoder({name: value for name, value in CONFIG.items() if name != "input_shape"})
    assert set(abstract_params(build_style_encoder(CONFIG))) >= {"patch/kernel", "token/bias", "positions"}
