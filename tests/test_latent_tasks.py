"""Whole runs of latent diffusion's tasks from their inputs, against the original programs."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.conditioning import Fill
from rdm_jax.conditioning.inputs import low_resolution
from rdm_jax.core import images
from rdm_jax.core.images import to_uint8
from rdm_jax.diffusion.samplers import ddim
from rdm_jax.guidance import Paste
from tests.helpers.latent_tasks import data_of, golden_generator

CLASSES = "conditioning.layout_classes=24"  # of the golden layouts
FLAGS = ("group_of", "occluded", "depiction", "inside")


def png(file, pixels):
    """Writes an image as a lossless file."""
    Image.fromarray(pixels).save(file)
    return str(file)


def layout_file(data, scene, file):
    """Writes a golden layout as the file that a user gives."""
    rows = [row for row in data["objects"] if row[0] == scene]
    objects = [
        {"class": int(row[1]), "box": row[2:6].tolist()}
        | {flag: True for flag, on in zip(FLAGS, row[6:], strict=True) if on}
        for row in rows
    ]
    file.write_text(json.dumps({"objects": objects, "crop": data["crops"][scene].tolist()}))
    return str(file)


def pixels(image):
    """Returns a golden image [3, h, w] in [-1, 1] as uint8, after checking that none is lost."""
    scaled = (image.transpose(1, 2, 0) + 1.0) * 127.5
    return np.round(scaled).astype(np.uint8)


def given(model, data, image, folder) -> tuple[list[str], dict[str, Any]]:
    """Returns the prompts and the options that give a model the input of a golden image."""
    if model == "cin_v2":
        return [], {"class_label": int(data["class_ids"][image])}
    if model == "txt2img":
        return [str(data["texts"][[0, 2][image]])], {}
    if model == "layout2img":
        return [], {"layout": layout_file(data, image, folder / "layout.json")}
    if model == "semantic":
        return [], {"segmentation": png(folder / "labels.png", data["labels"][image].astype(np.uint8))}
    return [], {}


def planned(golden, model, image, folder):
    """Returns the generator and the plan of a golden image, from its golden noise."""
    overrides = (CLASSES,) if model == "layout2img" else ()
    generator, data = golden_generator(golden, model, *overrides), data_of(golden, model)
    prompts, options = given(model, data, image, folder)
    np.save(folder / "noise.npy", data["ddim_x_T"][image].transpose(1, 2, 0)[None])
    options = {
        **options,
        "init": str(folder / "noise.npy"),
        "steps": 4,
        "batch_size": 1,
        "eta": float(data["ddim_eta"][0]),
    }
    return generator, generator.plan(prompts, **options)


def finished(generator, plan):
    """Returns the last latents and the image of a plan, both as the originals have them."""
    program = generator._program(plan, 1)
    state = program.start(plan, generator.bundle.params, np.zeros(1, np.int64), np.zeros(1, np.int64))
    while state.done < state.total:
        state = program.advance(state)
    return np.asarray(state.carry.x)[0].transpose(2, 0, 1), program.finish(state)[0].transpose(2, 0, 1)


def check(generator, plan, data, image):
    """Compares a run with the golden one."""
    latent, decoded = finished(generator, plan)
    expected = data["ddim_x"][-1, image]
    np.testing.assert_allclose(latent, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(decoded, data["decoded"][image], atol=1e-3 * np.abs(data["decoded"]).max())


@pytest.fixture
def golden_noise(golden, monkeypatch):
    """A function that replaces the fresh noise of DDIM by that of a golden run."""

    def replace(model, image):
        data = data_of(golden, model)
        noise = jnp.asarray(data["ddim_noise"][:, image].transpose(0, 2, 3, 1))

        def fresh_noise(info, shape, owner):
            step = jnp.argmin(jnp.abs(jnp.asarray(data["ddim_t"]) - info.t.reshape(-1)[0]))
            return noise[step][None]

        monkeypatch.setattr(ddim, "fresh_noise", fresh_noise)

    return replace


@pytest.mark.parametrize(
    "model",
    [
        "cin_v2",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("txt2img", "layout2img", "semantic", "uncond", "churches")
        ),
    ],
)
def test_four_steps_of_ddim_are_those_of_the_original(golden, golden_noise, tmp_path, model):
    data = data_of(golden, model)
    if "ddim_noise" in data:
        golden_noise(model, 0)
    generator, plan = planned(golden, model, 0, tmp_path)
    if "context" in data:
        np.testing.assert_allclose(plan.context.given.tokens[0], data["context"][0], atol=1e-4)
    if model == "cin_v2":
        np.testing.assert_allclose(plan.context.null.tokens[0], data["context_null"][0], atol=1e-6)
    if model == "semantic":
        np.testing.assert_allclose(plan.context.given.channels[0, 0], data["concat"][0].transpose(1, 2, 0), atol=1e-5)
    if model in ("cin_v2", "txt2img"):
        assert plan.options.guidance_scale == data["ddim_scale"][0]
    check(generator, plan, data, 0)


@pytest.mark.slow
def test_inpainting_is_that_of_the_original(golden, monkeypatch, tmp_path):
    """Golden images are no whole numbers; those of the files are, and are replaced by the golden ones."""
    data = data_of(golden, "inpainting")
    monkeypatch.setattr(images, "to_float", lambda read: data["image"][0].transpose(1, 2, 0).reshape(read.shape))
    mask = np.round(data["mask"][0, 0] * 255).astype(np.uint8)
    files = {"image": png(tmp_path / "image.png", pixels(data["image"][0])), "mask": png(tmp_path / "mask.png", mask)}
    generator = golden_generator(golden, "inpainting")
    np.save(tmp_path / "noise.npy", data["ddim_x_T"][0].transpose(1, 2, 0)[None])
    options = {"init": str(tmp_path / "noise.npy"), "steps": 4, "batch_size": 1}
    plan = generator.plan(conditions=[Fill(**files)], guides=[Paste(**files)], **options)
    channels = np.asarray(plan.context.given.channels)[0, 0].transpose(2, 0, 1)
    np.testing.assert_allclose(channels, data["concat"][0], atol=1e-4)
    check(generator, plan, data, 0)
    _, decoded = finished(generator, plan)
    finished_pixels = generator.head.finish(plan, to_uint8(decoded.transpose(1, 2, 0))[None])[0]
    expected = data["inpainted"][0].transpose(1, 2, 0) * 255.0
    assert np.abs(finished_pixels - expected).max() <= 1.0


@pytest.mark.slow
def test_super_resolution_is_that_of_the_original(golden, golden_noise, monkeypatch, tmp_path):
    data = data_of(golden, "bsr_sr")
    golden_noise("bsr_sr", 0)
    monkeypatch.setattr(low_resolution, "to_float", lambda read: data["lr_image"][0].transpose(1, 2, 0))
    file = png(tmp_path / "small.png", pixels(data["lr_image"][0]))
    generator = golden_generator(golden, "bsr_sr")
    np.save(tmp_path / "noise.npy", data["ddim_x_T"][0].transpose(1, 2, 0)[None])
    options = {"init": str(tmp_path / "noise.npy"), "steps": 4, "batch_size": 1, "low_resolution": file}
    plan = generator.plan(**options)
    assert (plan.options.eta, plan.request.height, plan.request.width) == (1.0, 32, 32)
    check(generator, plan, data, 0)
