"""`rdm convert` from the shell's side: what it writes, prints and refuses."""

from __future__ import annotations

import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main


def _rdm(*arguments):
    return main(["convert", *map(str, arguments)])


@pytest.mark.slow
def test_a_checkpoint_and_back(golden, tmp_path, capsys):
    assert _rdm(golden / "rdm_small.ckpt", "--out", tmp_path / "bundle") == 0
    printed = capsys.readouterr().err
    assert "CompVis checkpoint 'rdm_small' with denoiser" in printed and "it has no CLIP" in printed
    assert set(Bundle.open(tmp_path / "bundle").params) == {"denoiser", "autoencoder"}
    assert _rdm(tmp_path / "bundle", "--to", "compvis", "--out", tmp_path / "back") == 0
    assert "config.yaml, model.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.ckpt", "--out", "{out}"], "cannot read nowhere.ckpt: No such file or directory"),
        (["{here}", "--out", "{out}"], "has no config.json; give a Hugging Face CLIP's folder"),
        (["nowhere.ckpt", "--out", "{here}"], "exists already; choose another folder"),
        (
            ["style-scenes", "--to", "compvis", "--out", "{out}", "--weights", "raw"],
            "--weights is an option for reading released weights",
        ),
        (["style-scenes", "--to", "onnx", "--out", "{out}"], "unknown target 'onnx' (known: compvis, diffusers)"),
        (["a.ckpt", "--wieghts", "raw", "--out", "{out}"], "unknown option --wieghts; did you mean --weights"),
        (["a.ckpt"], "give what to convert and the folder to write"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    places = {"out": tmp_path / "out", "here": tmp_path}
    assert _rdm(*(argument.format(**places) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert list(tmp_path.iterdir()) == []
