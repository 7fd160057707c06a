"""Samplers against the schedulers of diffusers, step by step with the same noise, on a network that both can ask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.keys import image_keys
from rdm_jax.diffusion.denoiser import make_denoiser
from rdm_jax.diffusion.samplers import SAMPLERS, base, num_steps, with_keys
from rdm_jax.diffusion.schedule import scaled_linear

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy 2, in diffusers

SCHEDULE = scaled_linear(1000, 0.00085, 0.012)
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 4, 4, 3)
CASES = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero"}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "zero", "algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {"final_sigmas_type": "zero"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
}


def network(x, t, context):
    return jnp.tanh(1.3 * x) + 0.2 * jnp.sin(t.reshape(-1, 1, 1, 1).astype(jnp.float32) / 100.0)


@pytest.mark.parametrize("steps", [3, 10, 25])
@pytest.mark.parametrize("name", CASES)
def test_a_run_is_that_of_diffusers(name, steps, monkeypatch):
    kind, options = CASES[name]
    scheduler = getattr(diffusers, kind)(**BETAS, timestep_spacing="trailing", **options)
    scheduler.set_timesteps(steps)
    generator = np.random.default_rng(0)
    x_T, noises = generator.normal(size=SHAPE), generator.normal(size=(steps, *SHAPE))
    remaining = iter(noises)
    place = "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor"
    monkeypatch.setattr(place, lambda *args, **more: torch.from_numpy(next(remaining)))
    x = torch.from_numpy(x_T) * float(scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        eps = torch.tanh(1.3 * scaled) + 0.2 * torch.sin(t.double() / 100.0)
        x = scheduler.step(eps, t, x).prev_sample

    sampler = SAMPLERS[name](spacing="trailing")
    plan = with_keys(sampler.plan(SCHEDULE, steps), image_keys(0, jnp.arange(SHAPE[0])))
    start = jnp.asarray(x_T, jnp.float32)
    if name in ("euler", "heun"):
        start *= SCHEDULE.noise[-1]  # theirs begin without the last of the signal's variance
    carry, denoiser = sampler.init(start), make_denoiser(network, None, "eps")
    for i in range(num_steps(plan)):
        monkeypatch.setattr(base, "normal", lambda keys, shape, i=i: jnp.asarray(noises[i], jnp.float32))
        carry, _ = sampler.step(carry, jax.tree.map(lambda leaf, i=i: leaf[i], plan), denoiser)
    np.testing.assert_allclose(carry.x, x.numpy(), atol=1e-4 * np.abs(x.numpy()).max())
