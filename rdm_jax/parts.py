"""The parts of a model on disk: how each network is built, what it is stored beside, and the type it computes in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from rdm_jax import models
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError, bounded
from rdm_jax.diffusion.experts import Experts, stacked_shapes
from rdm_jax.models.classifier import build_classifier

PREPROCESSING = ("mean", "std")  # beside the towers' settings: how pixels become what the image tower takes
PADDING = "pad_id"  # beside a text encoder's settings: the token that fills the rest of a row


@dataclasses.dataclass(frozen=True)
class Part:
    """One network of a model.

    Attributes:
      build: its section of the configuration to the module.
      sections: the other sections that a configuration with this part must have.
      chooses_dtype: whether it computes, and is held, in the type that the model is opened in; otherwise float32.
    """

    build: Callable[[Mapping[str, Any]], Any]
    sections: tuple[str, ...] = ()
    chooses_dtype: bool = False


def _clip(config: Mapping[str, Any]) -> Any:
    return models.build_clip({key: value for key, value in config.items() if key not in PREPROCESSING})


def _text_encoder(config: Mapping[str, Any]) -> Any:
    return models.build_text_encoder(without_padding(config))


def without_padding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a text encoder's network, without the token that pads."""
    return {key: value for key, value in config.items() if key != PADDING}


PARTS: Mapping[str, Part] = {
    "clip": Part(_clip),
    "text_encoder": Part(_text_encoder),
    "translator": Part(models.build_translator),
    "prior": Part(models.build_prior),
    "vector_context": Part(models.build_vector_context),
    "input_encoder": Part(models.build_input_encoder),
    "encoder_tokens": Part(models.build_encoder_tokens),
    "autoencoder": Part(models.build_autoencoder),
    "denoiser": Part(
        models.build_denoiser, sections=("diffusion", "latents", "conditioning", "sampling"), chooses_dtype=True
    ),
    "image_adapter": Part(models.build_image_adapter),
    "style_encoder": Part(models.build_style_encoder),
    "transformer": Part(models.build_transformer, sections=("conditioning", "sampling"), chooses_dtype=True),
    "fine_autoencoder": Part(models.build_autoencoder),
    "fine_transformer": Part(models.build_fine_transformer, sections=("conditioning", "sampling"), chooses_dtype=True),
    "classifier": Part(build_classifier),
    "noised_clip": Part(models.build_noised_encoder),
    "noised_classifier": Part(models.build_noised_encoder),
    "lpips": Part(models.build_lpips),
    "inception": Part(models.build_inception),
}

SECTIONS = tuple(dict.fromkeys(section for part in PARTS.values() for section in part.sections))
"""The sections of a configuration that say how a model is conditioned and sampled; `--set` changes their keys."""


def build(config: Mapping[str, Any], part: str) -> Any:
    """Returns the module of one part of a configuration.

    Raises:
      UserError: the part's settings lack a key or have an unknown one.
    """
    return PARTS[part].build(config[part])


