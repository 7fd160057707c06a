"""Weights and configurations of CLIP in the layouts of Hugging Face and of OpenAI."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.mapping import Parameter, Source, Table, assemble, plan, rename, shape_of
from rdm_jax.convert.settings import Settings
from rdm_jax.core.errors import UserError
from rdm_jax.models import CLIP, abstract_params

_NAMES: Table = (
    (r"/mean$", ".running_mean"),
    (r"/var$", ".running_var"),
    (r"/(kernel|scale|embedding)$", ".weight"),
    (r"/bias$", ".bias"),
    ("/", "."),
)

_HUGGING_FACE: Table = (
    (r"^vision/patches/", "vision_model.embeddings.patch_embedding/"),
    (r"^vision/class_token", "vision_model.embeddings.class_embedding"),
    (r"^vision/positions", "vision_model.embeddings.position_embedding.weight"),
    (r"^vision/norm_in/", "vision_model.pre_layrnorm/"),
    (r"^vision/norm_out/", "vision_model.post_layernorm/"),
    (r"^vision/projection/", "visual_projection/"),
    (r"^text/tokens/", "text_model.embeddings.token_embedding/"),
    (r"^text/positions", "text_model.embeddings.position_embedding.weight"),
    (r"^text/norm_out/", "text_model.final_layer_norm/"),
    (r"^text/projection/", "text_projection/"),
    (r"^(vision|text)/block_(\d+)/", r"\1_model.encoder.layers.\2/"),
    (r"/norm([12])/", r"/layer_norm\1/"),
    (r"/out/", "/self_attn.out_proj/"),
    (r"/up/", "/mlp.fc1/"),
    (r"/down/", "/mlp.fc2/"),
    *_NAMES,
)

_OPENAI: Table = (
    (r"^vision/patches/", "visual.conv1/"),
    (r"^vision/class_token", "visual.class_embedding"),
    (r"^vision/positions", "visual.positional_embedding"),
    (r"^vision/norm_in/", "visual.ln_pre/"),
    (r"^vision/norm_out/", "visual.ln_post/"),
    (r"^vision/projection/kernel", "visual.proj"),
    (r"^vision/block_", "visual.transformer.resblocks."),
    (r"^text/tokens/", "token_embedding/"),
    (r"^text/positions", "positional_embedding"),
    (r"^text/norm_out/", "ln_final/"),
    (r"^text/projection/kernel", "text_projection"),
    (r"^text/block_", "transformer.resblocks."),
    (r"^vision/pool/positions", "visual.attnpool.positional_embedding"),
    (r"^vision/pool/(q|k|v)\w+/", r"visual.attnpool.\1_proj/"),
    (r"^vision/pool/out/", "visual.attnpool.c_proj/"),
    (r"^vision/stage_(\d)_(\d+)/", r"visual.layer\1.\2/"),
    (r"^vision/", "visual/"),
    (r"/conv_skip/", "/downsample.0/"),
    (r"/norm_skip/", "/downsample.1/"),
    (r"(resblocks\.\d+)/norm([12])/", r"\1/ln_\2/"),
    (r"/norm(\d)/", r"/bn\1/"),
    (r"/qkv/kernel", "/attn.in_proj_weight"),
    (r"/qkv/bias", "/attn.in_proj_bias"),
    (r"/out/", "/attn.out_proj/"),
    (r"/up/", "/mlp.c_fc/"),
    (r"/down/", "/mlp.c_proj/"),
    *_NAMES,
)

OPENAI_WIDTH = 1024  # of OpenAI's widest image tower, ViT-L
OPEN_CLIP_HEADS = 16  # of OpenCLIP's wider ones: ViT-H, g and G

WHAT = "CLIP"  # in errors

# What a config.json may leave out: the defaults of transformers' CLIPConfig, CLIPTextConfig and CLIPVisionConfig.
_CLIP_DEFAULTS = {"projection_dim": 512}
_TOWER_DEFAULTS = {"num_hidden_layers": 12, "hidden_act": "quick_gelu"}
_VISION_DEFAULTS = {
    **_TOWER_DEFAULTS,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "patch_size": 32,
    "image_size": 224,
}
TEXT_DEFAULTS = {
    **_TOWER_DEFAULTS,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 2,
}

# Stored sizes and counters, which are no weights.
_ASIDE = re.compile(r".*(position_ids|num_batches_tracked)|input_resolution|context_length|vocab_size")


def is_openai_layout(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are OpenAI's rather than Hugging Face's."""
    return "visual.conv1.weight" in state


