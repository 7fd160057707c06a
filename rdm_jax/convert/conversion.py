"""Converts foreign files to a model bundle: recognizes a source by its content, and streams its tensors."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdm_jax import __version__
from rdm_jax.bundle import SCHEMA, TOKENIZER, encoder_identity, file_of, read_config, tokenizer_bytes
from rdm_jax.convert import clip, compvis, compvis_config, diffusers, dit, metrics, patch_transformers, rarm, uvit
from rdm_jax.convert.mapping import Parameter, built, number_of
from rdm_jax.convert.safetensors_file import SafetensorsFile, write_safetensors
from rdm_jax.convert.settings import Settings
from rdm_jax.convert.tokenizer import read_tokenizer
from rdm_jax.convert.weights import read_tensors, weights_of
from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError, some, unknown
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.diffusion.schedule import build_schedule
from rdm_jax.models import build_autoencoder, build_clip, build_denoiser, build_transformer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MANIFEST = "manifest.json"
WEIGHTS = ("ema", "raw", "both")
RAW = "denoiser_raw"  # the weights without EMA; not a part of the bundle, but the start of further training
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_PIXELS = {"image_mean": OPENAI_MEAN, "image_std": OPENAI_STD}

_PIPELINE = {"unet": "config.json", "vae": "config.json", "scheduler": "scheduler_config.json"}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The content of a bundle to be written; no tensor is read yet.

    Attributes:
      kind: the format of the source.
      config: of the bundle.
      parts: {part: {path: how its parameter is assembled}}, or the file of a part that is copied from a bundle.
      sources: the files to read.
      tokenizer: of the text tower, if it has one.
    """

    kind: str
    config: dict[str, Any]
    parts: dict[str, dict[str, Parameter] | Path]
    sources: tuple[Path, ...]
    tokenizer: PreTrainedTokenizerFast | None = None

    def write(self, out: Path, progress: StageProgressCallback | None = None) -> None:
        """Writes the bundle atomically; tensors keep their stored types.

        Args:
          out: a folder that does not exist yet.
          progress: called with (description, bytes done, bytes in all).

        Raises:
          UserError: `out` exists or cannot be written, the disk is full, or a tensor holds numbers that are not finite.
        """
        with files.writing(out), files.new_directory(out) as folder:
            self._write(folder, progress or (lambda *_: None))

    @property
    def sizes(self) -> dict[str, int]:
        """The number of parameters of each part."""
        return {
            part: sum(
                math.prod(one.shape)
                for one in (SafetensorsFile(content) if isinstance(content, Path) else content).values()
            )
            for part, content in self.parts.items()
        }

    @property
    def conditioned(self) -> tuple[str, ...]:
        """The parts that take context tokens, a CLIP's vectors."""
        return tuple(part for part in self.parts if self.config.get(part, {}).get("context_dim"))

    def _write(self, folder: Path, progress: StageProgressCallback) -> None:
        hashes: dict[str, str] = {}
        for part, recipes in self.parts.items():
            target = folder / f"{part}.safetensors"
            if isinstance(recipes, Path):  # byte for byte: databases identify an encoder by the hash of its file
                shutil.copyfile(recipes, target)
            else:
                write_safetensors(target, recipes, lambda *at, part=part: progress(f"writing {part}", *at))
            hashes[part] = files.sha256(target)
        if self.tokenizer is not None:
            files.write_bytes(folder / TOKENIZER, tokenizer_bytes(self.tokenizer))
            hashes["tokenizer"] = files.sha256(folder / TOKENIZER)
        sources = {f"{path.parent.name}/{path.name}": files.sha256(path) for path in self.sources}
        files.write_json(folder / "config.json", {**self.config, "schema": SCHEMA, "sha256": hashes})
        files.write_json(
            folder / MANIFEST, {"kind": self.kind, "rdm_jax": __version__, "sources": sources, "parts": hashes}
        )


