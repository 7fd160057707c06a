"""The loop that runs any sampler: keys, chunks, hooks, and CompVis's choice of times."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction, make_denoiser
from rdm_jax.diffusion.samplers import SAMPLERS, num_steps, sample, sample_chunk, slice_steps, with_keys
from rdm_jax.diffusion.samplers.base import OnGrid
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.schedule import scaled_linear
from rdm_jax.diffusion.spacing import uniform_timesteps
from rdm_jax.factory import sampler_from

GOLDEN = os.environ.get("RDM_GOLDEN")
SCHEDULE = scaled_linear(1000, 0.0015, 0.015)
SHAPE = (4, 4, 3)


def _network(x, t, context):
    return jnp.tanh(x * jnp.float32(1.3)) + jnp.sin(t.reshape(-1, 1, 1, 1).astype(jnp.float32))


DENOISER = make_denoiser(_network, None, "eps")


def _steps(sampler, images, steps=10):
    return with_keys(sampler.plan(SCHEDULE, steps), image_keys(0, jnp.asarray(images, jnp.int32)))


def _x_T(images):
    return normal(image_keys(1, jnp.asarray(images, jnp.int32)), SHAPE)


@pytest.mark.skipif(not GOLDEN, reason="RDM_GOLDEN is not set")
@pytest.mark.parametrize("steps", [10, 20, 30, 50, 100, 200, 250])
def test_times_are_the_originals(steps):
    golden = np.load(Path(GOLDEN) / "schedule.npz")[f"ddim_timesteps_{steps}"]
    np.testing.assert_array_equal(uniform_timesteps(1000, steps), golden)
    if steps == 30:
        assert len(golden) == 31


def test_refused_step_counts_are_those_that_leave_the_schedule():
    # The original fails with an IndexError for exactly these.
    fails = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
    for steps in range(1, 1001):
        if steps in fails:
            with pytest.raises(UserError, match=f"{steps} sampling steps do not fit a schedule of 1000"):
                uniform_timesteps(1000, steps)
        else:
            times = uniform_timesteps(1000, steps)
            assert times[0] == 1 and times[-1] < 1000 and len(times) >= steps


@pytest.mark.parametrize(
    ("timesteps", "steps", "near"),
    [
        (1000, 27, "use 26 or 28"),
        (1000, 300, "use 250 or 334"),
        (1000, 0, "use 1$"),
        (1000, -5, "use 1$"),
        (1000, 5000, "use 500$"),
        (1, 1, "longer schedule"),
    ],
)
def test_a_refusal_names_the_nearest_that_work(timesteps, steps, near):
    with pytest.raises(UserError, match=near):
        uniform_timesteps(timesteps, steps)


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("sizes", [(5, 5), (4, 4, 2), (3, 7)])
def test_chunks_equal_one_run_bit_for_bit(eta, sizes):
    sampler = DDIM(eta=eta)
    steps, x_T = _steps(sampler, range(2)), _x_T(range(2))
    whole = jax.jit(lambda s, x: sample(sampler, s, x, DENOISER))(steps, x_T)
    run = jax.jit(lambda s, carry: sample_chunk(sampler, s, carry, DENOISER))
    carry, start = sampler.init(x_T), 0
    for size in sizes:
        carry, _ = run(slice_steps(steps, start, start + size), carry)
        start += size
    np.testing.assert_array_equal(carry.x, whole)


def test_the_preview_is_the_last_prediction():
    sampler = DDIM()
    steps, x_T = _steps(sampler, range(2), 2), _x_T(range(2))
    middle, _ = sample_chunk(sampler, slice_steps(steps, 0, 1), sampler.init(x_T), DENOISER)
    _, preview = sample_chunk(sampler, steps, sampler.init(x_T), DENOISER)
    info = jax.tree.map(lambda leaf: leaf[1], steps)
    np.testing.assert_allclose(preview, DENOISER(middle.x, info).x0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_image_does_not_depend_on_its_batch(eta):
    sampler = DDIM(eta=eta)
    together = sample(sampler, _steps(sampler, range(3)), _x_T(range(3)), DENOISER)
    for i in range(3):
        alone = sample(sampler, _steps(sampler, [i]), _x_T([i]), DENOISER)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-4, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_every_step_and_image_has_its_own_key():
    steps = _steps(DDIM(eta=1.0), range(3))
    assert steps.keys.shape == (num_steps(steps), 3) == (10, 3)
    data = np.asarray(jax.random.key_data(steps.keys)).reshape(30, -1)
    assert len(np.unique(data, axis=0)) == 30
    np.testing.assert_array_equal(jax.random.key_data(slice_steps(steps, 4, 6).keys).reshape(6, -1), data[12:18])


def test_hooks_run_in_order_after_each_step():
    sampler = DDIM()
    steps, x_T = _steps(sampler, range(2), 5), _x_T(range(2))

    def double(x, info, prediction):
        assert isinstance(prediction, Prediction)
        return 2 * x

    def replace_at_the_end(x, info, prediction):
        return jnp.where(info.t_next == 0, x + 1000, x)

    plain = sample(sampler, steps, x_T, lambda x, info: Prediction(x0=x, eps=jnp.zeros_like(x)))
    hooked = sample(
        sampler, steps, x_T, lambda x, info: Prediction(x0=x, eps=jnp.zeros_like(x)), (double, replace_at_the_end)
    )
    np.testing.assert_allclose(hooked, 2**5 * plain + 1000, rtol=1e-5)


def test_one_compiled_program_serves_every_seed():
    run = jax.jit(lambda s, x: sample(DDIM(eta=1.0), s, x, DENOISER))
    for images in ([0, 1], [7, 8]):
        run(_steps(DDIM(eta=1.0), images), _x_T(images))
    assert run._cache_size() == 1


def test_samplers_by_name():
    assert sampler_from("ddim", eta=0.5) == DDIM(eta=0.5)
    with pytest.raises(UserError, match=r"unknown sampler 'dimm'.*'ddim'"):
        sampler_from("dimm", eta=0.0)


def test_a_sampler_without_a_plan_cannot_be_constructed():
    class Planless(OnGrid):
        pass

    with pytest.raises(TypeError, match="plan_on"):
        Planless()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_under_a_perfect_denoiser_ends_at_the_data(name):
    # The contract of any sampler: if x0 is known, x at the last time is x0 at that noise level.
    sampler = SAMPLERS[name]()
    x0 = jax.random.normal(jax.random.key(5), (2, *SHAPE))

    def perfect(x, info):
        c = info.coefficients
        return Prediction(x0=x0, eps=(x - c["alpha"] * x0) / c["sigma"])

    steps = _steps(sampler, range(2), 20)
    last = sample(sampler, steps, _x_T(range(2)), perfect)
    sigma = float(steps.coefficients["sigma_next"][-1])
    np.testing.assert_allclose(last, float(steps.coefficients["alpha_next"][-1]) * x0, atol=4.5 * sigma + 1e-6)


def test_a_step_keeps_its_key_wherever_a_run_starts():
    plan = SAMPLERS["ddpm"]().plan(SCHEDULE, 10)
    keys = image_keys(0, jnp.arange(3))
    sliced = slice_steps(with_keys(plan, keys), 4, 7).keys
    started = with_keys(slice_steps(plan, 4, 7), keys, first=4).keys
    np.testing.assert_array_equal(jax.random.key_data(sliced), jax.random.key_data(started))
