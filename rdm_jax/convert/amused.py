"""A folder of diffusers with aMUSEd: its U-ViT over codes, its VQ first stage, and CLIP's text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.convert import diffusers, text_encoder
from rdm_jax.convert.converted import Conversion
from rdm_jax.convert.mapping import Parameter, Source, Table, built, plan, rename
from rdm_jax.convert.settings import Settings, require_settings
from rdm_jax.convert.tokenizer import padding_of, tokenizer_of
from rdm_jax.convert.weights import weights_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_autoencoder, build_text_encoder, build_transformer
from rdm_jax.models.amused import MICRO_CONDITIONS, AmusedUViT
from rdm_jax.parts import without_padding

KIND = "aMUSEd pipeline"
PIPELINES = "Amused"  # how the classes of its pipelines begin
AESTHETIC_SCORE = 6.0  # of the published program, with a crop at the upper left

_NAMES: Table = (
    (r"^embed/embedding$", "embed/embeddings/kernel"),
    (r"^embed_norm/", "embed/layer_norm/"),
    (r"^embed_conv/", "embed/conv/"),
    (r"^(down|up)_(norm|conv)/", r"\1_block/\1sample/\2/"),
    (r"^(down|up)_res_(\d+)/", r"\1_block/res_blocks/\2/"),
    (r"^(down|up)_attn_(\d+)/", r"\1_block/attention_blocks/\2/"),
    (r"/up/", "/channelwise_linear_1/"),
    (r"/down/", "/channelwise_linear_2/"),
    (r"/response/", "/channelwise_norm/"),
    (r"/cond/", "/cond_embeds_mapper/"),
    (r"/context/", "/kv_mapper/"),
    (r"^context/", "encoder_proj/"),
    (r"^context_norm/", "encoder_proj_layer_norm/"),
    (r"^cond_([12])/", r"cond_embed/linear_\1/"),
    (r"^in_norm/", "project_to_hidden_norm/"),
    (r"^in/", "project_to_hidden/"),
    (r"^out_norm/", "project_from_hidden_norm/"),
    (r"^out/", "project_from_hidden/"),
    (r"^layer_(\d+)/", r"transformer_layers/\1/"),
    (r"/query/", "/to_q/"),
    (r"/key/", "/to_k/"),
    (r"/value/", "/to_v/"),
    (r"/out/", "/to_out/0/"),
    (r"/ff_up/", "/ff/net/0/proj/"),
    (r"/ff_down/", "/ff/net/2/"),
    (r"^logits_norm/", "mlm_layer/layer_norm/"),
    (r"^logits_([12])/", r"mlm_layer/conv\1/"),
    (r"/(kernel|scale)$", "/weight"),
    ("/", "."),
)

# The defaults of diffusers' UVit2DModel, and those of its settings with one supported value.
_UVIT_DEFAULTS = {
    "hidden_size": 1024,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "intermediate_size": 2816,
    "in_channels": 768,
    "block_out_channels": 768,
    "num_res_blocks": 3,
    "block_num_heads": 12,
    "vocab_size": 8256,
    "codebook_size": 8192,
    "encoder_hidden_size": 768,
    "cond_embed_dim": 768,
    "micro_cond_encode_dim": 256,
    "micro_cond_embed_dim": 1280,
    "sample_size": 64,
    "downsample": False,
    "upsample": False,
}
_UVIT_FIXED = {"use_bias": False, "layer_norm_eps": 1e-6, "ln_elementwise_affine": True}
_VQ_FIXED = {"norm_type": "group"}
_SCHEDULER_DEFAULTS = {"masking_schedule": "cosine"}


def pipeline(source: Path, tokenizer: Path | None, allowed: frozenset[str]) -> Conversion:
    """Returns the conversion of a folder of diffusers with transformer, vqvae, scheduler and text_encoder.

    Raises:
      UserError: a file is missing or damaged, names or shapes do not fit, or a setting is not supported.
    """
    files = {"transformer": "config.json", "vqvae": "config.json", "text_encoder": "config.json"}
    settings = {part: require_settings(source / part / file) for part, file in files.items()}
    scheduler = require_settings(source / "scheduler" / "scheduler_config.json")
    own = source / "tokenizer"
    vocabulary = tokenizer or (own if own.is_dir() else None)
    words = tokenizer_of(vocabulary, int(settings["text_encoder"].get("vocab_size", 0)) or text_encoder.VOCABULARY)
    padding = None if words is None or vocabulary is None else padding_of(vocabulary, words)
    config: dict[str, Any] = {
        "transformer": uvit_config(settings["transformer"]),
        "autoencoder": vq_config(settings["vqvae"]),
        "text_encoder": text_encoder.pooled_config_from_hugging_face(settings["text_encoder"], padding),
    }
    uvit = built("U-ViT", build_transformer, config["transformer"])
    autoencoder = built("autoencoder", build_autoencoder, config["autoencoder"])
    encoder = built("text encoder", build_text_encoder, without_padding(config["text_encoder"]))
    weights = {part: weights_of(source / part) for part in files}
    parts: dict[str, dict[str, Parameter] | Path] = {
        "transformer": uvit_plan(weights["transformer"][0], uvit, allowed),
        "autoencoder": diffusers.vae_plan(weights["vqvae"][0], autoencoder, allowed),
        "text_encoder": text_encoder.plan_of_folder(weights["text_encoder"][0], encoder, allowed),
    }
    side = uvit.latent_size * autoencoder.downsampling
    sources = (source / "model_index.json", *(file for _, found in weights.values() for file in found))
    named = {"name": source.name, "head": "masked", **config, **conventions(side, scheduler)}
    return Conversion(KIND, named, parts, sources, words)


def conventions(side: int, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the conditioning and the defaults of sampling of the published program.

    Args:
      side: of an image in pixels.
      scheduler: the content of scheduler_config.json.
    """
    schedule = Settings("scheduler/scheduler_config.json", scheduler, _SCHEDULER_DEFAULTS).text("masking_schedule")
    return {
        "conditioning": {"neighbors": 0, "null": "zeros", "micro_conditions": [0.0, 0.0, AESTHETIC_SCORE]},
        "sampling": {
            "condition": "text",
            "steps": 12,
            "mask_schedule": schedule,
            "choice_temperature": 2.0,
            "guidance_scale": 10.0,
            "height": side,
            "width": side,
        },
    }