def convert(
    source: Path,
    *,
    config: Path | None = None,
    weights: str | None = None,
    clip_source: Path | None = None,
    tokenizer: Path | None = None,
    vgg: Path | None = None,
    allowed: frozenset[str] = frozenset(),
) -> Conversion:
    """Returns how a source is converted to a bundle; its content decides its format.

    Args:
      source: a CompVis checkpoint, RARM or first stage, a diffusers folder, a DiT or U-ViT, a CLIP in the layout of
        OpenAI (TorchScript too) or Hugging Face, LPIPS, or the Inception-v3 of the Fréchet distance.
      config: the yaml of a CompVis model, by default the one in its folder, of its name or the only one; or the .json
        of the constructor's arguments of a DiT or U-ViT, by default the one in its folder of its name, if any.
      weights: of a checkpoint: "ema" (the default), "raw", or "both" (the raw ones in addition).
      clip_source: a CLIP to add to the model: a source of one, or a bundle with one.
      tokenizer: the CLIP's tokenizer: tokenizer.json, a folder with one, or OpenAI's merges file.
      vgg: torchvision's VGG-16, for a file of LPIPS without it.
      allowed: names of tensors that may be missing (their parameters are zeros) or unused.

    Raises:
      UserError: the format is unknown, the source is damaged, names are missing or unexpected, or parts do not fit.
    """
    if weights not in (None, *WEIGHTS):
        raise unknown("weights", str(weights), WEIGHTS)
    conversion = _convert_one(source, config, weights or "ema", tokenizer, allowed, vgg)
    if clip_source is not None:
        if "clip" in conversion.parts:
            raise UserError(f"{source} has a CLIP itself; omit --clip")
        conversion = _joined(conversion, _convert_one(clip_source, None, "ema", tokenizer, allowed))
    unused = {
        "--config": config and not conversion.kind.startswith(("CompVis", dit.KIND, uvit.KIND)),
        "--weights": weights and conversion.kind != "CompVis checkpoint",
        "--tokenizer": tokenizer and "clip" not in conversion.parts,
        "--vgg": vgg and "lpips" not in conversion.parts,
    }
    for option in (option for option, wrong in unused.items() if wrong):
        raise UserError(f"{option} does not apply to {source} ({conversion.kind}); omit it")
    return conversion


def _convert_one(
    source: Path,
    config: Path | None,
    weights: str,
    tokenizer: Path | None,
    allowed: frozenset[str],
    vgg: Path | None = None,
) -> Conversion:
    if (source / "model_index.json").is_file():
        return _pipeline(source, tokenizer, allowed)
    if source.is_dir():
        return _hugging_face_clip(source, tokenizer, allowed)
    state = read_tensors(source)
    if clip.is_openai_layout(state):
        return _openai_clip(source, state, tokenizer, allowed)
    if compvis.is_checkpoint(state):
        return _checkpoint(source, state, config, weights, allowed)
    if rarm.is_rarm(state):
        return _rarm(source, state, config, allowed)
    for release in (dit, uvit):
        if release.is_this(state):
            return _patch_transformer(source, state, config, allowed, release)
    if compvis.is_first_stage(state):
        return _first_stage(source, state, config, allowed)
    if metrics.is_lpips(state):
        return _lpips(source, state, vgg, allowed)
    if metrics.is_inception(state):
        part = metrics.inception_plan(state, allowed)
        settings = {"name": source.stem, "inception": metrics.inception_config(state)}
        return Conversion("Inception-v3", settings, {"inception": part}, (source,))
    if metrics.is_vgg(state):
        raise UserError(f"{source} is a VGG-16 alone; give LPIPS's weights, and this file by --vgg")
    first = ", ".join(sorted(state)[:3])
    raise UserError(
        f"{source} holds {len(state)} tensors ({first} ...) of no known model; known are CompVis checkpoints, RARM and "
        "first stages, folders of diffusers, DiT, U-ViT, the CLIPs of OpenAI and Hugging Face, LPIPS and Inception-v3"
    )


def _checkpoint(
    source: Path, state: Mapping[str, np.ndarray], config: Path | None, weights: str, allowed: frozenset[str]
) -> Conversion:
    unexpected = set(compvis.unexpected_names(state)) - allowed
    if unexpected:
        raise UserError(f"the checkpoint holds {len(unexpected)} unexpected names: {some(sorted(unexpected))}")
    if weights != "raw" and not any(name.startswith(compvis.EMA_PREFIX) for name in state):
        raise UserError(f"{source} holds no moving average of its weights (model_ema.); give --weights raw")
    file = _yaml_of(source, config)
    params = compvis_config.read_yaml(file)
    stage = compvis_config.autoencoder_config(params)
    autoencoder = built("autoencoder", build_autoencoder, stage)
    retrieval_only = stage["kind"] == "vq" or compvis.GUIDANCE_VECTOR in state
    settings = compvis_config.latent_diffusion_config(params, autoencoder.downsampling, retrieval_only)
    if stage["kind"] == "vq":
        settings["latents"] |= {"quantize": True}
    if "scale_factor" in state:
        settings["latents"] |= {"scale": number_of(state, "scale_factor")}
    build_schedule(settings["diffusion"])  # raises UserError if there is none of these numbers
    unet = built("U-Net", build_denoiser, settings["denoiser"])
    parts: dict[str, dict[str, Parameter] | Path] = {
        "denoiser": compvis.unet_plan(state, unet, ema=weights != "raw", allowed=allowed)
    }
    if weights == "both":
        parts[RAW] = compvis.unet_plan(state, unet, allowed=allowed)
    parts["autoencoder"] = compvis.autoencoder_plan(state, autoencoder, allowed=allowed)
    named = {"name": source.stem, **settings, "autoencoder": stage, "weights": weights}
    return Conversion("CompVis checkpoint", named, parts, (source, file))


