"""Classes, layouts, label maps and small images on the command line: runs, records, replays and messages."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from rdm_jax.cli.main import main
from rdm_jax.convert.conversion import convert
from rdm_jax.generator import Generator
from rdm_jax.sweep.axes import read_axes
from rdm_jax.sweep.plan import plan_sweep

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.fixture(scope="module")
def models(golden, tmp_path_factory):
    """The folder with converted golden models: cin_v2 and bsr_sr."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("cin_v2", "bsr_sr"):
        convert(golden / f"heads/ldm/{name}_small.ckpt").write(folder / name)
    return folder


@pytest.mark.slow
def test_a_class_is_recorded_and_replayed(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--model", str(models / "cin_v2"), "--steps", "2", "--seed", "5", "--out", "out", "--quiet"]
    assert main(["sample", "--class", "3", *options]) == 0
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["request"]["class_label"] == 3 and record["prompts"] == ["class 3"]
    capsys.readouterr()
    assert main(["replay", "out/00000-5.png", "--model", str(models / "cin_v2"), "--quiet"]) == 0
    assert "identical to the image in the file" in capsys.readouterr().err


def test_a_sweep_has_a_cell_for_each_class(models):
    generator = Generator.load(models / "cin_v2")
    sweep = plan_sweep(generator, read_axes(["class=1,2"], generator), [], database=None)
    assert [plan.prompts for plan in sweep.plans] == [["class 1"], ["class 2"]]
    assert len(sweep.shapes) == 1


@pytest.mark.slow
def test_upscaling_gives_an_image_twice_as_large(models, tmp_path, monkeypatch, capsys):
    """The golden first stage halves each side; an image of odd size is padded and cropped."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (15, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("small.png")
    options = ["--model", str(models / "bsr_sr"), "--steps", "1", "--seed", "5", "--out", "out", "--quiet"]
    assert main(["edit", "upscale", "--image", "small.png", *options]) == 0
    assert np.asarray(Image.open("out/00000-5.png")).shape == (30, 32, 3)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert list(record["files"]) == ["small.png"] and record["request"]["low_resolution"] == "small.png"
    capsys.readouterr()
    assert main(["replay", "out/00000-5.png", "--model", str(models / "bsr_sr"), "--quiet"]) == 0
    assert "identical to the image in the file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("cin_v2", (), "model 'cin_v2_small' takes a class; give it by --class"),
        ("cin_v2", ("--class", "10"), "class 10 is out of range; model 'cin_v2_small' has classes 0 to 9"),
        ("cin_v2", ("--class", "-2"), "class -2 is out of range"),
        ("cin_v2", ("a red boat", "--class", "3"), "reads no prompts, its input is 'class'; leave the prompt out"),
        ("cin_v2", ("--class", "3", "--negative-prompt", "a cat"), "reads no prompts"),
        ("cin_v2", ("--class", "3", "--layout", "a.json"), "--layout applies to models that take a layout, and model"),
        ("bsr_sr", (), "takes an image to upscale; give it by --low-resolution"),
        ("bsr_sr", ("--guidance-scale", "2"), "guidance_scale 2 needs a null condition, and model 'bsr_sr_small' was"),
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
