import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rdm_jax.core import mesh as meshes
from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import read
from rdm_jax.training.schema import Optimizer
from rdm_jax.training.state import Extras
from rdm_jax.training.step import (
    accumulated,
    create_state,
    ema_decay,
    hold_frozen,
    initial_state,
    learning_rate,
    make_optimizer,
    make_train_step,
    make_update,
)


def optimizer_config(**changes) -> ConfigDict:
    return ConfigDict(read(Optimizer, changes))


def quadratic(params, extras, batch, key, step):
    error = batch["x"] @ params["net"]["kernel"] - batch["y"]
    return jnp.mean(error**2), ({"largest": jnp.max(jnp.abs(error))}, {"seen": extras.stats["seen"] + len(error)})


def init(key):
    params = {"net": {"kernel": jax.random.normal(key, (4, 2))}, "held": {"kernel": jnp.ones((3, 3))}}
    return params, {"seen": jnp.zeros((), jnp.int32)}


def begin(tx, mesh):
    return create_state(lambda: initial_state(init, tx, 0), mesh)


def step_of(tx, mesh, decay=0.9, accumulate=1):
    """Returns (state, batch) -> (state, metrics)."""
    step = make_train_step(make_update(quadratic, tx, decay, 0, accumulate=accumulate), mesh)
    return lambda state, batch: step(state, {}, batch)


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
    state = begin(tx, mesh)
    params = jax.device_get(state.params)
    state, metrics = step_of(tx, mesh)(state, batch())
    extras = Extras({"seen": 0}, {})
    grad = jax.grad(lambda p: quadratic(p, extras, batch(), None, None)[0])(params)["net"]["kernel"]
    norm = np.linalg.norm(grad)
    np.testing.assert_allclose(float(metrics["grad_norm"]), norm, rtol=1e-5)
    clipped = np.asarray(grad) * min(1.0, 0.5 / norm)
    # Adam's first step in closed form: m / (1 - b1) = g, v / (1 - b2) = g^2.
    step = clipped / (np.abs(clipped) + 1e-8) + 0.01 * params["net"]["kernel"]
    np.testing.assert_allclose(
        np.asarray(state.params["net"]["kernel"]), params["net"]["kernel"] - 0.1 * step, rtol=1e-5
    )


def test_muon_moves_kernels_along_all_singular_directions_alike_and_other_parameters_by_adam() -> None:
    generator = np.random.default_rng(0)
    params = {"conv": {"kernel": np.zeros((3, 3, 8, 16)), "bias": np.zeros(16)}, "table": np.zeros((5, 16))}
    grads = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), params)
    tx = make_optimizer(optimizer_config(kind="muon", learning_rate=0.1, warmup=0, decay="constant", clip_norm=0.0), 10)
    updates, _ = tx.update(grads, tx.init(params), params)
    left, _, right = np.linalg.svd(grads["conv"]["kernel"].reshape(72, 16), full_matrices=False)
    turned = left.T @ np.asarray(updates["conv"]["kernel"]).reshape(72, 16) @ right.T
    sizes = -np.diagonal(turned) / (0.1 * 0.2 * np.sqrt(72))
    assert np.all((sizes > 0.6) & (sizes < 1.3))  # what five Newton-Schulz iterations promise
    np.testing.assert_allclose(turned - np.diag(np.diagonal(turned)), 0.0, atol=1e-5)
    for others in (updates["table"], updates["conv"]["bias"]):
        np.testing.assert_allclose(np.abs(others), np.abs(others).max(), rtol=1e-5)  # Adam's first step has signs


def test_frozen_parameters_stay_to_the_bit() -> None:
    mesh = meshes.make_mesh()
    tx = make_optimizer(optimizer_config(frozen=("held/.*",), weight_decay=0.1, warmup=0), 10)
    state = begin(tx, mesh)
    before = jax.device_get(state.params)
    step = step_of(tx, mesh)
    for _ in range(3):
        state, _ = step(state, batch())
    chex.assert_trees_all_equal(jax.device_get(state.params["held"]), before["held"])
    assert not np.array_equal(state.params["net"]["kernel"], before["net"]["kernel"])


