"""Inversion on a distribution whose flow is known, and through a whole model."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.denoiser import Prediction
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.diffusion.samplers import sample
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.schedule import cosine, scaled_linear
from rdm_jax.editing.inversion import ddim_inversion, invert
from rdm_jax.generator import Generator
from tests.helpers import tiny

SCHEDULE = scaled_linear(1000, 0.0015, 0.0195)
SPREAD = 0.5  # the standard deviation of the data


def gaussian(x_t, info):
    """The exact denoiser of data that is normal with a standard deviation of `SPREAD`."""
    alpha, sigma = (per_image(info.coefficients[name], x_t.ndim) for name in ("alpha", "sigma"))
    x0 = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x_t
    return Prediction(x0=x0, eps=(x_t - alpha * x0) / sigma)


def noise_of(x0, steps, iterations):
    """The noise of some data, and the plan of the way."""
    plan = DDIM(spacing="trailing").plan(SCHEDULE, steps)
    return ddim_inversion(gaussian, plan, x0, iterations), plan


def error(steps, iterations):
    """How far the way forth from the noise ends from where the way back began."""
    x0 = SPREAD * normal(image_keys(0, jnp.arange(3)), (4, 4, 2))
    noise, plan = noise_of(x0, steps, iterations)
    return float(np.abs(sample(DDIM(spacing="trailing"), plan, noise, gaussian) - x0).max())


def test_the_noise_of_data_is_standard_normal_in_the_limit_of_many_steps():
    x0 = SPREAD * normal(image_keys(0, jnp.arange(64)), (8, 8, 2))
    far, near = (abs(float(noise_of(x0, steps, 8)[0].std() / x0.std() * SPREAD) - 1.0) for steps in (25, 200))
    assert near < 0.05 and near < far / 4


def test_more_iterations_come_nearer():
    errors = [error(20, iterations) for iterations in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01 and errors[-1] < 1e-4


def test_one_iteration_is_of_first_order():
    assert 1.6 < error(50, 1) / error(100, 1) < 2.4


def test_a_schedule_without_signal_at_its_end_is_inverted_by_the_velocity():
    x0 = SPREAD * normal(image_keys(0, jnp.arange(3)), (4, 4, 2))
    sampler = DDIM(spacing="trailing")
    plan = sampler.plan(cosine(1000), 16)
    errors = {}
    for guided in (False, True):
        noise = ddim_inversion(gaussian, plan, x0, 3, guided)
        errors[guided] = float(np.abs(sample(sampler, plan, noise, gaussian) - x0).max())
    assert errors[False] < errors[True] / 4


@pytest.fixture(scope="module")
def generator():
    return Generator.load(tiny.bundle())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((16, 16)).save(path)
    return str(path)


@pytest.mark.slow
def test_the_noise_of_an_image_generates_the_image(generator, image, tmp_path):
    settings = {"condition": "text", "steps": 8, "guidance_scale": 1.0, "spacing": "trailing"}
    found = invert(generator, generator.plan("a red boat", init=image, **settings), iterations=12)
    assert found.latent_error < 1e-3
    np.save(tmp_path / "noise.npy", found.noise)
    generated = generator.sample("a red boat", init=tmp_path / "noise.npy", **settings).images[0]
    assert np.abs(generated.astype(int) - found.decoded.astype(int)).max() <= 2
    other = generator.sample("a red boat", **settings).images[0]
    assert np.abs(generated.astype(int) - other.astype(int)).max() > 10


@pytest.mark.parametrize("options", [{"sampler": "plms"}, {"eta": 0.5}, {"guides": ["threshold()"]}])
def test_an_invalid_inversion_is_refused(generator, image, options):
    plan = generator.plan("a", condition="text", init=image, **options)
    with pytest.raises(UserError, match="inversion reverses DDIM"):
        invert(generator, plan)


def test_noise_gives_the_run_its_size_and_another_model_s_is_refused(generator, tmp_path):
    np.save(tmp_path / "noise.npy", np.zeros((1, 4, 6, 2), np.float32))
    request = generator.plan("a", condition="text", init=tmp_path / "noise.npy").request
    assert (request.height, request.width) == (8, 12)
    np.save(tmp_path / "other.npy", np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(UserError, match=r"noise of shape \(1, 8, 8, 3\), and this run takes \(1, 8, 8, 2\)"):
        generator.plan("a", condition="text", init=tmp_path / "other.npy")
    for content in (b"nothing", b"", b"\x93NUMPY"):
        (tmp_path / "broken.npy").write_bytes(content)
        with pytest.raises(UserError, match="cannot read noise from"):
            generator.plan("a", condition="text", init=tmp_path / "broken.npy")
    for values in (np.zeros((8, 8, 2), np.float32), np.zeros((1, 8, 8, 2), np.int32)):
        np.save(tmp_path / "other.npy", values)
        with pytest.raises(UserError, match="holds no noise"):
            generator.plan("a", condition="text", init=tmp_path / "other.npy")


@pytest.mark.slow
def test_an_image_with_little_noise_stays(generator, image):
    settings = {"condition": "text", "steps": 20, "spacing": "trailing", "guidance_scale": 1.0}
    decoded = invert(generator, generator.plan("a", init=image, **settings), 1).decoded.astype(int)
    distances = [
        np.abs(generator.sample("a", init=image, strength=s, **settings).images[0].astype(int) - decoded).mean()
        for s in (0.05, 0.5, 1.0)
    ]
    assert distances == sorted(distances) and distances[0] < distances[-1] / 2


@pytest.mark.parametrize("spacing", ["trailing", "leading"])  # the second one begins at a level with signal
def test_strength_one_leaves_nothing_of_the_image(generator, image, spacing):
    settings = {"condition": "text", "steps": 4, "spacing": spacing, "fit": "crop"}
    start = generator.plan("a", init=image, strength=1.0, **settings).run.start
    assert float(start.alpha) == 0.0 and float(start.sigma) == 1.0
    some = generator.plan("a", init=image, strength=0.75, **settings).run.start
    assert 0 < float(some.alpha) < 1 and 0 < float(some.sigma) < 1


@pytest.mark.parametrize("strength", [0.0, 1.5, -1.0, float("nan")])
def test_an_invalid_strength_is_refused(generator, image, strength):
    with pytest.raises(UserError, match=r"strength=.* is out of range"):
        generator.plan("a", condition="text", init=image, strength=strength)
