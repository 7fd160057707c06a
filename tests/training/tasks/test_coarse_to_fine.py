"""Training a denoiser of two scales: latents, both stages, a few updates, export, and a first stage of one scale."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.models.condition import Condition
from rdm_jax.training.denoising import scales_of
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.distilled import check_teacher
from tests.helpers import frido


@pytest.fixture(scope="module")
def make_task(make_diffusion_task, tmp_path_factory):
    """A function of overrides that returns the task of the small config on a tiny base of two scales."""
    base = tmp_path_factory.mktemp("frido") / "base"
    frido.bundle().save(base, dtype="float32")
    places = f"base={base}", "emphasis.style.neon=1", "model.gate_channels=4"
    return functools.partial(make_diffusion_task, *places, config="style_scenes/frido")


@pytest.mark.slow
def test_both_stages_learn_and_the_export_generates(make_task):
    task = make_task("sampling.height=16", "sampling.width=16", "sampling.steps=2", "optimizer.learning_rate=0.01")
    assert (task.settings["in_channels"], task.settings["out_channels"]) == (2, 2) and task.latents.shape == (8, 8, 4)
    latents = (np.asarray(task.latents.moments, np.float64) - task.latents.scaling["shift"]) * task.latents.scaling[
        "scale"
    ]
    np.testing.assert_allclose([part.std() for part in np.split(latents, 2, axis=-1)], 1.0, rtol=1e-3)
    params, stats = jax.jit(task.init)(jax.random.key(0))
    records = [task.read(row, np.random.default_rng(row)) for row in range(4)]
    batch = jax.tree.map(
        jnp.asarray, task.complete({name: np.stack([r[name] for r in records]) for name in records[0]})
    )
    optimizer = optax.adam(0.01)

    @jax.jit
    def update(params, state):
        gradient = jax.grad(task.loss, has_aux=True)
        grads, (metrics, _) = gradient(params, Extras(stats, {}), batch, jax.random.key(1), jnp.zeros((), jnp.int32))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, metrics, grads

    state, history = optimizer.init(params), []
    for _ in range(8):
        params, state, metrics, grads = update(params, state)
        history.append([float(metrics["stage_0"]), float(metrics["stage_1"])])
    assert (np.asarray(history[-1]) < np.asarray(history[0])).all()
    learned = {
        name for name, leaf in grads["denoiser"].items() if any(np.abs(x).max() > 0 for x in jax.tree.leaves(leaf))
    }
    assert learned == set(grads["denoiser"])
    bundle = task.export(jax.device_get(params))
    assert bundle.config["denoiser"]["kind"] == "pyunet" and len(bundle.config["latents"]["scale"]) == 4
    images = Generator.load(bundle).sample("a red boat", condition="text", steps=1).images
    assert images.shape == (1, 16, 16, 3)


def test_the_fine_stage_sees_a_coarse_scale_with_some_noise():
    module = frido.bundle().denoiser
    x0, noise = (jax.random.normal(jax.random.key(i), (2, 4, 4, 4)) for i in range(2))
    (coarse, first, plain), (fine, second, beside) = scales_of(module, x0, noise, Condition(jnp.ones((2, 1, 3))))
    np.testing.assert_array_equal(jnp.concatenate([coarse, fine], axis=-1), x0)
    np.testing.assert_array_equal(jnp.concatenate([first, second], axis=-1), noise)
    assert plain.channels is None
    np.testing.assert_allclose(beside.channels, 0.9 * coarse + 0.1 * first, rtol=1e-6)
    _, (_, _, exact) = scales_of(module.clone(coarse_noise=0.0), x0, noise, Condition())
    np.testing.assert_array_equal(exact.channels, coarse)


def test_a_teacher_of_two_scales_is_refused():
    with pytest.raises(UserError, match="teacher 'frido' generates from coarse to fine"):
        check_teacher(ConfigDict(), frido.bundle())


def test_a_first_stage_of_one_scale_is_refused(make_diffusion_task):
    message = "the denoiser of config.model has 2 stages of 1 channels, and its first stage 1 scale of 2"
    with pytest.raises(UserError, match=message):
        make_diffusion_task("emphasis.style.neon=1", config="style_scenes/frido")
