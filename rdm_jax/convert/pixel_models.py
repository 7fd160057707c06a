"""Conversions of models of pixels: ADM, GLIDE, and the classifiers and the CLIP of noisy images that guide them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert import adm, glide, noised_clip
from rdm_jax.convert.converted import Conversion
from rdm_jax.convert.patch_transformers import read_arguments
from rdm_jax.convert.tokenizer import lower_cased, read_tokenizer, tokenizer_of
from rdm_jax.convert.weights import read_tensors
from rdm_jax.core.errors import UserError

KINDS = (adm.KIND, adm.CLASSIFIER, glide.KIND)
PIXELS = {"kind": "pixels"}
"""The first stage of these models."""


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a U-Net or a classifier of these programs."""
    return adm.is_this(state) or adm.is_classifier(state)


def convert_pixels(
    source: Path,
    state: Mapping[str, np.ndarray],
    config: Path | None,
    tokenizer: Path | None,
    allowed: frozenset[str],
) -> Conversion:
    """Returns the parts of a U-Net with its text encoder, if it has one, or of a classifier.

    Raises:
      UserError: names are missing, unexpected or mis-shaped, or flags are needed or do not fit.
    """
    file, arguments = read_arguments(source, config)
    sources = (source,) if file is None else (source, file)
    if adm.is_classifier(state):
        settings = adm.classifier_config(state, arguments)
        recipes = adm.classifier_recipes(state, settings, allowed)
        named = {"name": source.stem, "noised_classifier": settings}
        return Conversion(adm.CLASSIFIER, named, {"noised_classifier": recipes}, sources)
    head = {"name": source.stem, "head": "diffusion", "autoencoder": PIXELS}
    if not glide.is_this(state):
        settings, flags = adm.config(state, arguments)
        parts: dict[str, Any] = {"denoiser": adm.recipes(state, settings, flags, allowed), "autoencoder": {}}
        return Conversion(adm.KIND, {**head, "denoiser": settings, **adm.sections(settings, flags)}, parts, sources)
    settings, text, flags = glide.config(state, arguments)
    parts = {
        "text_encoder": glide.text_recipes(state, text, allowed),
        "denoiser": glide.recipes(state, settings, flags, allowed),
        "autoencoder": {},
    }
    named = {**head, "denoiser": settings, "text_encoder": text, **glide.sections(settings, flags)}
    words = tokenizer_of(tokenizer, text["vocab_size"])
    return Conversion(glide.KIND, named, parts, sources, words and lower_cased(words))


def with_classifier(model: Conversion, file: Path, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of a model with a classifier of its noisy images.

    Raises:
      UserError: the file is no such classifier, or it takes images of another size.
    """
    state = read_tensors(file)
    if not adm.is_classifier(state):
        raise UserError(
            f"{file} is no classifier of noisy images; give one of guided diffusion's, as 256x256_classifier.pt"
        )
    _, arguments = read_arguments(file, None)
    settings = adm.classifier_config(state, arguments)
    _check_size(model, file, adm.CLASSIFIER, settings["latent_size"])
    recipes = adm.classifier_recipes(state, settings, allowed)
    return _with_part(model, "noised_classifier", settings, recipes, (file,))


def with_noised_clip(
    model: Conversion, files: tuple[Path, Path], tokenizer: Path | None, allowed: frozenset[str]
) -> Conversion:
    """Returns the conversion of a model with the CLIP of its noisy images.

    Args:
      model: of pixels.
      files: the image encoder and the text encoder, in any order.
      tokenizer: of the text encoder, CLIP's; without one the guide takes images alone.
      allowed: names of tensors that may be missing or unused.

    Raises:
      UserError: the files are no such encoders, or they take images of another size.
    """
    states = [read_tensors(file) for file in files]
    if noised_clip.is_text_encoder(states[0]):
        states, files = states[::-1], (files[1], files[0])
    image, text = states
    if not (noised_clip.is_image_encoder(image) and noised_clip.is_text_encoder(text)):
        raise UserError(
            f"{files[0]} and {files[1]} are not the two halves of a CLIP of noisy images; give GLIDE's "
            "clip_image_enc.pt and clip_text_enc.pt"
        )
    _, arguments = read_arguments(files[0], None)
    settings = noised_clip.config(image, text, arguments.get("n_head_state_image", noised_clip.HEAD_CHANNELS))
    _check_size(model, files[0], noised_clip.KIND, settings["image_size"])
    recipes = noised_clip.recipes(image, text, settings, allowed)
    added = _with_part(model, "noised_clip", settings, recipes, files)
    words = None if tokenizer is None else read_tokenizer(tokenizer)
    if words is not None and len(words) > settings["vocab_size"]:
        raise UserError(
            f"the tokenizer {tokenizer} has {len(words)} tokens, and the {noised_clip.KIND} {settings['vocab_size']}; "
            "give CLIP's"
        )
    return dataclasses.replace(added, noised_tokenizer=words)


def refuse_half(source: Path, state: Mapping[str, np.ndarray]) -> None:
    """Raises UserError for one half of a CLIP of noisy images, which is no model of its own."""
    if noised_clip.is_image_encoder(state) or noised_clip.is_text_encoder(state):
        raise UserError(
            f"{source} is one half of a CLIP of noisy images; convert a GLIDE with both: --noised-clip "
            "clip_image_enc.pt clip_text_enc.pt"
        )


def _with_part(
    model: Conversion, part: str, settings: Mapping[str, Any], recipes: Any, files: tuple[Path, ...]
) -> Conversion:
    config, parts = {**model.config, part: dict(settings)}, {**model.parts, part: recipes}
    return dataclasses.replace(model, config=config, parts=parts, sources=(*model.sources, *files))


def _check_size(model: Conversion, file: Path, what: str, side: int) -> None:
    """Raises UserError unless a network of noisy images takes those of a model."""
    own = model.config.get("sampling", {}).get("height")
    if model.config.get("autoencoder") != PIXELS:
        raise UserError(f"{file} guides a model of pixels, and {model.sources[0]} is a {model.kind}; leave it out")
    if own != side:
        raise UserError(
            f"the {what} {file} takes images of {side}x{side}, and {model.sources[0]} makes {own}x{own}; give the one "
            "of its size"
        )
