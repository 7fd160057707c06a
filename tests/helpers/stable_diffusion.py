"""The golden models of Stable Diffusion as bundles, converted once for all tests of a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.generator import Generator
from tests.helpers import tiny

SIZE = {"height": 16, "width": 16, "batch_size": 1}


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


def tower(width: int, patch_width: int = 16, vocab_size: int = 531) -> Bundle:
    """Returns a tiny CLIP with vectors of a width, patches of another, and by default the golden models' vocabulary."""
    text = {**tiny.CONFIG["clip"]["text"], "vocab_size": vocab_size, "context_length": 77, "eos_id": vocab_size - 1}
    vision = {**tiny.CONFIG["clip"]["vision"], "width": patch_width, "layers": 2}
    config = {"name": "tower", "clip": {**tiny.CONFIG["clip"], "embed_dim": width, "text": text, "vision": vision}}
    return Bundle(config, {"clip": tiny.random_params(config, "clip")})


@functools.cache
def adapted_bundle(golden: Path, kind: str = "ip") -> Bundle:
    """Returns the golden model "sd1" with a golden IP-Adapter, "ip" or "plus", and a tiny CLIP."""
    with tempfile.TemporaryDirectory() as folder:
        tower(24, 32).save(Path(folder) / "tower", "float32")
        model = golden / "heads/sd/sd1_small_diffusers"
        adapter = golden / f"heads/ip_adapter/{kind}_adapter_small.bin"
        convert(model, adapter=adapter, clip_source=Path(folder) / "tower").write(Path(folder) / "model")
        return Bundle.open(Path(folder) / "model")


def run(
    generator: Generator, prompt: str, folder: Path, x_T: np.ndarray, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last latents and the image of a run from given noise [c, h, w], both as the originals have them."""
    np.save(folder / "noise.npy", x_T.transpose(1, 2, 0)[None])
    plan = generator.plan(prompt, init=str(folder / "noise.npy"), **SIZE, **options)
    program = generator._program(plan, 1)
    state = program.start(plan, generator.bundle.params, np.zeros(1, np.int64), np.zeros(1, np.int64))
    while state.done < state.total:
        state = program.advance(state)
    return np.asarray(state.carry.x)[0].transpose(2, 0, 1), program.finish(state)[0].transpose(2, 0, 1)
