"""A folder of diffusers with Karlo, the open unCLIP: prior, decoder and CLIP's text tower; and its upsampler alone.

The two U-Nets of the upsampler, super_res_first and super_res_last, are a model of their own, as GLIDE's is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert import diffusers, text_encoder
from rdm_jax.convert.compvis import LEAVES
from rdm_jax.convert.converted import Conversion
from rdm_jax.convert.mapping import Parameter, Source, Table, built, plan, rename
from rdm_jax.convert.settings import Settings, require_settings
from rdm_jax.convert.tokenizer import padding_of, tokenizer_of
from rdm_jax.convert.weights import weights_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import (
    Prior,
    UNet,
    VectorContext,
    abstract_params,
    build_denoiser,
    build_prior,
    build_text_encoder,
    build_vector_context,
)
from rdm_jax.parts import without_padding

KIND = "Karlo pipeline"
UPSAMPLER = "Karlo upsampler"
PIPELINE = "UnCLIPPipeline"
FIRST, LAST = "super_res_first", "super_res_last"
PIXELS = {"kind": "pixels"}

_PRIOR: Table = (
    (r"^positions$", "positional_embedding"),
    (r"^query$", "prd_embedding"),
    (r"^image_(mean|std)$", r"clip_\1"),
    (r"^time_(\d)/", r"time_embedding.linear_\1/"),
    (r"^noisy/", "proj_in/"),
    (r"^vector/", "embedding_proj/"),
    (r"^states/", "encoder_hidden_states_proj/"),
    (r"^out/", "proj_to_clip_embeddings/"),
    (r"^block_(\d+)/", r"transformer_blocks.\1/"),
    (r"/norm2/", "/norm3/"),
    (r"/attn/out/", "/attn1.to_out.0/"),
    (r"/mlp/up/", "/ff.net.0.proj/"),
    (r"/mlp/down/", "/ff.net.2/"),
    *LEAVES,
)
_CONTEXT: Table = (
    (r"^null$", "learned_classifier_free_guidance_embeddings"),
    (r"^text_vector/", "embedding_proj/"),
    (r"^image_vector/", "clip_image_embeddings_project_to_time_embeddings/"),
    (r"^image_tokens_in/", "clip_extra_context_tokens_proj/"),
    (r"^states/", "encoder_hidden_states_proj/"),
    (r"^states_norm/", "text_encoder_hidden_states_norm/"),
    *LEAVES,
)

_PRIOR_FIXED = {
    "added_emb_type": "prd",
    "additional_embeddings": 4,
    "clip_embed_dim": None,
    "embedding_proj_dim": None,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "norm_in_type": None,
    "time_embed_act_fn": "silu",
    "time_embed_dim": None,
}
_PRIOR_DEFAULTS = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 768,
    "num_embeddings": 77,
}
_CONTEXT_DEFAULTS = {"clip_extra_context_tokens": 4, "clip_embeddings_dim": 768}
_UNET_FIXED = {
    "act_fn": "silu",
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "time_embedding_type": "positional",
}
_DECODER_FIXED = {
    **_UNET_FIXED,
    "addition_embed_type": None,
    "class_embed_type": "identity",
    "cross_attention_norm": None,
    "encoder_hid_dim": None,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "only_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "scale_shift",
}
_UPSAMPLER_FIXED = {
    **_UNET_FIXED,
    "add_attention": False,
    "class_embed_type": None,
    "resnet_time_scale_shift": "default",
}
_WITHOUT, _WITH = "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"


def is_upsampler(source: Path) -> bool:
    """Returns whether a folder holds one of the upsampler's two U-Nets, with the other one beside it."""
    return source.name in (FIRST, LAST) and (source / "config.json").is_file()


