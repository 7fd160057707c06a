"""A folder of diffusers: U-Net, autoencoder and scheduler, with a CLIP or a text encoder; or of aMUSEd or Karlo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdm_jax.convert import amused, compvis_config, diffusers, karlo, stable_diffusion, text_encoder
from rdm_jax.convert.clip_sources import hugging_face_clip
from rdm_jax.convert.converted import Conversion, with_clip
from rdm_jax.convert.mapping import Parameter, built
from rdm_jax.convert.settings import require_settings
from rdm_jax.convert.tokenizer import padding_of, tokenizer_of
from rdm_jax.convert.weights import weights_of
from rdm_jax.diffusion.schedule import build_schedule
from rdm_jax.models import build_autoencoder, build_denoiser, build_text_encoder
from rdm_jax.parts import without_padding

_FILES = {"unet": "config.json", "vae": "config.json", "scheduler": "scheduler_config.json"}


def pipeline(source: Path, tokenizer: Path | None, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of a folder of diffusers: unet, vae, scheduler, and a clip or a text_encoder if any.

    The folders of an aMUSEd and of a Karlo have other parts (`convert.amused`, `convert.karlo`).

    Raises:
      UserError: it is a pipeline of another program, a file is missing or damaged, or names or shapes do not fit.
    """
    name = str(require_settings(source / "model_index.json").get("_class_name", ""))
    if name.startswith(amused.PIPELINES):
        return amused.pipeline(source, tokenizer, allowed)
    if name == karlo.PIPELINE:
        return karlo.pipeline(source, tokenizer, allowed)
    karlo.check_pipeline(name, source)
    stable_diffusion.check_pipeline(name, source)
    settings = {part: require_settings(source / part / file) for part, file in _FILES.items()}
    conversion = _latent_diffusion(source, settings, allowed)
    own = source / "tokenizer"
    vocabulary = tokenizer or (own if own.is_dir() else None)
    if (source / "text_encoder").is_dir():
        return _with_text_encoder(conversion, source, vocabulary, allowed)
    if not (source / "clip").is_dir():
        return conversion
    return with_clip(conversion, hugging_face_clip(source / "clip", vocabulary, allowed))


def _latent_diffusion(source: Path, settings: Mapping[str, Any], allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of the U-Net, the autoencoder and the schedule."""
    stage = diffusers.vae_config(settings["vae"])
    unet_settings = diffusers.unet_config(settings["unet"])
    unet_settings = compvis_config.with_condition_channels(unet_settings, stage["embed_dim"])
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
    return Conversion("diffusers pipeline", config, parts, (source / "model_index.json", *unet_files, *vae_files))


def _with_text_encoder(model: Conversion, source: Path, vocabulary: Path | None, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion with the text encoder of a folder, and the defaults of a model that has one."""
    description = require_settings(source / "text_encoder" / "config.json")
    state, files = weights_of(source / "text_encoder")
    tokenizer = tokenizer_of(vocabulary, int(description.get("vocab_size", 0)) or text_encoder.VOCABULARY)
    padding = None if tokenizer is None or vocabulary is None else padding_of(vocabulary, tokenizer)
    settings = text_encoder.config_from_hugging_face(description, padding)
    network = built("text encoder", build_text_encoder, without_padding(settings))
    parts = {**model.parts, "text_encoder": text_encoder.plan_of_folder(state, network, allowed)}
    side, config = model.config["sampling"]["height"], model.config
    defaults = stable_diffusion.conventions(config["denoiser"], config["diffusion"]["prediction"], side)
    return Conversion(
        model.kind,
        {**config, **defaults, "text_encoder": settings},
        parts,
        (*model.sources, *files),
        tokenizer,
    )