def _rarm(source: Path, state: Mapping[str, np.ndarray], config: Path | None, allowed: frozenset[str]) -> Conversion:
    """Returns the parts of an autoregressive model: transformer and autoencoder."""
    unexpected = set(rarm.unexpected_names(state)) - allowed
    if unexpected:
        raise UserError(f"the checkpoint holds {len(unexpected)} unexpected names: {some(sorted(unexpected))}")
    file = _yaml_of(source, config)
    params = compvis_config.read_yaml(file)
    stage, settings = rarm.first_stage_config(state, params), rarm.transformer_config(state, params)
    parts: dict[str, dict[str, Parameter] | Path] = {
        "transformer": rarm.transformer_plan(state, built("transformer", build_transformer, settings), allowed),
        "autoencoder": compvis.autoencoder_plan(state, built("autoencoder", build_autoencoder, stage), allowed=allowed),
    }
    conventions = rarm.conventions(settings, stage)
    named = {"name": source.stem, "transformer": settings, "autoencoder": stage, **conventions}
    return Conversion("CompVis RARM checkpoint", named, parts, (source, file))


def _patch_transformer(
    source: Path, state: Mapping[str, np.ndarray], config: Path | None, allowed: frozenset[str], release: Any
) -> Conversion:
    """Returns the denoiser of a DiT or a U-ViT; `release` is its module in `rdm_jax.convert`."""
    file, arguments = patch_transformers.read_arguments(source, config)
    settings = release.config(state, arguments)
    parts: dict[str, dict[str, Parameter] | Path] = {"denoiser": release.recipes(state, settings, allowed)}
    named = {"name": source.stem, "head": "diffusion", "denoiser": settings, **release.conventions(settings)}
    return Conversion(release.KIND, named, parts, (source,) if file is None else (source, file))


def _first_stage(
    source: Path, state: Mapping[str, np.ndarray], config: Path | None, allowed: frozenset[str]
) -> Conversion:
    file = _yaml_of(source, config)
    stage = compvis_config.autoencoder_config(compvis_config.read_yaml(file))
    autoencoder = built("autoencoder", build_autoencoder, stage)
    recipes = compvis.autoencoder_plan(state, autoencoder, prefix="", allowed=allowed)
    named = {"name": source.stem, "autoencoder": stage}
    return Conversion("CompVis first stage", named, {"autoencoder": recipes}, (source, file))


def _pipeline(source: Path, tokenizer: Path | None, allowed: frozenset[str]) -> Conversion:
    """Returns the parts of a diffusers folder: unet, vae, scheduler, and clip if there is one."""
    settings = {part: _settings(source / part / file) for part, file in _PIPELINE.items()}
    unet_settings = diffusers.unet_config(settings["unet"])
    stage = diffusers.vae_config(settings["vae"])
    unet = built("U-Net", build_denoiser, unet_settings)
    autoencoder = built("autoencoder", build_autoencoder, stage)
    (unet_state, unet_files), (vae_state, vae_files) = (weights_of(source / part) for part in ("unet", "vae"))
    parts: dict[str, dict[str, Parameter] | Path] = {
        "denoiser": diffusers.unet_plan(unet_state, unet, allowed),
        "autoencoder": diffusers.vae_plan(vae_state, autoencoder, allowed),
    }
    side = diffusers.latent_side(settings["unet"]) * autoencoder.downsampling
    config = {
        "name": source.name,
        "head": "diffusion",
        "denoiser": unet_settings,
        "autoencoder": stage,
        "diffusion": diffusers.diffusion_config(settings["scheduler"]),
        "latents": diffusers.latents_config(settings["vae"]),
        **compvis_config.conventions(side, retrieval_only=False),
    }
    build_schedule(config["diffusion"])  # raises UserError if there is none of these numbers
    conversion = Conversion("diffusers pipeline", config, parts, (source / "model_index.json", *unet_files, *vae_files))
    if not (source / "clip").is_dir():
        return conversion
    own = source / "tokenizer"
    return _joined(
        conversion, _hugging_face_clip(source / "clip", tokenizer or (own if own.is_dir() else None), allowed)
    )


def _lpips(source: Path, state: Mapping[str, np.ndarray], vgg: Path | None, allowed: frozenset[str]) -> Conversion:
    recipes = metrics.lpips_plan(state, None if vgg is None else read_tensors(vgg), allowed)
    sources = (source,) if vgg is None else (source, vgg)
    return Conversion("LPIPS", {"name": "lpips", "lpips": {}}, {"lpips": recipes}, sources)


