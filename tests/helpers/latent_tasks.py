"""The golden models of latent diffusion's tasks as bundles, converted once for all tests of a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.generator import Generator

VOCABULARY = "bert_vocab_small.txt"


@functools.cache
def golden_bundle(golden: Path, model: str) -> Bundle:
    """Returns the bundle of a golden model by its name ("cin_v2")."""
    folder = golden / "heads/ldm"
    tokenizer = folder / VOCABULARY if model == "txt2img" else None
    with tempfile.TemporaryDirectory() as out:
        convert(folder / f"{model}_small.ckpt", tokenizer=tokenizer).write(Path(out) / model)
        return Bundle.open(Path(out) / model)


@functools.cache
def golden_generator(golden: Path, model: str, *overrides: str) -> Generator:
    """Returns the generator of a golden model."""
    return Generator.load(golden_bundle(golden, model), overrides=overrides)


def data_of(golden: Path, model: str) -> dict[str, np.ndarray]:
    """Returns what the original program computes with a golden model."""
    with np.load(golden / f"heads/ldm/{model}.npz") as data:
        return dict(data)
