"""Runs that start in the middle of a schedule, as from an image with noise added, of every sampler and spacing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction
from rdm_jax.diffusion.samplers import SAMPLERS, num_steps, sample, with_keys
from rdm_jax.diffusion.schedule import cosine, scaled_linear
from rdm_jax.diffusion.spacing import SPACINGS, grid_through
from rdm_jax.heads.diffusion.options import Options
from rdm_jax.heads.diffusion.plan import plan_sampler

SCHEDULES = {"scaled_linear": scaled_linear(1000, 0.0015, 0.0195), "cosine": cosine(1000)}
IMAGE, NOISE = normal(image_keys(3, jnp.arange(2)), (2, 2, 1))[:1], normal(image_keys(4, jnp.arange(2)), (2, 2, 1))[:1]
# Options of samplers that sample noise in each step.
VARIANTS = [
    *((name, {}) for name in SAMPLERS),
    ("ddim", {"eta": 1.0}),
    ("euler", {"churn": 8.0}),
    ("heun", {"churn": 8.0}),
]


def one_image(x, info):
    """Returns the exact prediction for data that consist of `IMAGE` alone."""
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    return Prediction(x0=jnp.broadcast_to(IMAGE, x.shape), eps=(x - alpha * IMAGE) / sigma)


def gaussian(x, info, mean=0.4, deviation=0.5):
    """Returns the exact prediction for normal data."""
    alpha, sigma = info.coefficients["alpha"], info.coefficients["sigma"]
    x0 = mean + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (x - alpha * mean)
    return Prediction(x0=x0, eps=(x - alpha * x0) / sigma)


def run(sampler, grid, steps, first, denoiser):
    """Returns the end of a run from `IMAGE` with `NOISE` added at the first level of a grid."""
    x = float(grid.alpha[0]) * IMAGE + float(grid.sigma[0]) * NOISE
    keyed = with_keys(steps, image_keys(5, jnp.arange(1)), first)
    # Short scans of many lengths would each be compiled.
    with jax.disable_jit(len(grid) <= 20):
        return np.asarray(sample(sampler, keyed, x, denoiser)), x


@pytest.mark.slow
@given(
    variant=st.sampled_from(VARIANTS),
    spacing=st.sampled_from(sorted(SPACINGS)),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(1, 10),
    strength=st.floats(0.01, 1.0),
)
def test_a_run_from_an_image_is_planned_from_its_level(variant, spacing, schedule, steps, strength) -> None:
    name, options = variant
    sampler, levels = SAMPLERS[name](spacing=spacing, **options), SCHEDULES[schedule]
    chosen = Options(steps=steps, init="image.png", strength=strength)
    try:
        grid, planned, skipped = plan_sampler(chosen, sampler, levels)
    except UserError as error:  # of CompVis's spacing: a number that leaves the schedule
        assert spacing == "compvis" and "use" in str(error)
        return
    whole = sampler.grid(levels, steps)
    count = len(grid)
    assert count == max(1, round(strength * len(whole)))
    np.testing.assert_array_equal(grid.t, whole.t[-count - 1 :])
    # A plan of those levels alone, made by hand.
    again = grid_through(levels, grid.t[:-1])
    by_hand = type(grid)(grid.t, np.append(again.alpha, grid.alpha[-1]), np.append(again.sigma, grid.sigma[-1]))
    end, start = run(sampler, grid, planned, skipped, one_image)
    other, _ = run(sampler, by_hand, sampler.plan_on(by_hand, levels), skipped, one_image)
    assert np.isfinite(end).all()
    np.testing.assert_allclose(end, other, atol=1e-4)
    if grid.ends_without_noise:  # data of one image: every step predicts it exactly
        # A sampler that averages eps divides by alpha afterwards, which is 5e-5 at the noisiest level of a cosine.
        rounding = 16 * np.finfo(np.float32).eps / grid.alpha[0]
        np.testing.assert_allclose(end, IMAGE, atol=max(2e-3, rounding))
    assert skipped == num_steps(sampler.plan(levels, steps)) - num_steps(planned)
    assert np.abs(np.asarray(start)).max() < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if not sampler().needs_noise])
@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_the_flow_of_normal_data_is_followed_from_the_middle(name, strength) -> None:
    """The probability flow of N(m, s^2) keeps (x - alpha m) / sqrt(alpha^2 s^2 + sigma^2): m + s z at its end."""
    levels, mean, deviation = SCHEDULES["scaled_linear"], 0.4, 0.5
    sampler = SAMPLERS[name](spacing="karras")
    grid, steps, skipped = plan_sampler(Options(steps=100, init="a.png", strength=strength), sampler, levels)
    end, start = run(sampler, grid, steps, skipped, gaussian)
    alpha, sigma = grid.alpha[0], grid.sigma[0]
    z = (np.asarray(start) - alpha * mean) / np.sqrt(alpha**2 * deviation**2 + sigma**2)
    np.testing.assert_allclose(end, mean + deviation * z, atol=0.02)


def test_strength_counts_grid_steps_and_leaves_at_least_one() -> None:
    levels = SCHEDULES["scaled_linear"]
    for name, strength, expected in (("heun", 0.1, 2), ("dpmpp_2s", 0.1, 2), ("plms", 0.01, 1), ("ddim", 1.0, 20)):
        grid, _, _ = plan_sampler(Options(steps=20, init="a.png", strength=strength), SAMPLERS[name](), levels)
        assert len(grid) == expected
    with pytest.raises(UserError, match="do not fit"):
        plan_sampler(Options(steps=2000, init="a.png", strength=0.5), SAMPLERS["heun"](), levels)


def test_noise_of_a_file_runs_through_the_whole_plan() -> None:
    grid, _, skipped = plan_sampler(
        Options(steps=20, init="n.npy", strength=0.5), SAMPLERS["heun"](), SCHEDULES["cosine"]
    )
    assert (len(grid), skipped) == (20, 0)