def clip_plan(
    state: Mapping[str, np.ndarray], clip: CLIP, allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how CLIP's parameters are assembled from tensors in either layout, which the names decide.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; all are listed.
    """
    source_of = openai_source if is_openai_layout(state) else hugging_face_source
    targets = abstract_params(clip)
    return plan(
        state, targets, source_of, what=WHAT, ignored=lambda name: bool(_ASIDE.fullmatch(name)), allowed=allowed
    )


def clip_params(state: Mapping[str, np.ndarray], clip: CLIP) -> dict[str, Any]:
    """Returns CLIP's parameters from tensors in either layout; raises UserError as `clip_plan` does."""
    return assemble(clip_plan(state, clip))


def hugging_face_source(path: str) -> Source:
    """Returns the names of a parameter's tensors in `transformers`."""
    parts = ("q_proj", "k_proj", "v_proj") if "/qkv/" in path else ("",)
    return Source(tuple(rename(path.replace("/qkv/", f"/self_attn.{part}/"), _HUGGING_FACE) for part in parts))


def openai_source(path: str) -> Source:
    """Returns the names of a parameter's tensors in OpenAI's program."""
    return Source((rename(path, _OPENAI),), as_stored=path.endswith("projection/kernel"))


def config_from_hugging_face(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_clip` that a Hugging Face config.json describes.

    An `eos_token_id` of 2, a mistake in the first published files, stands for the highest id of the row. One that is
    left out does too: the class had that default then, and has the highest id of its vocabulary now.

    Raises:
      UserError: it describes no CLIP, one whose feed-forward layers are not four times as wide, or a setting has no
        valid value.
    """
    kind = config.get("model_type", "clip" if "vision_config" in config and "text_config" in config else None)
    if kind != "clip":
        raise UserError(f"config.json describes a {kind!r}, not a CLIP; give a CLIP's folder")
    own = Settings("config.json", config, _CLIP_DEFAULTS)
    vision, text = _section(own, "vision_config", _VISION_DEFAULTS), _section(own, "text_config", TEXT_DEFAULTS)
    vision.require({"num_channels": 3})
    eos = text.whole("eos_token_id")
    return {
        "embed_dim": own.whole("projection_dim"),
        "vision": {
            "kind": "vit",
            **tower_settings(vision),
            "patch_size": vision.whole("patch_size"),
            "image_size": vision.whole("image_size"),
        },
        "text": {
            **tower_settings(text),
            "vocab_size": text.whole("vocab_size"),
            "context_length": text.whole("max_position_embeddings"),
            "eos_id": None if eos == 2 else eos,
        },
    }


def _section(config: Settings, key: str, defaults: Mapping[str, Any]) -> Settings:
    """Returns a tower's settings; those under "KEY_dict", of older files, come first as they do in transformers."""
    own = config.section(key) if config.has(key) else Settings(f"config.json: {key}", {})
    older = config.section(f"{key}_dict").given if config.has(f"{key}_dict") else {}
    return Settings(own.what, {**own.given, **older}, defaults)


def tower_settings(part: Settings) -> dict[str, Any]:
    """Returns width, layers, heads and activation of a tower; raises UserError if they are not supported."""
    width, inner = part.whole("hidden_size"), part.whole("intermediate_size")
    if inner != 4 * width:
        raise UserError(f"{part.what}: intermediate_size={inner} is not 4 x {width}; not supported")
    return {
        "width": width,
        "layers": part.whole("num_hidden_layers"),
        "heads": part.whole("num_attention_heads"),
        "activation": part.text("hidden_act"),
    }


def to_hugging_face(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json of the CLIPModel that a configuration describes.

    Raises:
      UserError: its image tower is no ViT, or does not pool by its class token.
    """
    vision, text = config["vision"], config["text"]
    if vision["kind"] != "vit" or vision.get("pool", "class") != "class":
        raise UserError(
            "transformers' CLIP has a ViT that pools by its class token; this model has another image tower"
        )
    eos = text.get("eos_id")
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config["embed_dim"],
        "vision_config": {
            **_hugging_face_settings(vision),
            "model_type": "clip_vision_model",
            "patch_size": vision["patch_size"],
            "image_size": vision["image_size"],
            "projection_dim": config["embed_dim"],
        },
        "text_config": {
            **_hugging_face_settings(text),
            "model_type": "clip_text_model",
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "eos_token_id": 2 if eos is None else eos,
            "projection_dim": config["embed_dim"],
        },
    }


def _hugging_face_settings(tower: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": tower["width"],
        "intermediate_size": 4 * tower["width"],
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"],
        "hidden_act": tower.get("activation", "quick_gelu"),
    }


def config_from_openai(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the configuration for `build_clip` that the shapes of OpenAI's tensors imply.

    Heads have 64 channels, but for the image towers of OpenCLIP that are wider than OpenAI's.

    Raises:
      UserError: the names are not OpenAI's, or a tensor is missing or has another number of axes.
    """
    if not is_openai_layout(state):
        raise UserError("the tensors are not in OpenAI's CLIP layout (no visual.conv1.weight); give a CLIP's weights")
    vocab_size, width = shape_of(state, "token_embedding.weight", 2, WHAT)
    return {
        "embed_dim": shape_of(state, "text_projection", 2, WHAT)[1],
        "vision": _openai_resnet(state) if "visual.attnpool.c_proj.weight" in state else _openai_vit(state),
        "text": {
            "width": width,
            "layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
            "heads": width // 64,
            "vocab_size": vocab_size,
            "context_length": shape_of(state, "positional_embedding", 2, WHAT)[0],
            **_activation(state),
        },
    }


def _activation(state: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the activation where it is not OpenAI's: wider image towers are OpenCLIP's, with the exact GELU."""
    conv = state.get("visual.conv1.weight")
    return {"activation": "gelu"} if conv is not None and conv.shape[0] > OPENAI_WIDTH else {}


def _openai_vit(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width, _, patch, _ = shape_of(state, "visual.conv1.weight", 4, WHAT)
    side = math.isqrt(shape_of(state, "visual.positional_embedding", 2, WHAT)[0] - 1)
    return {
        "kind": "vit",
        "width": width,
        "layers": _count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        "heads": OPEN_CLIP_HEADS if width > OPENAI_WIDTH else width // 64,
        "patch_size": patch,
        "image_size": patch * side,
        **_activation(state),
    }


def _openai_resnet(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width = shape_of(state, "visual.layer1.0.conv1.weight", 4, WHAT)[0]
    side = math.isqrt(shape_of(state, "visual.attnpool.positional_embedding", 2, WHAT)[0] - 1)
    return {
        "kind": "resnet",
        "width": width,
        "layers": tuple(_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in range(1, 5)),
        "heads": width * 32 // 64,
        "image_size": 32 * side,
    }


def _count(state: Mapping[str, np.ndarray], pattern: str) -> int:
    return len({match[1] for match in (re.match(pattern, name) for name in state) if match})