def pipeline(source: Path, tokenizer: Path | None, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of a folder with prior, text_encoder, text_proj and decoder.

    Raises:
      UserError: a file is missing or damaged, names or shapes do not fit, or a setting is not supported.
    """
    folders = {"prior": "prior", "text_encoder": "text_encoder", "vector_context": "text_proj", "denoiser": "decoder"}
    given = {part: require_settings(source / folder / "config.json") for part, folder in folders.items()}
    own = source / "tokenizer"
    vocabulary = tokenizer or (own if own.is_dir() else None)
    words = tokenizer_of(vocabulary, int(given["text_encoder"].get("vocab_size", 0)) or text_encoder.VOCABULARY)
    padding = None if words is None or vocabulary is None else padding_of(vocabulary, words)
    text = text_encoder.pooled_config_from_hugging_face(given["text_encoder"], padding) | {"kind": "projected_clip"}
    prior = prior_config(given["prior"], text)
    settings = {
        "text_encoder": text,
        "prior": prior,
        "vector_context": context_config(given["vector_context"], text),
        "denoiser": decoder_config(given["denoiser"]),
    }
    if settings["vector_context"]["context_dim"] != settings["denoiser"]["context_dim"]:
        raise UserError(f"{source}: text_proj and decoder have tokens of different sizes; download the folder again")
    weights = {part: weights_of(source / folder) for part, folder in folders.items()}
    states = {part: state for part, (state, _) in weights.items()}
    encoder = built("text encoder", build_text_encoder, without_padding(text))
    parts: dict[str, dict[str, Parameter] | Path] = {
        "text_encoder": text_encoder.plan_of_folder(states["text_encoder"], encoder, allowed),
        "prior": prior_plan(states["prior"], built("prior", build_prior, prior), allowed),
        "vector_context": context_plan(
            states["vector_context"],
            built("text projection", build_vector_context, settings["vector_context"]),
            allowed,
        ),
        "denoiser": unet_plan(states["denoiser"], built("decoder", build_denoiser, settings["denoiser"]), allowed),
        "autoencoder": {},
    }
    sources = (source / "model_index.json", *(file for _, found in weights.values() for file in found))
    side = Settings("decoder/config.json", given["denoiser"]).whole("sample_size")
    named = {"name": source.name, "head": "diffusion", "autoencoder": PIXELS, **settings, **conventions(side)}
    return Conversion(KIND, named, parts, sources, words)


def upsampler(source: Path, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of the two U-Nets of the upsampler; `source` is the folder of one of them.

    Raises:
      UserError: the other one is missing, they differ in form, or names or shapes do not fit.
    """
    folders = [source.parent / name for name in (FIRST, LAST)]
    first, last = (require_settings(folder / "config.json") for folder in folders)
    settings = upsampler_config(first)
    if upsampler_config(last) != settings:
        raise UserError(f"{folders[0]} and {folders[1]} are networks of two forms; download the folder again")
    unet = built("upsampler", build_denoiser, {**settings, "kind": "unet"})
    weights = [weights_of(folder) for folder in folders]
    denoiser = {
        f"{name}/{path}": recipe
        for name, (state, _) in zip(("first", "last"), weights, strict=True)
        for path, recipe in unet_plan(state, unet, allowed).items()
    }
    side = Settings(f"{FIRST}/config.json", first).whole("sample_size")
    sections = upsampler_conventions(side)
    named = {"name": source.parent.name, "head": "diffusion", "autoencoder": PIXELS, "denoiser": settings, **sections}
    parts: dict[str, dict[str, Parameter] | Path] = {"denoiser": denoiser, "autoencoder": {}}
    sources = (*(folder / "config.json" for folder in folders), *(file for _, found in weights for file in found))
    return Conversion(UPSAMPLER, named, parts, sources)


def check_pipeline(name: str, source: Path) -> None:
    """Raises UserError for a pipeline of Karlo that varies images, which has no prior."""
    if name.startswith("UnCLIP") and name != PIPELINE:
        raise UserError(
            f"{source} is a {name}, which has no prior; give the text-to-image folder, whose model_index.json names "
            f"{PIPELINE}"
        )


def _conventions(sampling: Mapping[str, Any], conditioning: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Returns the sections that both models have."""
    return {
        "diffusion": {"num_timesteps": 1000, "schedule": "cosine", "prediction": "eps", "clip": 1.0},
        "latents": {"scale": 1.0},
        "conditioning": {"neighbors": 0, **conditioning},
        "sampling": {"condition": "text", "spacing": "linspace", "eta": 0.0, **sampling, "height": side, "width": side},
    }


def conventions(side: int) -> dict[str, Any]:
    """Returns the sections of a bundle beside its networks: the published pipeline samples so."""
    sampling = {
        "sampler": "ddpm(variance='learned')",
        "steps": 25,
        "guidance_scale": 8.0,
        "query_vector": "prior",
        "prior_steps": 25,
        "prior_guidance_scale": 4.0,
        "prior_samples": 1,
    }
    return _conventions(sampling, {"null": "zeros"}, side)


def upsampler_conventions(side: int) -> dict[str, Any]:
    """Returns the same of the upsampler."""
    conditioning = {
        "null": "none",
        "input": "none",
        "channels": "low_resolution",
        "upscaling": 4,
        "filter": "bicubic",
    }
    return _conventions({"sampler": "ddpm", "steps": 7, "guidance_scale": 1.0}, conditioning, side)


def prior_config(config: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_prior` of a PriorTransformer's and of the text encoder's settings.

    Raises:
      UserError: it has a setting that this network does not support, or without a valid value.
    """
    own = Settings("prior/config.json", config, _PRIOR_DEFAULTS)
    own.require(_PRIOR_FIXED)
    heads = own.whole("num_attention_heads")
    return {
        "embed_dim": own.whole("embedding_dim"),
        "text_dim": text["embed_dim"],
        "state_dim": text["width"],
        "context_length": own.whole("num_embeddings"),
        "width": heads * own.whole("attention_head_dim"),
        "depth": own.whole("num_layers"),
        "heads": heads,
    }


def context_config(config: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_vector_context` of an UnCLIPTextProjModel's; raises UserError likewise."""
    own = Settings("text_proj/config.json", config, _CONTEXT_DEFAULTS)
    return {
        "image_dim": own.whole("clip_embeddings_dim"),
        "text_dim": text["embed_dim"],
        "state_dim": text["width"],
        "context_length": text["context_length"],
        "context_dim": own.whole("cross_attention_dim"),
        "vector_dim": own.whole("time_embed_dim"),
        "image_tokens": own.whole("clip_extra_context_tokens"),
    }


def decoder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_denoiser` of the decoder's UNet2DConditionModel; raises UserError likewise.

    Its `attention_head_dim` is the number of channels of a head.
    """
    own = Settings("decoder/config.json", config)
    own.require(_DECODER_FIXED)
    settings, blocks = _unet_config(own), own.texts("down_block_types", len(own.wholes("block_out_channels")))
    if unknown := [block for block in blocks if block not in (_WITHOUT, _WITH)]:
        raise UserError(f"{own.what}: down_block_types has {unknown[0]}, and only {_WITHOUT} and {_WITH} are supported")
    return {
        "kind": "unet",
        **settings,
        "in_channels": own.whole("in_channels"),
        "attention_resolutions": [2**level for level, block in enumerate(blocks) if block == _WITH],
        "num_head_channels": own.for_all("attention_head_dim"),
        "context_dim": own.for_all("cross_attention_dim"),
        "scale_shift": True,
        "vector_dim": 4 * settings["model_channels"],
        "vector_layer": False,
    }


def upsampler_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_denoiser` of one of the upsampler's two; raises UserError likewise."""
    own = Settings("super_res/config.json", config)
    own.require(_UPSAMPLER_FIXED)
    settings, blocks = _unet_config(own), own.texts("down_block_types", len(own.wholes("block_out_channels")))
    if unknown := [block for block in blocks if block != _WITHOUT]:
        raise UserError(f"{own.what}: down_block_types has {unknown[0]}, and only {_WITHOUT} is supported")
    channels = settings["out_channels"]
    return {
        "kind": "unet_pair",
        **settings,
        "in_channels": channels,
        "condition_channels": own.whole("in_channels") - channels,
        "attention_resolutions": [],
        "middle_attention": False,
        "context_dim": 0,
    }


def _unet_config(own: Settings) -> dict[str, Any]:
    """Returns the settings that both kinds of U-Net have."""
    channels = own.wholes("block_out_channels")
    multiples = [width / channels[0] for width in channels]
    return {
        "out_channels": own.whole("out_channels"),
        "model_channels": channels[0],
        "channel_mult": [int(one) if one == int(one) else one for one in multiples],
        "num_res_blocks": own.for_all("layers_per_block"),
        "attention": "block",
        "residual_resampling": True,
        "num_groups": own.whole("norm_num_groups"),
    }


def prior_plan(state: Mapping[str, np.ndarray], prior: Prior, allowed: frozenset[str]) -> dict[str, Parameter]:
    """Returns how the prior's parameters are assembled; raises UserError with all names and shapes that do not fit."""
    return plan(state, abstract_params(prior), prior_source, what="prior", allowed=allowed)


def prior_source(path: str) -> Source:
    """Returns the names of one parameter's tensors."""
    if "/qkv/" in path:
        name = path.replace("/attn/qkv/", "/attn1.to_{}/")
        return Source(tuple(rename(name.format(one), _PRIOR) for one in "qkv"))
    return Source((rename(path, _PRIOR),), squeezed=path.startswith("image_"))


def context_plan(
    state: Mapping[str, np.ndarray], network: VectorContext, allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the parameters of the text projection are assembled; raises UserError as `prior_plan` does."""

    def source(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        return Source((rename(path, _CONTEXT),))

    return plan(state, abstract_params(network), source, what="text projection", allowed=allowed)


def unet_plan(state: Mapping[str, np.ndarray], unet: UNet, allowed: frozenset[str]) -> dict[str, Parameter]:
    """Returns how the parameters of a decoder or an upsampler are assembled; raises UserError as `prior_plan` does."""
    return plan(state, abstract_params(unet), unet_source(unet), what="U-Net", allowed=allowed)


def unet_source(unet: UNet) -> Callable[[str], Source]:
    """Returns the function from a parameter's path to the names of its tensors."""
    plain, targets = diffusers.unet_source(unet), abstract_params(unet)
    grouped = {"qkv": ("to_q", "to_k", "to_v"), "context": ("add_k_proj", "add_v_proj")}

    def source_of(path: str) -> Source:
        """Returns the tensors of one parameter; those of an attention are stored one after another."""
        match = re.search(r"_attn/(norm|qkv|context|proj_out)/", path)
        if match is None:
            return plain(path)
        (name,) = plain(path).names
        kind = match[1]
        if kind == "norm":
            return Source((name.replace(".norm.", ".group_norm."),))
        if kind == "proj_out":
            return Source((name.replace(".proj_out.", ".to_out.0."),))
        parts = grouped[kind]
        channels = targets[path].shape[-1] // len(parts)
        heads = channels // int(unet.num_head_channels or channels)
        return Source(tuple(name.replace(f".{kind}.", f".{part}.") for part in parts), swapped=(len(parts), heads))

    return source_of