def uvit_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_transformer` of a UVit2DModel's.

    Raises:
      UserError: it has a setting that this network does not support, or without a valid value.
    """
    own = Settings("transformer/config.json", config, _UVIT_DEFAULTS)
    own.require(_UVIT_FIXED)
    micro = own.whole("micro_cond_encode_dim")
    if own.whole("micro_cond_embed_dim") != MICRO_CONDITIONS * micro:
        raise UserError(f"transformer/config.json: micro_cond_embed_dim is not {MICRO_CONDITIONS} x {micro}")
    if own.flag("downsample") != own.flag("upsample"):
        raise UserError("transformer/config.json: downsample and upsample differ, and both or neither is supported")
    return {
        "kind": "amused",
        "num_codes": own.whole("codebook_size"),
        "vocab_size": own.whole("vocab_size"),
        "latent_size": own.whole("sample_size"),
        "width": own.whole("hidden_size"),
        "depth": own.whole("num_hidden_layers"),
        "heads": own.whole("num_attention_heads"),
        "mlp_width": own.whole("intermediate_size"),
        "embed_dim": own.whole("in_channels"),
        "block_width": own.for_all("block_out_channels"),
        "block_depth": own.whole("num_res_blocks"),
        "block_heads": own.whole("block_num_heads"),
        "context_dim": own.whole("encoder_hidden_size"),
        "pooled_dim": own.whole("cond_embed_dim"),
        "micro_dim": micro,
        "resample": own.flag("downsample"),
    }


def uvit_plan(state: Mapping[str, np.ndarray], uvit: AmusedUViT, allowed: frozenset[str]) -> dict[str, Parameter]:
    """Returns how the U-ViT's parameters are assembled; raises UserError with all names and shapes that do not fit."""
    return plan(state, abstract_params(uvit), uvit_source, what="U-ViT", allowed=allowed)


def vq_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_autoencoder` of a VQModel's, whose images are in [0, 1].

    Raises:
      UserError: it has a setting that this network does not support, or without a valid value.
    """
    stage, own = diffusers.vae_config(config, "vqvae/config.json"), Settings("vqvae/config.json", config)
    own.require(_VQ_FIXED)
    size = own.whole("vq_embed_dim") if own.has("vq_embed_dim") else stage["embed_dim"]
    codes = own.whole("num_vq_embeddings")
    return {**stage, "kind": "vq", "embed_dim": size, "num_codes": codes, "legacy": False, "unit_range": True}


def uvit_source(path: str) -> Source:
    """Returns the name of one parameter's tensor."""
    name = rename(path, _NAMES)
    pixels = name.startswith("mlm_layer.conv") or name == "embed.conv.weight"
    return Source((name,), as_stored=path == "embed/embedding", pixel_axes=2 * pixels)