def _openai_clip(
    source: Path, state: Mapping[str, np.ndarray], tokenizer: Path | None, allowed: frozenset[str]
) -> Conversion:
    settings = clip.config_from_openai(state)
    recipes = clip.clip_plan(state, built("CLIP", build_clip, settings), allowed)
    return _clip("OpenAI CLIP", source.stem, settings, recipes, (source,), tokenizer)


def _hugging_face_clip(source: Path, tokenizer: Path | None, allowed: frozenset[str]) -> Conversion:
    description = _read_json(source / "config.json")
    if description is None:
        raise UserError(f"{source} has no config.json; give a Hugging Face CLIP's folder or a file of weights")
    if "sha256" in description and "schema" in description:
        return _bundle_clip(source, tokenizer)
    settings = clip.config_from_hugging_face(description)
    state, weights = weights_of(source)
    recipes = clip.clip_plan(state, built("CLIP", build_clip, settings), allowed)
    if any((source / name).is_file() for name in (TOKENIZER, "vocab.json")):
        tokenizer = tokenizer or source
    pixels = Settings("preprocessor_config.json", _read_json(source / "preprocessor_config.json") or {}, _PIXELS)
    settings |= {"mean": pixels.numbers("image_mean", 3), "std": pixels.numbers("image_std", 3)}
    return _clip("Hugging Face CLIP", source.name, settings, recipes, (*weights, source / "config.json"), tokenizer)


def _bundle_clip(source: Path, tokenizer: Path | None) -> Conversion:
    """Returns the CLIP of a bundle, which is copied."""
    identity, config = encoder_identity(source), read_config(source)
    file = file_of(source, "clip.safetensors", config)
    if not file.is_file() or files.sha256(file) != identity["sha256"]:
        raise UserError(f"damaged bundle {source}: {file.name} is not the one that config.json names; copy it again")
    conversion = _clip("bundle", identity["name"], config["clip"], file, (file,), tokenizer)
    own = file_of(source, TOKENIZER, config)
    if tokenizer or not own.is_file():
        return conversion
    return dataclasses.replace(conversion, tokenizer=read_tokenizer(own.parent))


def _clip(
    kind: str,
    name: str,
    settings: dict[str, Any],
    recipes: dict[str, Parameter] | Path,
    sources: tuple[Path, ...],
    tokenizer: Path | None,
) -> Conversion:
    opened = read_tokenizer(tokenizer) if tokenizer else None
    size = settings["text"]["vocab_size"]
    if opened is not None and len(opened) != size:
        raise UserError(
            f"the tokenizer {tokenizer} has {len(opened)} tokens and the text tower {size}; give its own one"
        )
    pixels = {"mean": list(OPENAI_MEAN), "std": list(OPENAI_STD)}
    return Conversion(kind, {"name": name, "clip": {**pixels, **settings}}, {"clip": recipes}, sources, opened)


def _joined(model: Conversion, tower: Conversion) -> Conversion:
    if "clip" not in tower.parts:
        raise UserError(f"{tower.sources[0]} is a {tower.kind} and no CLIP; give --clip a CLIP")
    width = tower.config["clip"]["embed_dim"]
    conditioned = model.conditioned
    if "denoiser" in model.parts and not conditioned:
        raise UserError(
            f"the {model.kind} takes no context tokens: it is not conditioned on text or neighbors and cannot use a "
            "CLIP; omit --clip"
        )
    wrong = [part for part in conditioned if model.config[part]["context_dim"] != width]
    if wrong:
        raise UserError(
            f"the CLIP's vectors have length {width}, and the {wrong[0]} takes "
            f"{model.config[wrong[0]]['context_dim']}; give the CLIP that the model was trained with"
        )
    return Conversion(
        model.kind,
        {**model.config, "clip": tower.config["clip"]},
        {**tower.parts, **model.parts},
        (*model.sources, *tower.sources),
        tower.tokenizer,
    )


def _yaml_of(source: Path, config: Path | None) -> Path:
    if config is not None:
        return config
    candidates = sorted(source.parent.glob("*.yaml"))
    named = [path for path in candidates if path.stem in (source.stem, "config", "project")]
    chosen = named[:1] or (candidates if len(candidates) == 1 else [])
    if not chosen:
        raise UserError(f"{source} needs the yaml that came with it; give it by --config")
    return chosen[0]


def _settings(file: Path) -> dict[str, Any]:
    settings = _read_json(file)
    if settings is None:
        raise UserError(f"{file} is missing; download the pipeline again")
    return settings


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        content = text.read_json(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no settings; download it again")
    return content