def abstract_params(config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Returns {"a/b/kernel": shape and type} of the parameters of one part, those of a denoiser's experts stacked.

    Raises:
      UserError: the part's settings lack a key or have an unknown one, or its experts are damaged.
    """
    shapes = models.abstract_params(build(config, part))
    experts = Experts.of(config["diffusion"]) if part == "denoiser" and "diffusion" in config else None
    return shapes if experts is None else stacked_shapes(shapes, experts.count)


def check(config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Checks that a configuration and parameters describe the same networks.

    Args:
      config: of a bundle.
      params: {part: nested dictionary of arrays or of their shapes}.

    Raises:
      UserError: the configuration names a part without parameters, parameters belong to no part of it, a section is
        missing, a parameter is missing, unexpected or of another shape, a transformer predicts the codes of another
        codebook than the first stage's, has another number of positions, or attends to tokens of another size than are
        made, the stages of a denoiser are not the scales of the first stage, or a second stage of codes does not fit
        the first one.
    """
    name = config.get("name", "unnamed")
    described = [part for part in PARTS if part in config]
    for part in described:
        lacking = [section for section in PARTS[part].sections if section not in config]
        if lacking:
            raise UserError(
                f"the configuration of model {name!r} lacks {', '.join(lacking)}, which {part} needs; "
                "export or convert it again"
            )
    for part in described:
        if part not in params:
            raise UserError(f"the configuration of model {name!r} describes {part}, and there are no parameters for it")
    for part, tree in params.items():
        if part not in described:
            raise UserError(f"model {name!r} holds parameters of {part}, which its configuration does not describe")
        with bounded(f"the settings of {part} of model {name!r} describe no network", "export or convert it again"):
            wanted = abstract_params(config, part)
        _check_shapes(str(name), part, wanted, trees.flatten(tree))
    for network, first_stage in (("transformer", "autoencoder"), ("fine_transformer", "fine_autoencoder")):
        if network in described and first_stage in described:
            _check_codebook(str(name), network, config[network]["num_codes"], config[first_stage].get("num_codes"))
            _check_positions(str(name), network, build(config, network), build(config, first_stage))
    if {"transformer", "fine_transformer"} <= set(described):
        check_second_stage(str(name), build(config, "transformer"), build(config, "fine_transformer"))
    if "transformer" in described:
        _check_context(str(name), config)
    if "encoder_tokens" in described:
        _check_encoders(str(name), config)
    if "denoiser" in described and "autoencoder" in described:
        check_scales(f"the denoiser of model {name!r}", build(config, "denoiser"), build(config, "autoencoder"))


def check_scales(what: str, denoiser: Any, autoencoder: Any) -> None:
    """Raises UserError if a denoiser of several stages has others than the scales of a first stage.

    Args:
      what: the denoiser, for the error.
      denoiser: the module.
      autoencoder: the first stage's module.
    """
    if denoiser.stages == 1:
        return
    own = (denoiser.stages, denoiser.in_channels)
    scales = (autoencoder.scales, autoencoder.embed_dim // autoencoder.scales)
    if own != scales:
        raise UserError(
            f"{what} has {own[0]} stages of {own[1]} channels, and its first stage {scales[0]} "
            f"{'scale' if scales[0] == 1 else 'scales'} of {scales[1]}; give the first stage that it was trained with, "
            "one of kind multi_scale_vq"
        )


def check_second_stage(model: str, coarse: Any, fine: Any) -> None:
    """Raises UserError if a second stage of codes reads others than the first stage's transformer predicts.

    Args:
      model: the name, for the error.
      coarse: the transformer of the first stage.
      fine: that of the second one.
    """
    own = {"codes": fine.coarse_codes, "positions": fine.coarse_tokens, "numbers of a context token": fine.context_dim}
    names = ("num_codes", "num_tokens", "context_dim")
    given = dict(zip(own, (getattr(coarse, name, None) for name in names), strict=True))
    differ = next((name for name in own if own[name] != given[name]), None)
    if differ:
        raise UserError(
            f"the second stage of model {model!r} was trained on {own[differ]} {differ}, and its transformer has "
            f"{given[differ]}; give the model that it was trained on"
        )


def _check_codebook(model: str, network: str, predicted: int, stored: int | None) -> None:
    """Raises UserError if a transformer predicts other codes than the first stage has."""
    if predicted != stored:
        first_stage = f"has {stored}" if stored else "has no codebook"
        raise UserError(
            f"the {network} of model {model!r} predicts {predicted} codes, and its first stage {first_stage}; "
            "give the first stage that it was trained with"
        )


def _check_positions(model: str, network: str, transformer: Any, autoencoder: Any) -> None:
    """Raises UserError if the positions of a transformer are not the codes of a square of latents."""
    each = math.prod(autoencoder.code_shape)
    tokens = getattr(transformer, "num_tokens", each)  # aMUSEd has no positions
    if each * math.isqrt(tokens // each) ** 2 != tokens:
        raise UserError(
            f"the {network} of model {model!r} has {tokens} positions, and they are not the codes of a square of "
            f"latents with {each} {'code' if each == 1 else 'codes'} each; give the first stage of its training"
        )


def _check_context(model: str, config: Mapping[str, Any]) -> None:
    """Raises UserError if what makes tokens of texts or images makes others than a transformer attends to."""
    taken = build(config, "transformer").context_dim
    makers = {"text_encoder": "width", "input_encoder": "width", "image_adapter": "token_dim"}
    for part, name in ((part, name) for part, name in makers.items() if part in config):
        if (size := getattr(build(config, part), name)) != taken:
            raise UserError(
                f"the {part} of model {model!r} makes tokens of {size} numbers, and its transformer takes {taken}; "
                "give the parts that were trained together"
            )


def _check_encoders(model: str, config: Mapping[str, Any]) -> None:
    """Raises UserError if what joins several encoders takes others, or makes tokens that the denoiser does not take."""
    joined = build(config, "encoder_tokens")
    pairs = {"denoiser": ("context_dim", joined.token_dim), "text_encoder": ("width", joined.dims.get("text_states"))}
    for part, (name, size) in ((part, pair) for part, pair in pairs.items() if part in config):
        if (other := getattr(build(config, part), name)) != size:
            raise UserError(
                f"the encoder_tokens of model {model!r} have {size} numbers where its {part} has {other}; give the "
                "parts that were trained together"
            )


def _check_shapes(model: str, part: str, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises UserError for the first parameter that is missing, unexpected or of another shape."""
    if kinds := models.other_backbone(given, wanted):
        raise UserError(
            f"{part} of model {model!r} does not fit its configuration: the parameters are those of a {kinds[0]}, and "
            f"the configuration describes a {kinds[1]}; use the configuration that it was trained with"
        )
    wrong = sorted(path for path in wanted.keys() ^ given.keys())
    if wrong:
        problem = "is missing" if wrong[0] in wanted else "is unexpected"
        raise UserError(
            f"{part} of model {model!r} does not fit its configuration: {wrong[0]} {problem} "
            f"({len(wrong)} such parameters); use the configuration that it was trained with"
        )
    for path, leaf in wanted.items():
        if tuple(leaf.shape) != tuple(given[path].shape):
            raise UserError(
                f"{part} of model {model!r} does not fit its configuration: {path} has shape "
                f"{tuple(given[path].shape)}, and the configuration asks for {tuple(leaf.shape)}; "
                "use the configuration that it was trained with"
            )
