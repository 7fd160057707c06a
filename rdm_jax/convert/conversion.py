"""Converts foreign files to a model bundle: recognizes a source by its content, and streams its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert import (
    clip,
    compvis,
    compvis_config,
    dit,
    frido,
    input_encoders,
    ip_adapter,
    karlo,
    latent_tasks,
    metrics,
    patch_transformers,
    pixel_models,
    rarm,
    sit,
    stable_diffusion,
    text_encoder,
    time_mix,
    uvit,
    vit_vq,
)
from rdm_jax.convert.clip_sources import hugging_face_clip, openai_clip
from rdm_jax.convert.converted import RAW, Conversion, with_adapter, with_clip
from rdm_jax.convert.mapping import Parameter, built, number_of
from rdm_jax.convert.pipeline import pipeline
from rdm_jax.convert.tokenizer import tokenizer_of
from rdm_jax.convert.weights import read_tensors
from rdm_jax.core.errors import UserError, some, unknown
from rdm_jax.diffusion.schedule import build_schedule
from rdm_jax.models import (
    build_autoencoder,
    build_denoiser,
    build_input_encoder,
    build_text_encoder,
    build_transformer,
)
from rdm_jax.parts import without_padding

WEIGHTS = ("ema", "raw", "both")
ENCODERS = {
    "text_encoder": (build_text_encoder, "text encoder", "tokens"),
    "input_encoder": (build_input_encoder, "input encoder", ""),
}
"""By the part of a task's encoder: what builds it, its name in errors, and the kind of its tensors, if it is one."""


def convert(
    source: Path,
    *,
    config: Path | None = None,
    weights: str | None = None,
    clip_source: Path | None = None,
    tokenizer: Path | None = None,
    vgg: Path | None = None,
    prediction: str | None = None,
    interpolant: str | None = None,
    adapter: Path | None = None,
    classifier: Path | None = None,
    noised_clip: tuple[Path, Path] | None = None,
    noised_tokenizer: Path | None = None,
    allowed: frozenset[str] = frozenset(),
) -> Conversion:
    """Returns how a source is converted to a bundle; its content decides its format.

    Args:
      source: a checkpoint of CompVis, Stability AI or Frido, a RARM, first stage or ViT-VQGAN, a diffusers folder, a
        DiT, SiT or U-ViT, an ADM or GLIDE, a CLIP in the layout of OpenAI (TorchScript too) or Hugging Face, LPIPS, or
        the Inception-v3 of the Fréchet distance.
      config: the yaml of a CompVis model, by default the one in its folder, of its name or the only one; Stable
        Diffusion needs none. Or the .json of the constructor's arguments of a DiT, SiT or U-ViT, or of the flags of
        an ADM or GLIDE, by default the one in its folder of its name, if any.
      weights: of a checkpoint: "ema", "raw", or "both" (the raw ones in addition); by default those that its program
        samples with, by its yaml.
      clip_source: a CLIP to add to the model: a source of one, or a bundle with one.
      tokenizer: the CLIP's tokenizer: tokenizer.json, a folder with one, or OpenAI's merges file.
      prediction: of Stable Diffusion 2 without its yaml: "eps" or "v".
      interpolant: the path of a SiT, a name in `sit.PATHS`; by default "linear" for a file whose name begins with
        "SiT", and a DiT otherwise.
      adapter: an IP-Adapter to add to the model, which then takes neighbors; it needs `clip_source`.
      classifier: a classifier of noisy images to add to a model of pixels.
      noised_clip: the image and the text encoder of a CLIP of noisy images to add to a model of pixels.
      noised_tokenizer: of the latter.
      vgg: torchvision's VGG-16, for a file of LPIPS without it.
      allowed: names of tensors that may be missing (their parameters are zeros) or unused.

    Raises:
      UserError: the format is unknown, the source is damaged, names are missing or unexpected, or parts do not fit.
    """
    if weights not in (None, *WEIGHTS):
        raise unknown("weights", str(weights), WEIGHTS)
    conversion = _convert_one(source, config, weights, tokenizer, allowed, vgg, prediction, interpolant)
    if clip_source is not None:
        if "clip" in conversion.parts:
            raise UserError(f"{source} has a CLIP itself; omit --clip")
        conversion = with_clip(conversion, _convert_one(clip_source, None, None, tokenizer, allowed))
    if adapter is not None:
        conversion = with_adapter(conversion, adapter, allowed)
    if classifier is not None:
        conversion = pixel_models.with_classifier(conversion, classifier, allowed)
    if noised_clip is not None:
        conversion = pixel_models.with_noised_clip(conversion, noised_clip, noised_tokenizer, allowed)
    takes_config = (
        "CompVis",
        frido.KIND,
        stable_diffusion.KIND,
        dit.KIND,
        sit.KIND,
        uvit.KIND,
        time_mix.KIND,
        vit_vq.KIND,
        *pixel_models.KINDS,
    )
    unused = {
        "--config": config and not conversion.kind.startswith(takes_config),
        "--weights": weights and conversion.kind not in ("CompVis checkpoint", frido.KIND, stable_diffusion.KIND),
        "--tokenizer": tokenizer and not {"clip", "text_encoder"} & set(conversion.parts),
        "--prediction": prediction and conversion.kind != stable_diffusion.KIND,
        "--interpolant": interpolant and conversion.kind != sit.KIND,
        "--vgg": vgg and "lpips" not in conversion.parts,
        "--noised-tokenizer": noised_tokenizer and noised_clip is None,
    }
    for option in (option for option, wrong in unused.items() if wrong):
        raise UserError(f"{option} does not apply to {source} ({conversion.kind}); omit it")
    return conversion


