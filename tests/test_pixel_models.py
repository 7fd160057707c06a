"""Whole runs of ADM and GLIDE, from their inputs to their pixels, against the original programs."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.conditioning import Fill, channels
from rdm_jax.core import images
from rdm_jax.diffusion.samplers import ddim, ddpm
from rdm_jax.guidance import SDG, ClassifierGuidance, Project, semantic
from rdm_jax.heads.diffusion.program import chunk_program, inputs_of
from tests.helpers.pixel_models import data_of, golden_generator, prompt_of

ROW = 0


@pytest.fixture
def golden_noise(monkeypatch):
    """A function that replaces the fresh noise of a run by golden noise, by the times of the steps."""

    def replace(times, noise):
        stored = jnp.asarray(noise)

        def fresh_noise(info, shape, owner):
            return stored[jnp.argmin(jnp.abs(jnp.asarray(times) - info.t.reshape(-1)[0]))][None]

        for sampler in (ddim, ddpm):
            monkeypatch.setattr(sampler, "fresh_noise", fresh_noise)

    return replace


def png(file, image):
    """Writes an image in [-1, 1] as a lossless file, and returns its name."""
    Image.fromarray(levels(image)).save(file)
    return str(file)


@pytest.fixture
def exact(monkeypatch):
    """A function after which golden images [h, w, c] keep their values, which are none of 256 levels."""
    plain = images.to_float

    def keep(*golden):
        stored = [(levels(image), image) for image in golden]

        def to_float(pixels):
            own = pixels[0] if pixels.ndim == 4 else pixels
            for rounded, image in stored:
                if own.shape == rounded.shape and (own == rounded).all():
                    return image[None] if pixels.ndim == 4 else image
            return plain(pixels)

        for module in (images, channels):
            monkeypatch.setattr(module, "to_float", to_float)

    return keep


def levels(image):
    """Returns an image in [-1, 1] as uint8."""
    return np.round((image + 1.0) * 127.5).clip(0, 255).astype(np.uint8)


def run(generator, x_T, folder, prompts=(), **options):
    """Returns the noisy images [steps, h, w, c] after each step of a run from golden noise."""
    np.save(folder / "noise.npy", x_T[None])
    plan = generator.plan(list(prompts), batch_size=1, init=str(folder / "noise.npy"), **options)
    program = generator._program(plan, 1)
    state = program.start(plan, generator.bundle.params, np.zeros(1, np.int64), np.zeros(1, np.int64))
    while state.done < state.total:
        state = program.advance(state)
    return np.asarray(state.carry.x)[0]


def close(found, expected, tolerance=1e-3):
    """Compares arrays with a tolerance relative to the largest value."""
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cond64", "uncond512"])
def test_four_ancestral_steps_of_adm_are_the_originals(golden, golden_noise, tmp_path, model):
    generator, data = golden_generator(golden, model), data_of(golden, model)
    golden_noise(data["loop4_timesteps"][::-1], data["loop4_noise"][:, ROW])
    given = {"class_label": int(data["y"][ROW])} if "y" in data else {}
    close(run(generator, data["loop4_x_T"][ROW], tmp_path, steps=4, **given), data["loop4_x"][-1, ROW])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cond64", "uncond512"])
def test_five_steps_of_ddim_of_adm_are_the_originals(golden, tmp_path, model):
    generator, data = golden_generator(golden, model), data_of(golden, model)
    given = {"class_label": int(data["y"][ROW])} if "y" in data else {}
    last = run(generator, data["loop4_x_T"][ROW], tmp_path, steps=5, sampler="ddim", spacing="ddim", **given)
    close(last, data["ddim5_x"][-1, ROW])


def test_adm_upscales_as_the_original(golden, golden_noise, exact, tmp_path):
    generator, data = golden_generator(golden, "upsampler"), data_of(golden, "upsampler")
    golden_noise([999, 666, 333, 0], data["loop4_noise"][:, ROW])
    small = png(tmp_path / "small.png", data["low_res"][ROW])
    exact(data["low_res"][ROW])
    given = {"class_label": int(data["y"][ROW]), "low_resolution": small}
    close(run(generator, data["x"][ROW], tmp_path, steps=4, **given), data["loop4_x"][-1, ROW])


def glide_options(data, folder):
    """Returns the files that a golden model of GLIDE is given."""
    options = {"steps": 5, "spacing": "linspace"}
    if "low_res" in data:
        options["low_resolution"] = png(folder / "small.png", data["low_res"][ROW])
    if "inpaint_image" in data:
        known = {"image": png(folder / "known.png", data["inpaint_image"][ROW])}
        generated = 1.0 - np.repeat(data["inpaint_mask"][ROW], 3, axis=-1)
        known["mask"] = png(folder / "mask.png", 2.0 * generated - 1.0)
        options |= {"conditions": [Fill(**known)], "guides": [Project(**known)]}
    return options


@pytest.mark.slow
@pytest.mark.parametrize("model", ["base", "upsample", "base_inpaint", "upsample_inpaint"])
def test_five_steps_of_glide_are_the_originals(golden, golden_noise, exact, tmp_path, model):
    generator, data = golden_generator(golden, model), data_of(golden, model)
    if "loop_noise" in data:
        golden_noise(data["loop_timesteps"][::-1], data["loop_noise"][:, ROW])
    exact(*(data[name][ROW] for name in ("low_res", "inpaint_image") if name in data))
    sampler = {} if "loop_noise" in data else {"sampler": "ddim"}
    last = run(
        generator,
        data["loop_x_T"][ROW],
        tmp_path,
        [prompt_of(data, ROW)],
        **glide_options(data, tmp_path),
        **sampler,
    )
    close(last, data["loop_x"][-1, ROW])


def one_step(generator, x, respaced, steps, **options):
    """Returns an image [h, w, c] after one step of a respaced schedule, counted from the image, under all guides."""
    plan = generator.plan(**{"prompts": [], "batch_size": 1, "steps": steps, **options})
    shape = generator.head.shape(plan, 1)
    indices = np.zeros(1, np.int64)
    inputs = inputs_of(plan, indices, indices).chunk(steps - 1 - respaced, 1)
    inputs = dataclasses.replace(inputs, noise=jnp.asarray(x[None]))
    advance = jax.jit(chunk_program(generator.bundle, shape, plan.run.guides))
    carry, _ = advance(generator.bundle.params, inputs, shape.sampler.init(jnp.asarray(x[None])))
    return np.asarray(carry.x)[0]


@pytest.mark.slow
def test_a_step_under_the_classifier_of_adm_is_the_originals(golden, golden_noise):
    generator, data = golden_generator(golden, "cond64", "classifier"), data_of(golden, "classifier")
    golden_noise([0], data["p_sample_noise"][ROW : ROW + 1])
    guide = ClassifierGuidance(attribute="class", label=str(data["y"][ROW]), weight=float(data["scale"][0]))
    step = functools.partial(
        one_step, generator, data["x"][ROW], 20, 25, class_label=int(data["y"][ROW]), guides=[guide]
    )
    close(step(), data["p_sample_guided"][ROW])
    close(step(sampler="ddim", spacing="linspace"), data["ddim_guided"][ROW])


@pytest.mark.slow
def test_a_step_under_glides_noised_clip_is_the_originals(golden, golden_noise, monkeypatch):
    generator, data = golden_generator(golden, "base", "noised_clip"), data_of(golden, "noised_clip")
    base, tower = data_of(golden, "base"), generator.bundle.noised_clip
    tokens, lengths = (jnp.asarray(data[name], jnp.int32) for name in ("text_tokens", "text_len"))
    params = {"params": generator.bundle.params["noised_clip"]}
    vector = np.asarray(jax.jit(functools.partial(tower.apply, method="encode_text"))(params, tokens, lengths))
    close(vector, data["text_features"])
    monkeypatch.setattr(semantic, "text_vector", lambda context, text: vector[ROW : ROW + 1])
    golden_noise([0], data["p_sample_noise"][ROW : ROW + 1])
    guide = SDG(text="a text", weight=100.0 * float(data["p_sample_grad_scale"][0]))
    options = {"prompts": [prompt_of(base, ROW)], "guides": [guide], "guidance_scale": 1.0}
    close(one_step(generator, data["x"][ROW], 40, 100, **options), data["p_sample_guided"][ROW])
