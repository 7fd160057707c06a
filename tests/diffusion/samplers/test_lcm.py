"""The sampler of latent consistency models, against the original program and closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Prediction, make_denoiser
from rdm_jax.diffusion.samplers import SAMPLERS, sample, slice_steps, with_keys
from rdm_jax.diffusion.samplers import lcm as module
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from tests.helpers.golden_network import network, nhwc

COSINE = build_schedule({"schedule": "cosine", "num_timesteps": 1000})


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [("v_prediction_4", "v"), ("v_prediction_2", "v"), ("v_prediction_1", "v"), ("epsilon_4", "eps")],
)
def test_the_sampler_equals_the_original_program(golden, monkeypatch, prefix, kind):
    data = np.load(golden / "heads2/fewstep/lcm_sampler.npz")
    apply, _ = network(data, "net")
    abar = data[f"{prefix}_alphas_cumprod"].astype(np.float64)
    schedule = Schedule(1 - abar / np.append(1.0, abar[:-1]))
    times, noises = (
        data[f"{prefix}_timesteps"],
        nhwc(data[f"{prefix}_noises"]) if len(data[f"{prefix}_timesteps"]) > 1 else [],
    )
    sampler = SAMPLERS["lcm"]()
    steps = sampler.plan(schedule, len(times))
    np.testing.assert_array_equal(steps.t, times)
    denoiser = make_denoiser(apply, jnp.asarray(data["y"]), kind)
    x = nhwc(data[f"{prefix}_start"])
    carry = sampler.init(jnp.asarray(x))
    for number, wanted in enumerate(nhwc(data[f"{prefix}_traj"])):
        noise = jnp.asarray(noises[number]) if number < len(noises) else jnp.zeros(x.shape)
        monkeypatch.setattr(module, "fresh_noise", lambda *_, noise=noise: noise)
        carry, _ = sampler.step(
            carry, jax.tree.map(lambda leaf: leaf[0], slice_steps(steps, number, number + 1)), denoiser
        )
        np.testing.assert_allclose(carry.x, wanted, atol=1e-3 * np.abs(wanted).max())


def test_a_perfect_model_of_one_image_returns_it_in_any_number_of_steps():
    image = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))

    def denoiser(x, info):
        c = info.coefficients
        return Prediction(jnp.broadcast_to(image, x.shape), (x - c["alpha"] * image) / c["sigma"])

    x_T, keys = jax.random.normal(jax.random.key(1), (3, 4, 4, 2)), jax.random.split(jax.random.key(2), 3)
    for count in (1, 3):
        plan = with_keys(SAMPLERS["lcm"]().plan(COSINE, count), keys)
        found = sample(SAMPLERS["lcm"](), plan, x_T, denoiser)
        np.testing.assert_allclose(found, jnp.broadcast_to(image, found.shape), atol=1e-4)


def test_more_steps_than_points_are_refused_and_keys_are_needed():
    with pytest.raises(UserError, match="51 sampling steps do not fit the spacing 'lcm', which has 50 times"):
        SAMPLERS["lcm"]().plan(COSINE, 51)
    plan = SAMPLERS["lcm"]().plan(COSINE, 1)
    info = dataclasses.replace(jax.tree.map(lambda leaf: leaf[0], dataclasses.replace(plan, keys=None)))
    with pytest.raises(ValueError, match="LCM samples noise"):
        SAMPLERS["lcm"]().step(SAMPLERS["lcm"]().init(jnp.zeros((1, 2, 2, 1))), info, lambda x, _: Prediction(x, x))