def _convert_one(
    source: Path,
    config: Path | None,
    weights: str | None,
    tokenizer: Path | None,
    allowed: frozenset[str],
    vgg: Path | None = None,
    prediction: str | None = None,
    interpolant: str | None = None,
) -> Conversion:
    if (source / "model_index.json").is_file():
        return pipeline(source, tokenizer, allowed)
    if karlo.is_upsampler(source):
        return karlo.upsampler(source, allowed)
    if source.is_dir():
        return hugging_face_clip(source, tokenizer, allowed)
    state = read_tensors(source)
    if pixel_models.is_this(state):
        return pixel_models.convert_pixels(source, state, config, tokenizer, allowed)
    pixel_models.refuse_half(source, state)
    if clip.is_openai_layout(state):
        return openai_clip(source, state, tokenizer, allowed)
    if frido.is_this(state):
        return frido.convert_frido(source, state, _yaml_of(source, config), weights, tokenizer, allowed)
    stable_diffusion.check_supported(state, source)
    if compvis.is_checkpoint(state) and text_encoder.is_text_conditioned(state):
        return _text_checkpoint(source, state, config, weights, tokenizer, allowed, prediction)
    if compvis.is_checkpoint(state):
        return _checkpoint(source, state, config, weights, tokenizer, allowed)
    if rarm.is_rarm(state):
        return _rarm(source, state, config, allowed)
    for release in (dit, uvit):
        if release.is_this(state):
            path = sit.path_of(source, interpolant) if release is dit else None
            return _patch_transformer(source, state, config, allowed, release, path)
    if frido.is_first_stage(state):
        return frido.convert_first_stage(source, state, _yaml_of(source, config), allowed)
    if time_mix.is_this(state):
        return time_mix.convert_transformer(source, state, _yaml_of(source, config), allowed)
    if vit_vq.is_this(state):
        return vit_vq.convert_first_stage(source, state, _yaml_of(source, config), allowed)
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
    if ip_adapter.is_ip_adapter(state):
        raise UserError(
            f"{source} is an IP-Adapter; convert a Stable Diffusion with it: --ip-adapter {source} --clip CLIP"
        )
    first = ", ".join(sorted(state)[:3])
    raise UserError(
        f"{source} holds {len(state)} tensors ({first} ...) of no known model; known are CompVis checkpoints, Frido, "
        "RARM, first stages, ViT-VQGAN and its transformer, folders of diffusers, DiT, SiT, U-ViT, ADM, GLIDE, the "
        "CLIPs of OpenAI and Hugging Face, LPIPS and Inception-v3"
    )


def _checkpoint(
    source: Path,
    state: Mapping[str, np.ndarray],
    config: Path | None,
    weights: str | None,
    tokenizer: Path | None,
    allowed: frozenset[str],
) -> Conversion:
    """Returns the parts of a model of retrieval-augmented diffusion, or of one of latent diffusion's tasks."""
    file = _yaml_of(source, config)
    params = compvis_config.read_yaml(file)
    kl = compvis_config.autoencoder_config(params)["kind"] == "kl"
    task = latent_tasks.task_of(state, params, kl, compvis_config.names_celeba(file))
    others = () if task is None else (input_encoders.PREFIX,)
    parts, settings = _latent_diffusion(source, state, params, weights, allowed, *others)
    named = {"name": source.stem, **settings}
    if task is None:
        return Conversion("CompVis checkpoint", named, parts, (source, file))
    vocabulary = None
    if task.part:
        build, what, kind = ENCODERS[task.part]
        network = built(what, build, without_padding(task.encoder))
        parts[task.part] = input_encoders.encoder_plan(state, network, kind or task.encoder["kind"], what, allowed)
        named[task.part] = dict(task.encoder)
    if task.part == "text_encoder":
        vocabulary = tokenizer_of(tokenizer, task.encoder["vocab_size"])
    named |= task.conventions(settings)
    return Conversion("CompVis checkpoint", named, parts, (source, file), vocabulary)


