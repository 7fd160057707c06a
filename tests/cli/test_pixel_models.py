"""ADM and GLIDE on the command line: conversion, runs and messages."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli.main import main
from tests.helpers.pixel_models import numbers, with_flags

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture(scope="module")
def models(golden, tmp_path_factory):
    """The folder with golden models that the command converted, "cond64" with its classifier."""
    folder = tmp_path_factory.mktemp("pixel_models")
    (folder / "tokenizer.json").write_text(numbers())
    guide = ["--classifier", str(with_flags(golden, "classifier", folder))]
    words = ["--tokenizer", str(folder / "tokenizer.json")]
    given = {"cond64": guide, "uncond512": [], "upsampler": [], "base": words, "upsample": words}
    for name, options in given.items():
        source = with_flags(golden, name, folder)
        assert main(["convert", str(source), "--out", str(folder / name), *options]) == 0
    return folder


def test_an_image_is_upscaled_under_a_class(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)).save("small.png")
    options = ["--model", str(models / "upsampler"), "--steps", "1", "--seed", "5", "--out", "out", "--quiet"]
    assert main(["edit", "upscale", "--image", "small.png", "--class", "3", *options]) == 0
    assert np.asarray(Image.open("out/00000-5.png")).shape == (16, 12, 3)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["request"]["class_label"] == 3 and record["options"]["sampler"] == "ddpm(variance='learned')"


@pytest.mark.slow
def test_inpainting_without_channels_blends_and_says_so(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(pixels).save("known.png")
    Image.fromarray(mask).save("mask.png")
    options = ["--model", str(models / "uncond512"), "--steps", "1", "--seed", "5", "--out", "out", "--quiet"]
    assert main(["edit", "inpaint", "--image", "known.png", "--mask", "mask.png", *options]) == 0
    assert "this model has no inpainting channels" in capsys.readouterr().err
    kept = np.asarray(Image.open("out/00000-5.png"))
    np.testing.assert_array_equal(kept[mask == 0], pixels[mask == 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("cond64", (), "model 'cond64' takes a class; give it by --class"),
        ("cond64", ("--class", "10"), "class 10 is out of range; model 'cond64' has classes 0 to 9"),
        ("cond64", ("--class", "1", "--guidance-scale", "2"), "guidance_scale 2 needs a null condition"),
        ("cond64", ("--class", "1", "--spacing", "ddim25"), "unknown spacing 'ddim25'"),
        ("cond64", ("--class", "1", "--spacing", "fast27"), "spacing 'fast27' has 27 steps, and 250 are requested"),
        (
            "cond64",
            ("--class", "1", "--height", "32", "--width", "32", "--guide", "classifier(attribute='class', label='1')"),
            "is for images of 16x16 only",
        ),
        (
            "cond64",
            ("--class", "1", "--guide", "classifier(attribute='class', label='10')"),
            "unknown class '10'",
        ),
        ("uncond512", ("--class", "1"), "--class applies to models that take a class, and model 'uncond512' takes no"),
        ("uncond512", ("--guide", "classifier(attribute='class', label='1')"), "needs the model's noised_classifier"),
        ("upsampler", ("--class", "1"), "model 'upsampler' upscales an image; give it by `rdm edit upscale --image`"),
        ("upsample", ("3 5",), "model 'upsample' upscales an image; give it by `rdm edit upscale --image`"),
        ("base", ("3 5", "--initial-noise", "0"), "initial_noise=0.0 is out of range; give a number above 0"),
    ],
)
def test_what_a_model_cannot_take_is_refused_in_one_line(
    models, tmp_path, monkeypatch, capsys, model, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--model", str(models / model), "--quiet", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") <= 2
    assert not list(tmp_path.iterdir())
