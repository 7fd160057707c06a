"""Learning how two conditions are mixed over time: losses by hand, gradients, and less loss in the end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Prediction
from rdm_jax.diffusion.samplers import SAMPLERS, sample
from rdm_jax.diffusion.schedule import scaled_linear
from rdm_jax.editing import mixing
from rdm_jax.generator import Generator
from tests.helpers import guided, tiny


@pytest.fixture(scope="module")
def generator():
    return Generator.load(guided.bundle())


def plan_of(generator, *conditions, **options):
    settings = {"condition": "text", "steps": 4, "num_images": 2, "batch_size": 2, **options}
    return generator.plan("a red boat", conditions=conditions, **settings)


def test_the_directional_loss_is_the_angles():
    plain = jnp.array([[1.0, 0.0, 0.0]] * 3)
    edited = jnp.array([[1.0, 2.0, 0.0], [1.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    loss = mixing.directional_loss(edited, plain, jnp.array([[0.0, 3.0, 0.0]] * 3))
    np.testing.assert_allclose(loss, [0.0, 2.0, 1.0], atol=1e-6)
    slope = jax.grad(lambda x: mixing.directional_loss(x, plain, edited - plain).sum())(plain)
    assert np.isfinite(slope).all()


def test_the_perceptual_loss_counts_each_map_in_its_own_size():
    maps = [jnp.full((2, 4, 4, 3), 2.0), jnp.full((2, 2, 2, 5), 10.0)]
    other = [maps[0] * 1.5, maps[1] * 0.9]
    np.testing.assert_allclose(mixing.perceptual_loss(other, maps), [0.6, 0.6], rtol=1e-6)
    assert not mixing.perceptual_loss(maps, maps).any()


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "heun"])
def test_a_rematerialized_run_equals_the_run_and_so_does_its_gradient(name):
    sampler = SAMPLERS[name]()
    steps = sampler.plan(scaled_linear(1000, 0.0015, 0.0195), 5)
    x_T = jax.random.normal(jax.random.key(0), (2, 2, 2, 1))

    def denoiser(gain):
        return lambda x, info: Prediction(x0=jnp.tanh(gain * x), eps=jnp.sin(gain * x))

    plain = sample(sampler, steps, x_T, denoiser(0.3))
    np.testing.assert_allclose(mixing.trajectory(sampler, steps, x_T, denoiser(0.3)), plain, rtol=1e-6)
    slope = jax.grad(lambda gain: mixing.trajectory(sampler, steps, x_T, denoiser(gain)).sum())(0.3)
    around = [sample(sampler, steps, x_T, denoiser(0.3 + h)).sum() for h in (-1e-2, 1e-2)]
    np.testing.assert_allclose(slope, (around[1] - around[0]) / 2e-2, rtol=2e-2)


@pytest.mark.slow
def test_learning_reduces_the_loss_and_starts_at_the_initial_weights(generator):
    plan = plan_of(generator, "switch(prompt='a blue tree', after=0.5)")
    reports = []
    learned = mixing.learn(generator, plan, iterations=4, learning_rate=0.1, progress=lambda *at: reports.append(at))
    assert learned.losses[-1] < learned.losses[0] and len(learned.losses) == 5
    assert reports == [(i, 4) for i in range(5)] and learned.bytes > 0
    assert learned.weights.shape == (4,)
    still = mixing.learn(generator, plan, iterations=0)
    np.testing.assert_array_equal(still.weights, mixing.first_weights(4, 0.5))
    np.testing.assert_allclose(still.losses, learned.losses[:1], rtol=1e-5)


def test_the_direction_is_from_one_condition_to_the_other(generator):
    plan = plan_of(generator, "switch(prompt='a blue tree', after=0.5)")
    first, second = generator.encoder.encode_texts(["a red boat", "a blue tree"])
    expected = second / np.linalg.norm(second) - first / np.linalg.norm(first)
    np.testing.assert_allclose(mixing.direction_of(plan)[0], expected, atol=1e-6)


@pytest.mark.slow
def test_what_cannot_be_mixed_is_refused(generator):
    with pytest.raises(UserError, match="both conditions are the same"):
        mixing.learn(generator, plan_of(generator, "switch(prompt='a red boat')"))
    with pytest.raises(UserError, match="there is nothing to mix"):
        mixing.learn(generator, plan_of(generator))
    plain = Generator.load(tiny.bundle())
    with pytest.raises(UserError, match=r"needs the model's noised_clip, .* noised_clip"):
        mixing.learn(plain, plan_of(plain, "switch(prompt='cat')"))