def test_held_parameters_have_no_gradient_and_the_others_have_theirs() -> None:
    def loss(params, extras, batch, key, step):
        value = jnp.sum((batch["x"] @ params["net"]["kernel"]) ** 2) + jnp.sum(params["held"]["kernel"] ** 2)
        return value, ({}, extras.stats)

    params, arrays = init(jax.random.key(0))[0], jax.tree.map(jnp.asarray, batch())
    rest = (Extras({}, {}), arrays, jax.random.key(1), jnp.zeros((), jnp.int32))
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
    state = begin(tx, mesh)
    step = step_of(tx, mesh, 0.999)
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
        state = begin(tx, mesh)
        step = step_of(tx, mesh)
        for _ in range(3):
            state, _ = step(state, batch())
        results.append(state)
    assert "fsdp" in str(results[1].params["net"]["kernel"].sharding.spec)
    chex.assert_trees_all_close(jax.device_get(results[0].params), jax.device_get(results[1].params), rtol=1e-6)


def test_a_batch_in_parts_gives_the_gradient_of_the_whole_batch() -> None:
    results = []
    for parts in (1, 2, 4):
        mesh, tx = meshes.make_mesh(), optax.sgd(0.1)
        state, metrics = step_of(tx, mesh, accumulate=parts)(begin(tx, mesh), batch(16))
        assert int(state.stats["seen"]) == 16
        results.append((jax.device_get(state.params), float(metrics["loss"]), float(metrics["grad_norm"])))
    for other in results[1:]:
        chex.assert_trees_all_close(results[0], other, rtol=1e-5)
    with pytest.raises(UserError, match="accumulate=3 does not divide a batch of 16"):
        step_of(tx, mesh, accumulate=3)(begin(tx, mesh), batch(16))


def test_the_parts_of_a_batch_have_keys_of_their_own_and_hand_their_stats_on() -> None:
    def loss(params, extras, batch, key, step):
        noise = jax.random.normal(key, (len(batch["x"]),))
        return jnp.sum(params["w"] * noise), ({"noise": noise[0]}, extras.stats * 2 + batch["x"][0, 0])

    given = {"x": jnp.arange(6.0)[:, None]}
    key, extras = jax.random.key(3), Extras(jnp.zeros(()), {})
    (value, (metrics, stats)), grads = accumulated(loss, 3)(
        {"w": jnp.ones(())}, extras, given, key, jnp.zeros((), jnp.int32)
    )
    noise = np.stack([jax.random.normal(jax.random.fold_in(key, i), (2,)) for i in range(3)])
    np.testing.assert_allclose(value, noise.sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(grads["w"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["noise"], noise[:, 0].mean(), rtol=1e-5)
    assert float(stats) == (0 * 2 + 0) * 4 + 1 * 2 + 2  # parts begin with examples 0, 1, 2


def test_arrays_are_placed_by_the_first_rule_that_their_name_matches() -> None:
    mesh = meshes.make_mesh(2)
    tree = {
        "denoiser": {
            "kernel": jax.ShapeDtypeStruct((3, 8, 6), jnp.float32),
            "bias": jax.ShapeDtypeStruct((8,), jnp.float32),
        }
    }

    def spec(rules):
        return {k: tuple(v.spec) for k, v in meshes.state_shardings(mesh, tree, rules)["denoiser"].items()}

    assert spec(()) == {"kernel": (), "bias": ()}  # both are small
    assert spec([("denoiser/.*", "split")]) == {"kernel": (None, "fsdp", None), "bias": ("fsdp",)}
    assert spec([("denoiser/bias", "whole"), (".*", "split")]) == {"kernel": (None, "fsdp", None), "bias": ()}
    large = {
        "a": {
            "kernel": jax.ShapeDtypeStruct((1024, 2048), jnp.float32),
            "scale": jax.ShapeDtypeStruct((2**21,), jnp.float32),
        }
    }
    placed = meshes.state_shardings(mesh, large)["a"]
    assert tuple(placed["kernel"].spec) == (None, "fsdp") and tuple(placed["scale"].spec) == ()
    with pytest.raises(UserError, match="unknown sharding tactic 'splt'; did you mean 'split'"):
        meshes.state_shardings(mesh, tree, [(".*", "splt")])


def test_a_mesh_that_does_not_divide_the_devices_is_refused() -> None:
    with pytest.raises(UserError, match="fsdp=3 does not divide the 2 devices"):
        meshes.make_mesh(3)
