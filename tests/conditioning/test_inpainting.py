"""The channels of an inpainting model, and edits with it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from rdm_jax.conditioning import Fill
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from tests.helpers import tiny
from tests.helpers.stable_diffusion import golden_bundle, golden_generator

SIZE = {"height": 16, "width": 16, "batch_size": 1, "steps": 2}


@pytest.fixture(scope="module")
def inpainting_bundle(golden):
    """A golden model with random weights of a U-Net that takes the channels of inpainting."""
    bundle = golden_bundle(golden, "sd1")
    config = {
        **bundle.config,
        "denoiser": {**bundle.config["denoiser"], "condition_channels": 5},
        "conditioning": {**bundle.config["conditioning"], "channels": "inpainting"},
    }
    params = {**bundle.params, "denoiser": tiny.random_params(config, "denoiser")}
    return dataclasses.replace(bundle, config=config, params=params, path=None)


@pytest.fixture(scope="module")
def generator(inpainting_bundle):
    return Generator.load(inpainting_bundle)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An image and a mask whose right half is white."""
    folder = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    painted = np.zeros((16, 16), np.uint8)
    painted[:, 8:] = 255
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(painted).save(folder / "mask.png")
    return {"image": str(folder / "image.png"), "mask": str(folder / "mask.png")}, pixels, painted


def test_the_channels_are_the_mask_and_the_latents_of_the_rest(generator, files):
    names, pixels, painted = files
    context = generator.plan("a red boat", conditions=[Fill(**names)], **SIZE).context
    channels = context.given.channels
    assert channels is not None and channels.shape == (1, 1, 8, 8, 5)
    np.testing.assert_array_equal(channels[0, 0, :, :, 0], np.repeat([[0] * 4 + [1] * 4], 8, axis=0))
    known = np.where(painted[..., None] == 255, 0.0, pixels.astype(np.float32) / 127.5 - 1.0)
    np.testing.assert_allclose(channels[0, 0, ..., 1:], generator.model.encode_latent(known[None])[0], atol=1e-5)
    np.testing.assert_array_equal(context.null.channels, channels)


def test_without_an_image_everything_is_generated(generator):
    context = generator.plan(["a red boat", "the sea"], **SIZE).context
    channels = context.given.channels
    assert channels is not None and channels.shape == (2, 1, 8, 8, 5) and (channels[..., 0] == 1).all()
    gray = generator.model.encode_latent(np.zeros((1, 16, 16, 3), np.float32))
    np.testing.assert_allclose(channels[0, 0, ..., 1:], gray[0], atol=1e-5)


def test_another_model_has_no_such_channels(golden, files):
    names, _, _ = files
    with pytest.raises(UserError, match="condition fill needs channels beside the noisy latent"):
        golden_generator(golden, "sd1").plan("a red boat", conditions=[Fill(**names)], **SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("takes_mask", [True, False])
def test_inpainting_keeps_what_is_black_in_the_mask(
    golden, generator, files, takes_mask, monkeypatch, tmp_path, capsys, own_environment
):
    from rdm_jax.cli.main import main

    names, pixels, painted = files
    chosen = generator if takes_mask else golden_generator(golden, "sd1")
    monkeypatch.setattr(Generator, "load", staticmethod(lambda *_, **__: chosen))
    monkeypatch.chdir(tmp_path)
    given = [part for name, file in names.items() for part in (f"--{name}", file)]
    arguments = ["--model", "sd", "--prompt", "a red boat", "--steps", "2", "--seed", "3", "--out", "out", "--quiet"]
    assert main(["edit", "inpaint", *given, *arguments]) == 0
    edited = np.asarray(Image.open(tmp_path / "out/00000-3.png"))
    np.testing.assert_array_equal(edited[painted == 0], pixels[painted == 0])
    assert np.abs(edited.astype(int) - pixels)[painted > 0].mean() > 5
    assert ("has no inpainting channels" in capsys.readouterr().err) != takes_mask
