import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rdm_jax.core import mesh as meshes
from rdm_jax.core.errors import UserError
from rdm_jax.training.config import defaults
from rdm_jax.training.step import create_state, ema_decay, hold_frozen, learning_rate, make_optimizer, make_train_step


def optimizer_config(**changes) -> ConfigDict:
    config = defaults().optimizer
    config.update(changes)
    return config


def quadratic(params, batch, key, step):
    error = batch["x"] @ params["net"]["kernel"] - batch["y"]
    return jnp.mean(error**2), {}


def init(key):
    return {"net": {"kernel": jax.random.normal(key, (4, 2))}, "held": {"kernel": jnp.ones((3, 3))}}


def batch(size=8):
    generator = np.random.default_rng(0)
    return {
        "x": generator.normal(size=(size, 4)).astype(np.float32),
        "y": generator.normal(size=(size, 2)).astype(np.float32),
    }


def test_learning_rate_warms_up_and_decays() -> None:
    rate = learning_rate(optimizer_config(learning_rate=1e-3, warmup=10, decay="cosine"), 110)
    assert float(rate(0)) == 0.0
    np.testing.assert_allclose(float(rate(5)), 5e-4, rtol=1e-6)
    np.testing.assert_allclose(float(rate(10)), 1e-3, rtol=1e-6)
    np.testing.assert_allclose(float(rate(60)), 1e-3 * (0.99 * 0.5 + 0.01), rtol=1e-6)  # halfway along the cosine
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        learning_rate(optimizer_config(decay="cosin"), 10)


def test_a_step_is_adamw_on_the_clipped_gradient() -> None:
    config = optimizer_config(learning_rate=0.1, warmup=0, decay="constant", weight_decay=0.01, clip_norm=0.5)
    mesh = meshes.make_mesh()
    tx = make_optimizer(config, 10)
    state = create_state(init, tx, 0, mesh)
    params = jax.device_get(state.params)
    state, metrics = make_train_step(quadratic, tx, 0.9, 0, mesh)(state, batch())
    grad = jax.grad(lambda p: quadratic(p, batch(), None, None)[0])(params)["net"]["kernel"]
    norm = np.linalg.norm(grad)
    np.testing.assert_allclose(float(metrics["grad_norm"]), norm, rtol=1e-5)
    clipped = np.asarray(grad) * min(1.0, 0.5 / norm)
    # Adam's first step in closed form: m / (1 - b1) = g, v / (1 - b2) = g^2.
    step = clipped / (np.abs(clipped) + 1e-8) + 0.01 * params["net"]["kernel"]
    np.testing.assert_allclose(
        np.asarray(state.params["net"]["kernel"]), params["net"]["kernel"] - 0.1 * step, rtol=1e-5
    )


def test_frozen_parameters_stay_to_the_bit() -> None:
    mesh = meshes.make_mesh()
    tx = make_optimizer(optimizer_config(frozen=("held/.*",), weight_decay=0.1, warmup=0), 10)
    state = create_state(init, tx, 0, mesh)
    before = jax.device_get(state.params)
    step = make_train_step(quadratic, tx, 0.9, 0, mesh)
    for _ in range(3):
        state, _ = step(state, batch())
    chex.assert_trees_all_equal(jax.device_get(state.params["held"]), before["held"])
    assert not np.array_equal(state.params["net"]["kernel"], before["net"]["kernel"])


def test_held_parameters_have_no_gradient_and_the_others_have_theirs() -> None:
    def loss(params, batch, key, step):
        return jnp.sum((batch["x"] @ params["net"]["kernel"]) ** 2) + jnp.sum(params["held"]["kernel"] ** 2), {}

    params, arrays = init(jax.random.key(0)), jax.tree.map(jnp.asarray, batch())
    rest = (arrays, jax.random.key(1), jnp.zeros((), jnp.int32))
    whole, held = (jax.grad(f, has_aux=True)(params, *rest)[0] for f in (loss, hold_frozen(loss, ("held/.*",))))
    chex.assert_trees_all_equal(held["net"], whole["net"])
    assert np.all(whole["held"]["kernel"] == 2.0)
    assert not np.any(held["held"]["kernel"])


def test_the_average_warms_up_as_the_original_does() -> None:
    for n in (1, 10, 100, 10**6):
        assert float(ema_decay(jnp.asarray(n), 0.9999)) == pytest.approx(min(0.9999, (1 + n) / (10 + n)))


def test_the_average_follows_its_recursion() -> None:
    mesh = meshes.make_mesh()
    tx = make_optimizer(optimizer_config(warmup=0), 10)
    state = create_state(init, tx, 0, mesh)
    step = make_train_step(quadratic, tx, 0.999, 0, mesh)
    expected = jax.device_get(state.ema)["net"]["kernel"]
    for n in range(1, 4):
        state, _ = step(state, batch())
        decay = (1 + n) / (10 + n)
        expected = decay * expected + (1 - decay) * np.asarray(state.params["net"]["kernel"])
    np.testing.assert_allclose(np.asarray(state.ema["net"]["kernel"]), expected, rtol=1e-5)


def test_parameters_split_over_fsdp_train_as_whole_ones(monkeypatch) -> None:
    monkeypatch.setattr(meshes, "FSDP_MIN_BYTES", 0)
    results = []
    for fsdp in (1, 2):
        mesh = meshes.make_mesh(fsdp)
        tx = optax.sgd(0.1)
        state = create_state(init, tx, 0, mesh)
        step = make_train_step(quadratic, tx, 0.9, 0, mesh)
        for _ in range(3):
            state, _ = step(state, batch())
        results.append(state)
    assert "fsdp" in str(results[1].params["net"]["kernel"].sharding.spec)
    chex.assert_trees_all_close(jax.device_get(results[0].params), jax.device_get(results[1].params), rtol=1e-6)


def test_a_mesh_that_does_not_divide_the_devices_is_refused() -> None:
    with pytest.raises(UserError, match="fsdp=3 does not divide the 2 devices"):
        meshes.make_mesh(3)
