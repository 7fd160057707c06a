"""The golden models of ADM and GLIDE as bundles, converted once for all tests of a session."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.generator import Generator

ADM = ("cond64", "uncond512", "upsampler")
GLIDE = ("base", "upsample", "base_inpaint", "upsample_inpaint")


def folder_of(model: str) -> str:
    """Returns the golden folder of a model."""
    return "glide" if model in GLIDE else "adm"


def with_flags(golden: Path, model: str, out: Path, family: str | None = None) -> Path:
    """Returns a link to a golden state dict in a folder, with its flags beside it."""
    family = family or folder_of(model)
    source, file = golden / f"heads/{family}/{model}_small.pt", out / f"{model}.pt"
    if not file.exists():
        file.symlink_to(source)
        flags = json.loads((golden / f"heads/{family}/flags.json").read_text())
        file.with_suffix(".json").write_text(json.dumps(flags.get(model, {"n_head_state_image": 16})))
    return file


def numbers() -> str:
    """Returns the tokenizer.json of GLIDE's golden models, whose words are the numbers of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {str(number): number for number in range(119)} | {"<|endoftext|>": 119}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str()


def prompt_of(data: dict[str, np.ndarray], row: int) -> str:
    """Returns the prompt of GLIDE's golden tokens."""
    return " ".join(map(str, data["tokens"][row][data["mask"][row]]))


@functools.cache
def golden_bundle(golden: Path, model: str, guide: str = "") -> Bundle:
    """Returns the bundle of a golden model by its name ("cond64"), with a "classifier" or a "noised_clip" if named."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        given = {}
        if guide == "classifier":
            given["classifier"] = with_flags(golden, "classifier", out)
        if guide == "noised_clip":
            towers = [with_flags(golden, f"clip_{tower}_enc", out, "glide") for tower in ("text", "image")]
            given["noised_clip"] = tuple(towers)
        if model in GLIDE:
            given["tokenizer"] = out / "tokenizer.json"
            given["tokenizer"].write_text(numbers())
        convert(with_flags(golden, model, out), **given).write(out / "bundle")
        return Bundle.open(out / "bundle")


@functools.cache
def golden_generator(golden: Path, model: str, guide: str = "", *overrides: str) -> Generator:
    """Returns the generator of a golden model."""
    return Generator.load(golden_bundle(golden, model, guide), overrides=overrides)


@functools.cache
def data_of(golden: Path, model: str) -> dict[str, np.ndarray]:
    """Returns what the original program computes with a golden model, images in NHWC."""
    family = "glide" if model in (*GLIDE, "noised_clip", "tokens_and_schedules") else "adm"
    with np.load(golden / f"heads/{family}/{model}.npz") as data:
        return {name: np.moveaxis(value, -3, -1) if value.ndim in (4, 5) else value for name, value in data.items()}
