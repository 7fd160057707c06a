"""Respacing, schedules and the loss of learned variances, against guided diffusion and GLIDE."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.objective import diffusion_loss
from rdm_jax.diffusion.samplers import SAMPLERS
from rdm_jax.diffusion.schedule import cosine, linear
from rdm_jax.diffusion.spacing import make_grid
from rdm_jax.models.condition import Condition
from tests.helpers.pixel_models import data_of, golden_bundle

LINEAR, COSINE = linear(1000, 1e-4, 0.02), cosine(1000)

RESPACINGS = {
    "respacing_250": ("linspace", 250),
    "respacing_100": ("linspace", 100),
    "respacing_25": ("linspace", 25),
    "respacing_1000": ("linspace", 1000),
    "respacing_ddim25": ("ddim", 25),
    "respacing_10_15_20": ("10,15,20", 45),
}


@pytest.mark.parametrize("name", RESPACINGS)
def test_times_are_those_of_guided_diffusion(golden, name):
    spacing, steps = RESPACINGS[name]
    schedule = linear(300, 1e-4, 0.02) if "," in spacing else LINEAR  # the example of the original's documentation
    np.testing.assert_array_equal(make_grid(schedule, steps, spacing).t[:-1][::-1], data_of(golden, "schedules")[name])


def test_times_are_those_of_glide(golden):
    data = data_of(golden, "tokens_and_schedules")
    np.testing.assert_array_equal(make_grid(LINEAR, 27, "fast27").t[:-1][::-1], data["fast27"])
    np.testing.assert_array_equal(make_grid(LINEAR, 100, "linspace").t[:-1][::-1], data["steps100"])


def test_schedules_are_those_of_guided_diffusion(golden):
    data = data_of(golden, "schedules")
    for name, schedule in (("linear", LINEAR), ("cosine", COSINE)):
        np.testing.assert_allclose(schedule.betas, data[f"{name}_betas"], rtol=1e-9)
        posterior = np.log(schedule.posterior_variance[1:])
        np.testing.assert_allclose(posterior, data[f"{name}_posterior_log_variance_clipped"][1:], rtol=1e-6)


def test_a_respaced_process_has_the_betas_of_its_own_steps(golden):
    data = data_of(golden, "cond64")
    steps = SAMPLERS["ddpm"](spacing="linspace").plan(COSINE, 25)
    np.testing.assert_array_equal(steps.t[::-1], data["respaced25_timesteps"])
    np.testing.assert_allclose(steps.coefficients["log_large"][::-1], np.log(data["respaced25_betas"]), rtol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "steps", "message"),
    [
        ("fast27", 50, "spacing 'fast27' has 27 steps, and 50 are requested"),
        ("10,15,20", 50, "spacing '10,15,20' has 45 steps"),
        ("600,1", 601, "section 1 of the spacing 600,1 has 500 times, and 600 are requested; use 1 to 500"),
        ("0,5", 5, "section 1 of the spacing 0,5 has 500 times, and 0 are requested"),
        ("ddim", 300, "no whole stride takes as many of 1000 times; use 250 or 334"),
        ("ddim25", 25, "unknown spacing 'ddim25'"),
    ],
)
def test_spacings_that_do_not_fit_are_refused(spacing, steps, message):
    with pytest.raises(UserError, match=message):
        make_grid(LINEAR, steps, spacing)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "schedule"), [("cond64", COSINE), ("uncond512", LINEAR)])
def test_the_loss_of_a_learned_variance_is_the_originals(golden, model, schedule):
    bundle, data = golden_bundle(golden, model), data_of(golden, model)
    vector = jax.nn.one_hot(data["y"], 10) if "y" in data else None
    times = jnp.asarray(data["train_t"], jnp.int32)
    x0, noise = (jnp.asarray(data[name]) for name in ("train_x0", "train_noise"))

    @jax.jit
    def losses(params):
        def apply(x, t, condition):
            return bundle.denoiser.apply({"params": params}, x, t, condition)

        return diffusion_loss(apply, x0, Condition(vector=vector), times, noise, schedule, "eps")

    np.testing.assert_allclose(losses(bundle.params["denoiser"]), data["train_loss"], rtol=1e-4)


def test_only_the_variance_learns_from_the_bound():
    x0, noise = (jax.random.normal(jax.random.key(i), (2, 2, 2, 3)) for i in range(2))
    times = jnp.array([0, 500], jnp.int32)

    @jax.jit
    def gradient(output):
        return jax.grad(lambda both: jnp.sum(diffusion_loss(lambda *_: both, x0, None, times, noise, LINEAR, "eps")))(
            output
        )

    output = jax.random.normal(jax.random.key(2), (2, 2, 2, 6))
    expected = 2.0 * (output[..., :3] - noise) / 12.0  # of the mean squared error alone
    found = gradient(output)
    np.testing.assert_allclose(found[..., :3], expected, atol=1e-6)
    assert (np.abs(found[..., 3:]) > 0).all()
