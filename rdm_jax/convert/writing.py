"""Writes bundles in the formats of other programs, each tensor unchanged."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.bundle import PARTS_OF, TOKENIZER, Bundle, locate, read_config
from rdm_jax.convert import clip, compvis, compvis_config, diffusers
from rdm_jax.convert.converted import RAW
from rdm_jax.convert.mapping import Foreign, disassemble
from rdm_jax.convert.safetensors_file import SafetensorsFile, write_safetensors
from rdm_jax.convert.torch_file import write_state_dict
from rdm_jax.core import files, stored_arrays
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.diffusion import experts
from rdm_jax.models import build_autoencoder, build_denoiser


def write_back(bundle: str | Path, to: str, out: Path, progress: StageProgressCallback | None = None) -> list[Path]:
    """Writes a bundle for another program atomically, and returns the files.

    Args:
      bundle: a name, a folder or an address.
      to: the program, a name in `WRITERS`.
      out: a folder that does not exist yet.
      progress: called with (description, bytes done, bytes in all).

    Raises:
      UserError: there is no such bundle or program, the program has no such networks, or `out` cannot be written.
    """
    if to not in WRITERS:
        raise unknown("target", to, WRITERS)
    path = locate(bundle)
    config = read_config(path)
    kind = config.get("denoiser", {}).get("kind", "unet")
    if kind != "unet":
        raise UserError(f"{path} has a {kind} as its denoiser, and {to} can only be given a model with a unet")
    stage = config.get("autoencoder", {}).get("kind", "kl")
    if stage not in ("kl", "vq"):
        raise UserError(f"{path} has a {stage} as its first stage, and {to} can only be given one of kind kl or vq")
    taken = config.get("conditioning", {}).get("input")
    if taken is not None:
        raise UserError(
            f"{path} is conditioned on an input, {taken!r}, and such a model cannot be written for {to}; use the files "
            "that it was converted from"
        )
    if experts.SECTION in config.get("diffusion", {}):
        raise UserError(
            f"{path} has experts for ranges of noise, and {to} has none; give one of the models it is made of"
        )
    if "text_encoder" in config:
        raise UserError(
            f"{path} reads prompts by a text encoder, and such a model cannot be written for {to}; use the files that "
            "it was converted from"
        )
    with files.writing(out), files.new_directory(out) as folder, _complete(path, config) as source:
        WRITERS[to](source, config, folder, progress or (lambda *_: None))
        return [out / file.name for file in sorted(folder.iterdir())]


@contextlib.contextmanager
def _complete(path: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Yields a bundle in which every tensor is stored as it is: a copy where some are in int8 or in another bundle."""
    denoiser = path / "denoiser.safetensors"
    in_int8 = denoiser.is_file() and stored_arrays.in_int8(SafetensorsFile(denoiser))
    if PARTS_OF not in config and not in_int8:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        Bundle.open(path).save(Path(folder) / "model")
        yield Path(folder) / "model"


def _compvis(path: Path, config: Mapping[str, Any], folder: Path, progress: StageProgressCallback) -> None:
    """Writes model.ckpt and config.yaml.

    The original programs have raw weights and EMA. A bundle with one of them gives it to both.
    """
    if "autoencoder" not in config:
        raise UserError(
            f"{path} has no autoencoder, and CompVis's programs need one; give a complete model or a first stage"
        )
    (folder / "config.yaml").write_text(compvis_config.to_yaml(config), encoding="utf-8")
    prefix = compvis.FIRST_STAGE_PREFIX if "denoiser" in config else ""
    tensors: dict[str, Foreign] = {}
    if "denoiser" in config:
        unet = build_denoiser(config["denoiser"])
        average = _part(path, "denoiser")
        raw = _part(path, RAW) if (path / f"{RAW}.safetensors").is_file() else average
        tensors |= disassemble(raw, compvis.unet_source(unet)) | disassemble(
            average, compvis.unet_source(unet, ema=True)
        )
    tensors |= disassemble(_part(path, "autoencoder"), lambda name: compvis.autoencoder_source(name, prefix))
    write_state_dict(folder / "model.ckpt", tensors, lambda *at: progress("writing model.ckpt", *at))


def _part(path: Path, part: str) -> Mapping[str, np.ndarray]:
    return SafetensorsFile(path / f"{part}.safetensors")


def _diffusers(path: Path, config: Mapping[str, Any], folder: Path, progress: StageProgressCallback) -> None:
    """Writes the folders unet, vae and scheduler of a pipeline, clip and tokenizer if the bundle has them."""
    lacking = [part for part in ("denoiser", "autoencoder") if part not in config]
    if lacking:
        raise UserError(f"{path} has no {' and no '.join(lacking)}, and a pipeline needs them; give a complete model")
    latents, side = config["latents"], config["sampling"]["height"]
    if any(latents.get("shift", [])):
        raise UserError("diffusers' pipeline has latents with a scale alone; this model's are shifted")
    unet, autoencoder = build_denoiser(config["denoiser"]), build_autoencoder(config["autoencoder"])
    parts = {
        "unet": (
            "diffusion_pytorch_model",
            diffusers.to_unet_config(config["denoiser"], side // autoencoder.downsampling),
            disassemble(_part(path, "denoiser"), diffusers.unet_source(unet)),
        ),
        "vae": (
            "diffusion_pytorch_model",
            diffusers.to_vae_config(config["autoencoder"], latents["scale"], side),
            disassemble(_part(path, "autoencoder"), diffusers.vae_source(autoencoder)),
        ),
    }
    if "clip" in config:
        towers = disassemble(_part(path, "clip"), clip.hugging_face_source)
        parts["clip"] = "model", clip.to_hugging_face(config["clip"]), towers
    index = {"_class_name": "RDMPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {part: _CLASSES[part] for part in parts}
    for part, (name, settings, tensors) in parts.items():
        (folder / part).mkdir()
        files.write_json(folder / part / "config.json", settings)
        write_safetensors(
            folder / part / f"{name}.safetensors", tensors, lambda *at, part=part: progress(f"writing {part}", *at)
        )
    (folder / "scheduler").mkdir()
    files.write_json(folder / "scheduler/scheduler_config.json", diffusers.to_scheduler_config(config["diffusion"]))
    if (path / TOKENIZER).is_file():
        (folder / "tokenizer").mkdir()
        shutil.copyfile(path / TOKENIZER, folder / "tokenizer" / TOKENIZER)
    files.write_json(folder / "model_index.json", index)


_CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "clip": ["transformers", "CLIPModel"],
}

WRITERS: Mapping[str, Callable[[Path, Mapping[str, Any], Path, StageProgressCallback], None]] = {
    "compvis": _compvis,
    "diffusers": _diffusers,
}
"""The programs that bundles can be written for."""
