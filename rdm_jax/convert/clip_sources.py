"""The CLIPs that are converted: OpenAI's, Hugging Face's, and that of a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.bundle import TOKENIZER, encoder_identity, file_of, read_config
from rdm_jax.convert import clip
from rdm_jax.convert.converted import Conversion
from rdm_jax.convert.mapping import Parameter, built
from rdm_jax.convert.settings import Settings, read_settings
from rdm_jax.convert.tokenizer import has_tokenizer, read_tokenizer, tokenizer_of
from rdm_jax.convert.weights import weights_of
from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.models import build_clip

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_PIXELS = {"image_mean": OPENAI_MEAN, "image_std": OPENAI_STD}


def openai_clip(
    source: Path, state: Mapping[str, np.ndarray], tokenizer: Path | None, allowed: frozenset[str]
) -> Conversion:
    """Returns the conversion of OpenAI's CLIP; raises UserError as `convert` does."""
    settings = clip.config_from_openai(state)
    recipes = clip.clip_plan(state, built("CLIP", build_clip, settings), allowed)
    return _clip("OpenAI CLIP", source.stem, settings, recipes, (source,), tokenizer)


def hugging_face_clip(source: Path, tokenizer: Path | None, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of the folder of a Hugging Face CLIP, or of a bundle with a CLIP; raises UserError."""
    description = read_settings(source / "config.json")
    if description is None:
        raise UserError(f"{source} has no config.json; give a Hugging Face CLIP's folder or a file of weights")
    if "sha256" in description and "schema" in description:
        return _bundle_clip(source, tokenizer)
    settings = clip.config_from_hugging_face(description)
    state, weights = weights_of(source)
    recipes = clip.clip_plan(state, built("CLIP", build_clip, settings), allowed)
    if has_tokenizer(source):
        tokenizer = tokenizer or source
    pixels = Settings("preprocessor_config.json", read_settings(source / "preprocessor_config.json") or {}, _PIXELS)
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
    opened = tokenizer_of(tokenizer, settings["text"]["vocab_size"])
    pixels = {"mean": list(OPENAI_MEAN), "std": list(OPENAI_STD)}
    return Conversion(kind, {"name": name, "clip": {**pixels, **settings}}, {"clip": recipes}, sources, opened)
