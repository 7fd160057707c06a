"""The encoder of noisy latents: shapes, time, and the feature maps after its levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_noised_encoder

CONFIG = {
    "in_channels": 3,
    "features": 5,
    "latent_size": 8,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_groups": 4,
}
SETTINGS = {**CONFIG, "num_res_blocks": 1, "attention_resolutions": [2], "num_head_channels": 8}


@pytest.mark.slow
def test_outputs_are_independent_and_depend_on_the_time():
    network = build_noised_encoder(SETTINGS)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 3)), jnp.float32)
    t = jnp.array([0.0, 10.0, 900.0])
    params = network.init(jax.random.key(0), x, t)
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)  # the last kernel of a block is initialized to zeros
    out = network.apply(params, x, t)
    assert out.shape == (3, 5) and out.dtype == jnp.float32
    alone = network.apply(params, x[1:2], t[1:2])
    np.testing.assert_allclose(alone, out[1:2], rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(network.apply(params, x, t[::-1])[0] - out[0]).max()) > 1e-4


@pytest.mark.parametrize("shape", [(4, 16, 3), (16, 16, 3), (8, 4, 3), (8, 8, 2)])
def test_latents_of_another_size_are_refused_with_the_right_one(shape):
    network = build_noised_encoder(SETTINGS)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)), jnp.zeros(1))
    with pytest.raises(UserError, match=f"latents {'x'.join(map(str, shape))} .* those of 8x8x3; use"):
        jax.eval_shape(network.apply, params, jnp.ones((1, *shape)), jnp.zeros(1))


@pytest.mark.slow
def test_feature_maps_after_the_levels_are_sown():
    network = build_noised_encoder(SETTINGS)
    x, t = jnp.ones((2, 8, 8, 3)), jnp.zeros((2,))
    params = network.init(jax.random.key(0), x, t)["params"]
    _, state = network.apply({"params": params}, x, t, mutable=["intermediates"])
    shapes = {name: maps[0].shape for name, maps in state["intermediates"].items()}
    assert shapes == {"level_0": (2, 8, 8, 8), "level_1": (2, 4, 4, 16)}


def test_classes_are_no_setting_of_the_network_and_unknown_settings_are_refused():
    with_classes = build_noised_encoder({**SETTINGS, "classes": {"style": ["a", "b"]}})
    assert with_classes == build_noised_encoder(SETTINGS)
    with pytest.raises(UserError, match="unknown noised encoder setting 'chanel_mult'"):
        build_noised_encoder({**SETTINGS, "chanel_mult": [1]})
    assert "pool/positions" in abstract_params(with_classes)