def _text_checkpoint(
    source: Path,
    state: Mapping[str, np.ndarray],
    config: Path | None,
    weights: str | None,
    tokenizer: Path | None,
    allowed: frozenset[str],
    prediction: str | None,
) -> Conversion:
    """Returns the parts of a model that reads prompts as sequences; without its yaml, the shapes say what it is."""
    file = config if config is not None else _yaml_beside(source)
    if file is not None and prediction:
        raise UserError(f"--prediction does not apply to {source}: {file} says what it predicts; omit it")
    params = stable_diffusion.yaml_params(state, prediction) if file is None else compvis_config.read_yaml(file)
    parts, settings = _latent_diffusion(source, state, params, weights, allowed, text_encoder.PREFIX)
    encoder = text_encoder.config_from_checkpoint(state)
    network = built("text encoder", build_text_encoder, without_padding(encoder))
    parts["text_encoder"] = text_encoder.plan_of_checkpoint(state, network, allowed)
    side, denoiser = settings["sampling"]["height"], settings["denoiser"]
    settings |= stable_diffusion.conventions(denoiser, settings["diffusion"]["prediction"], side)
    sources = (source,) if file is None else (source, file)
    named = {"name": source.stem, **settings, "text_encoder": encoder}
    return Conversion(stable_diffusion.KIND, named, parts, sources, tokenizer_of(tokenizer, encoder["vocab_size"]))


def _latent_diffusion(
    source: Path,
    state: Mapping[str, np.ndarray],
    params: Mapping[str, Any],
    weights: str | None,
    allowed: frozenset[str],
    *others: str,
) -> tuple[dict[str, dict[str, Parameter] | Path], dict[str, Any]]:
    """Returns the parts and the settings of a U-Net and its first stage, by a yaml's "model.params".

    Names that begin with `others` belong to further networks.
    """
    unexpected = set(compvis.unexpected_names(state, *others)) - allowed
    if unexpected:
        raise UserError(f"the checkpoint holds {len(unexpected)} unexpected names: {some(sorted(unexpected))}")
    weights = weights or ("ema" if compvis_config.uses_average(params) else "raw")
    if weights != "raw" and not any(name.startswith(compvis.EMA_PREFIX) for name in state):
        raise UserError(f"{source} holds no moving average of its weights (model_ema.); give --weights raw")
    stage = compvis_config.autoencoder_config(params)
    autoencoder = built("autoencoder", build_autoencoder, stage)
    retrieval_only = stage["kind"] == "vq" or compvis.GUIDANCE_VECTOR in state
    settings = compvis_config.latent_diffusion_config(params, autoencoder.downsampling, retrieval_only)
    settings["denoiser"] = compvis_config.with_condition_channels(settings["denoiser"], stage["embed_dim"])
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
    return parts, {**settings, "autoencoder": stage, "weights": weights}


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
    source: Path,
    state: Mapping[str, np.ndarray],
    config: Path | None,
    allowed: frozenset[str],
    release: Any,
    path: str | None,
) -> Conversion:
    """Returns the denoiser of a DiT or a U-ViT, whose module is `release`, or of a SiT along a path."""
    file, arguments = patch_transformers.read_arguments(source, config)
    settings = release.config(state, arguments) if path is None else sit.config(state, arguments, path)
    parts: dict[str, dict[str, Parameter] | Path] = {"denoiser": release.recipes(state, settings, allowed)}
    kind = release if path is None else sit
    named = {"name": source.stem, "head": "diffusion", "denoiser": settings, **kind.conventions(settings)}
    parts |= {"autoencoder": {}} if "autoencoder" in named else {}  # of pixels, which has no parameters
    return Conversion(kind.KIND, named, parts, (source,) if file is None else (source, file))


def _first_stage(
    source: Path, state: Mapping[str, np.ndarray], config: Path | None, allowed: frozenset[str]
) -> Conversion:
    file = _yaml_of(source, config)
    stage = compvis_config.autoencoder_config(compvis_config.read_yaml(file))
    autoencoder = built("autoencoder", build_autoencoder, stage)
    recipes = compvis.autoencoder_plan(state, autoencoder, prefix="", allowed=allowed)
    named = {"name": source.stem, "autoencoder": stage}
    return Conversion("CompVis first stage", named, {"autoencoder": recipes}, (source, file))


def _lpips(source: Path, state: Mapping[str, np.ndarray], vgg: Path | None, allowed: frozenset[str]) -> Conversion:
    recipes = metrics.lpips_plan(state, None if vgg is None else read_tensors(vgg), allowed)
    sources = (source,) if vgg is None else (source, vgg)
    return Conversion("LPIPS", {"name": "lpips", "lpips": {}}, {"lpips": recipes}, sources)


def _yaml_of(source: Path, config: Path | None) -> Path:
    chosen = config if config is not None else _yaml_beside(source)
    if chosen is None:
        raise UserError(f"{source} needs the yaml that came with it; give it by --config")
    return chosen


def _yaml_beside(source: Path) -> Path | None:
    """Returns the yaml in a file's folder that is its own by its name, or the only one; None if there is none."""
    candidates = sorted(source.parent.glob("*.yaml"))
    named = [path for path in candidates if path.stem in (source.stem, "config", "project")]
    chosen = named[:1] or (candidates if len(candidates) == 1 else [])
    return chosen[0] if chosen else None
