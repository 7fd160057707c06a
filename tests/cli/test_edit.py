"""`rdm edit` on a tiny random model, through the command line's front door."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli.main import main

STEPS = ("--steps", 4, "--seed", 3, "--quiet")


@pytest.fixture
def original(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((16, 16)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.fixture
def mask(tmp_path):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[4:12, 8:] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture
def edit(rdm, original):
    def run(action, *arguments, image=original):
        return rdm("edit", action, "--image", image, "--out", "out", *STEPS, *arguments, defaults=())

    return run


@pytest.fixture
def places(home):
    return "--model", home / "model", "--database", home / "one"


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.slow
def test_img2img_starts_from_the_image(edit, places, tmp_path):
    assert edit("img2img", *places, "--prompt", "a red boat", "--strength", 0.5, "--num-images", 2) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("0*.png")) == ["00000-3.png", "00001-3.png"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["options"]["strength"] == 0.5 and record["complete"]
    assert (tmp_path / "out" / "edit.png").is_file()


@pytest.mark.parametrize("method", ["inpaint", pytest.param("project", marks=pytest.mark.slow)])
def test_inpainting_leaves_the_known_pixels_as_they_are(edit, places, original, mask, tmp_path, method):
    assert edit("inpaint", *places, "--mask", mask, "--prompt", "a red boat", "--method", method) == 0
    edited, known, new = pixels(tmp_path / "out" / "00000-3.png"), pixels(original), pixels(mask) > 0
    np.testing.assert_array_equal(edited[~new], known[~new])
    assert np.abs(edited - known)[new].mean() > 5


def test_a_large_image_and_its_mask_are_fitted_together(edit, places, original, mask, tmp_path):
    for path in (original, mask):
        Image.open(path).resize((64, 64), Image.Resampling.NEAREST).save(path)
    assert edit("inpaint", *places, "--mask", mask, "--prompt", "a red boat", "--fit", "shrink") == 0
    assert pixels(tmp_path / "out" / "00000-3.png").shape == (16, 16, 3)


@pytest.fixture
def wide(original, mask):
    """An image of 21 x 9 pixels, which the network does not take, and a mask outside its middle; as arrays."""
    Image.open(original).resize((21, 9)).save(original)
    painted = np.zeros((9, 21), np.uint8)
    painted[2:, 18:] = 255
    Image.fromarray(painted).save(mask)
    return pixels(original), painted


@pytest.mark.slow
def test_an_image_that_is_varied_keeps_its_size(edit, places, wide, tmp_path):
    assert edit("img2img", *places, "--prompt", "a red boat", "--strength", 0.5, "--previews") == 0
    assert pixels(tmp_path / "out" / "00000-3.png").shape == (9, 21, 3)
    assert {pixels(file).shape for file in (tmp_path / "out" / "previews").iterdir()} == {(9, 21, 3)}


@pytest.mark.slow
def test_an_edited_image_keeps_its_size(edit, places, wide, mask, tmp_path):
    known, painted = wide
    assert edit("inpaint", *places, "--mask", mask, "--prompt", "a red boat") == 0
    edited = pixels(tmp_path / "out" / "00000-3.png")
    assert edited.shape == (9, 21, 3)
    np.testing.assert_array_equal(edited[painted == 0], known[painted == 0])
    assert np.abs(edited - known)[painted > 0].mean() > 5
    assert edit("outpaint", *places, "--right", 3, "--prompt", "a red boat") == 0
    canvas = pixels(tmp_path / "out" / "run-002" / "00000-3.png")
    assert canvas.shape == (9, 24, 3)
    np.testing.assert_array_equal(canvas[:, :21], known)


@pytest.mark.parametrize(
    ("options", "size"),
    [(("--fit", "shrink"), (16, 5)), (("--fit", "crop"), (16, 16)), (("--width", 24), (24, 16)), ((), (80, 24))],
)
def test_the_size_of_an_edited_image_is_the_requested_one(home, load, original, options, size):
    Image.open(original).resize((80, 24)).save(original)
    given = dict(zip(("--fit", "--width"), (None, None), strict=True)) | dict([options] if options else [])
    request, _ = load(str(home / "model"), "float32", ()).resolve(
        1, init=str(original), fit=given["--fit"], width=given["--width"]
    )
    assert (request.width, request.height) == size


def test_an_image_too_large_to_keep_is_named_with_what_can_be_done(
    edit, places, original, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("rdm_jax.request.MAX_EDITED", 255)
    assert edit("img2img", *places, "--prompt", "a boat") == 2
    error = capsys.readouterr().err
    assert "16x16 pixels" in error and "--fit shrink" in error and "--fit crop" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_outpainting_keeps_the_image_where_it_is(edit, places, original, tmp_path):
    assert edit("outpaint", *places, "--left", 4, "--down", 8, "--prompt", "a red boat") == 0
    edited = pixels(tmp_path / "out" / "00000-3.png")
    assert edited.shape == (24, 20, 3)
    np.testing.assert_array_equal(edited[:16, 4:], pixels(original))


def test_variations_have_the_image_as_their_query(edit, places, tmp_path):
    assert edit("vary", *places, "--num-images", 2) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["prompts"] == ["image 1"]
    assert (pixels(tmp_path / "out" / "00000-3.png") != pixels(tmp_path / "out" / "00001-3.png")).any()


@pytest.mark.slow
def test_inversion_writes_the_noise_and_generates_from_it(edit, places, home, tmp_path, capsys):
    options = ("--prompt", "a red boat", "--to", "a blue tree", "--to-database", home / "two", "--iterations", 8)
    assert edit("invert", *places, *options) == 0
    out = tmp_path / "out"
    record = json.loads((out / "inversion.json").read_text())
    assert record["latent_error"] < 0.05 and record["autoencoder_psnr"] > 0
    assert np.load(out / "noise.npy").shape == (1, 8, 8, 2)
    assert sorted(path.name for path in out.glob("*/0*.png")) == [
        "00000-3.png",
        "00000-3.png",
        "00001-3.png",
        "00001-3.png",
    ]
    assert "the latent returns with relative error" in capsys.readouterr().err
    again = (
        "sample",
        "a red boat",
        "--init",
        out / "noise.npy",
        "--guidance-scale",
        1,
        "--out",
        "again",
        *STEPS,
        *places,
    )
    assert main(list(map(str, again))) == 0
    first = next(path for path in out.glob("*/00000-3.png") if path.parent.name == "one")
    assert np.abs(pixels(tmp_path / "again" / "00000-3.png") - pixels(first)).max() <= 2


def test_an_edited_image_is_replayed_bit_for_bit(edit, rdm, places, original, mask, home, capsys):
    assert edit("inpaint", *places, "--mask", mask, "--prompt", "a red boat", "--with", "switch(prompt='cat')") == 0
    capsys.readouterr()
    assert rdm("replay", "out/00000-3.png", "--quiet", defaults=("--model", "--database")) == 0
    assert "identical to the image in the file" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_of_a_file_mix_two_conditions(rdm, places, tmp_path):
    (tmp_path / "weights.json").write_text("[1, 1, 0.5, 0]")
    arguments = ("--prompt", "a red boat", "--to", "a blue tree", "--weights", "weights.json", "--out", "out")
    assert rdm("edit", "mix", *arguments, *STEPS, *places, defaults=()) == 0
    assert (tmp_path / "out" / "edit.png").is_file()


def test_learning_needs_the_tower(rdm, places, tmp_path, capsys):
    arguments = ("--prompt", "a red boat", "--to", "a blue tree", "--out", "out")
    assert rdm("edit", "mix", *arguments, *STEPS, *places, defaults=()) == 2
    assert "mixing needs the model's noised_clip" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("img2img", "--strength", 0), "strength=0.0 is out of range"),
        (("inpaint", "--mask", "nowhere.png"), "cannot read nowhere.png: No such file"),
        (("inpaint", "--mask", "small.png"), "mask small.png is 8x8 pixels and its image 16x16"),
        (("inpaint",), "required: --mask"),
        (("outpaint",), "extend nothing"),
        (("outpaint", "--left", -4), "argument --left: -4 is out of range; give 0 to 32768"),
        (("invert", "--sampler", "plms"), "inversion reverses DDIM"),
        (("invert", "--to", "a"), "describe the image by --prompt"),
        (("mix", "--prompt", "a"), "there is nothing to mix with"),
        (("img2img", "--sampler", "dpmpp_2m", "--eta", 0.5), "sampler 'dpmpp_2m' has none"),
        (("img2img", "--steps", 2000), "2000"),
        (("vary", "--guidance-interval", 0.8, 0.2), "is empty"),
        (("vary", "--guidance-rescale", 2), "guidance_rescale=2.0 is out of range"),
        (("vary", "--with", "region(mask='small.png', prompt='a')"), "mask small.png is 8x8"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(edit, places, tmp_path, capsys, arguments, message):
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    assert edit(arguments[0], *places, *arguments[1:]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, printed[-1]) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_without_denoising_steps_varies_and_refuses_the_rest_by_name(original, mask, tmp_path, capsys):
    places = ["--model", "style-scenes-rarm", "--database", "neon", "--seed", "3", "--quiet"]
    image = ["--image", str(original)]
    assert main(["edit", "vary", *image, *places, "--out", str(tmp_path / "varied")]) == 0
    assert pixels(tmp_path / "varied" / "00000-3.png").shape == (64, 64, 3)
    for action in (
        ["img2img", *image],
        ["inpaint", *image, "--mask", str(mask)],
        ["invert", *image],
        ["mix", "--to", "a"],
    ):
        capsys.readouterr()
        assert main(["edit", *action, *places, "--out", str(tmp_path / "refused")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "does not support" in error and error.endswith("use a model that does")
