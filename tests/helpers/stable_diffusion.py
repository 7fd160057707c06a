"""The golden models of Stable Diffusion as bundles, converted once for all tests of a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.generator import Generator


@functools.cache
def golden_bundle(golden: Path, model: str) -> Bundle:
    """Returns the bundle of a golden model, "sd1" or "sd2"."""
    with tempfile.TemporaryDirectory() as folder:
        convert(golden / f"heads/sd/{model}_small_diffusers").write(Path(folder) / model)
        return Bundle.open(Path(folder) / model)


@functools.cache
def golden_generator(golden: Path, model: str) -> Generator:
    """Returns the generator of a golden model."""
    return Generator.load(golden_bundle(golden, model))


def data_of(golden: Path, model: str) -> dict[str, np.ndarray]:
    """Returns what the original program computes with a golden model."""
    with np.load(golden / f"heads/sd/{model}.npz") as data:
        return dict(data)
