"""OpenAI's guided diffusion (ADM): class-conditional and unconditional U-Nets, upsamplers and noised classifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.compvis import LEAVES, UNET, unet_source
from rdm_jax.convert.guided_diffusion import Flags, conventions, read_flags, structure
from rdm_jax.convert.mapping import Parameter, Source, Table, built, plan, rename, shape_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import UNet, abstract_params, build_denoiser, build_noised_encoder

KIND, CLASSIFIER = "ADM", "ADM classifier"
CHANNELS = 3  # of an image
STEPS = 250
UPSCALING = 4  # of the upsamplers
CLASS = "class"  # the attribute that the classifiers predict

_64, _128 = (1, 2, 3, 4), (1, 1, 2, 3, 4)
_256, _512 = (1, 1, 2, 2, 4, 4), (0.5, 1, 1, 2, 2, 4, 4)

PUBLISHED: Mapping[tuple[Any, ...], Flags] = {
    (192, _64, (2, 4, 8), 0): Flags(64, num_head_channels=64, noise_schedule="cosine", use_new_attention_order=True),
    (256, _128, (4, 8, 16), 0): Flags(128, num_heads=4),
    (256, _256, (8, 16, 32), 0): Flags(256, num_head_channels=64),
    (256, _512, (16, 32, 64), 0): Flags(512, num_head_channels=64),
    (192, _256, (8, 16, 32), CHANNELS): Flags(256, num_heads=4),
    (192, _256, (16, 32), CHANNELS): Flags(512, num_head_channels=64),
}
"""Flags by width, multiples, downsampling factors with attention, and channels of the condition."""

PUBLISHED_CLASSIFIERS: Mapping[tuple[Any, ...], Flags] = {
    (128, _64): Flags(64, num_head_channels=64),
    (128, _128): Flags(128, num_head_channels=64),
    (128, _256): Flags(256, num_head_channels=64),
    (128, _512): Flags(512, num_head_channels=64),
}


def is_this(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a U-Net of guided diffusion, or of GLIDE."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"} <= set(state)


def is_classifier(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a noised classifier with an attention pool."""
    return {"time_embed.0.weight", "input_blocks.0.0.weight", "out.2.qkv_proj.weight"} <= set(state)


def config(state: Mapping[str, np.ndarray], arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Flags]:
    """Returns the configuration for `build_denoiser`, and the flags that no tensor shows.

    Args:
      state: the tensors.
      arguments: the program's flags; published models need none.

    Raises:
      UserError: a tensor is missing or of another rank, or flags are unknown, needed or contradict the tensors.
    """
    own = structure(state, CHANNELS)
    classes = shape_of(state, "label_emb.weight", 2, KIND)[0] if "label_emb.weight" in state else 0
    key = own["model_channels"], tuple(own["channel_mult"]), tuple(own["attention_resolutions"])
    published = PUBLISHED.get((*key, own["condition_channels"]))
    found = {"num_classes": classes or None, **found_flags(own)}
    flags = read_flags(KIND, arguments, published, {name: value for name, value in found.items() if value is not None})
    return {
        "kind": "unet",
        **own,
        "out_channels": shape_of(state, "out.2.weight", 4, KIND)[0],
        "context_dim": 0,
        "attention": "block",
        "vector_dim": classes,
        **flags.heads,
    }, flags


def found_flags(own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a U-Net's structure says of the program's flags."""
    names = {"num_channels": "model_channels", "num_res_blocks": "num_res_blocks", "channel_mult": "channel_mult"}
    return {flag: own[name] for flag, name in names.items()}


def recipes(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], flags: Flags, allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the U-Net's parameters are made; raises UserError for names that are missing, unexpected or wrong."""
    unet = built(KIND, build_denoiser, settings)
    source = source_in_order(unet, flags, UNET)
    return plan(state, abstract_params(unet), source, what=KIND, ignored=lambda name: False, allowed=allowed)


def source_in_order(unet: UNet, flags: Flags, table: Table) -> Callable[[str], Source]:
    """Returns `unet_source`, for a program that may store queries, keys and values one after another."""
    source_of, targets = unet_source(unet, prefix="", table=table), abstract_params(unet)

    def source(path: str) -> Source:
        """Returns the tensors of one parameter."""
        made = source_of(path)
        if not flags.use_new_attention_order or "/qkv/" not in path:
            return made
        channels = targets[path].shape[-1] // 3
        heads = channels // flags.num_head_channels if flags.num_head_channels > 0 else flags.num_heads
        return Source(made.names, pixel_axes=made.pixel_axes, swapped=(3, heads))

    return source


def sections(settings: Mapping[str, Any], flags: Flags) -> dict[str, Any]:
    """Returns the sections of a bundle beside the denoiser."""
    conditioning: dict[str, Any] = {"null": "none", "input": "class_vector" if settings["vector_dim"] else "none"}
    if settings["condition_channels"]:
        conditioning |= {"channels": "low_resolution", "upscaling": UPSCALING}
    learned = settings["out_channels"] == 2 * CHANNELS
    sampler = {} if learned else {"sampler": "ddpm"}
    return conventions(flags, {"steps": STEPS, **sampler}, conditioning)


_CLASSIFIER: Table = (
    (r"^time_1/", "time_embed.0/"),
    (r"^time_2/", "time_embed.2/"),
    (r"^conv_in/", "input_blocks.0.0/"),
    (r"^mid_0/", "middle_block.0/"),
    (r"^mid_attn/", "middle_block.1/"),
    (r"^mid_1/", "middle_block.2/"),
    (r"^norm_out/", "out.0/"),
    (r"^pool/positions", "out.2.positional_embedding"),
    (r"^pool/(query|key|value)/", "out.2.qkv_proj/"),
    (r"^pool/out/", "out.2.c_proj/"),
    (r"/norm1/", "/in_layers.0/"),
    (r"/norm2/", "/out_layers.0/"),
    (r"/conv1/", "/in_layers.2/"),
    (r"/conv2/", "/out_layers.3/"),
    (r"/time/", "/emb_layers.1/"),
    (r"/skip/", "/skip_connection/"),
    *LEAVES,
)


def classifier_config(state: Mapping[str, np.ndarray], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration for `build_noised_encoder`, with the names of the classes, which are their numbers.

    Raises:
      UserError: see `config`; or the classifier has no square of positions.
    """
    own = structure(state, CHANNELS)
    positions = shape_of(state, "out.2.positional_embedding", 2, CLASSIFIER)[1] - 1
    side = round(positions**0.5)
    if side * side != positions:
        raise UserError(f"the {CLASSIFIER} has {positions} positions, which are no square; download it again")
    size = side * 2 ** (len(own["channel_mult"]) - 1)
    classes = shape_of(state, "out.2.c_proj.weight", 3, CLASSIFIER)[0]
    published = PUBLISHED_CLASSIFIERS.get((own["model_channels"], tuple(own["channel_mult"])))
    found = {"image_size": size, "num_classes": classes, **found_flags(own)}
    flags = read_flags(CLASSIFIER, arguments, published, found)
    if flags.num_head_channels < 1:
        raise UserError(f"the flags of the {CLASSIFIER} have no num_head_channels of 1 or more; give it")
    return {
        **{name: value for name, value in own.items() if name != "condition_channels"},
        "in_channels": CHANNELS,
        "features": classes,
        "latent_size": size,
        "num_head_channels": flags.num_head_channels,
        "attention_head_channels": flags.num_head_channels,
        "middle": True,
        "classes": {CLASS: [str(number) for number in range(classes)]},
    }


def classifier_recipes(
    state: Mapping[str, np.ndarray], settings: Mapping[str, Any], allowed: frozenset[str]
) -> dict[str, Parameter]:
    """Returns how the classifier's parameters are made; raises UserError as `recipes` does."""
    network = built(CLASSIFIER, build_noised_encoder, settings)
    blocks = settings["num_res_blocks"] + 1

    def source(path: str) -> Source:
        """Returns the tensors of one parameter."""
        root, _, rest = path.partition("/")
        kind, *numbers = root.split("_")
        named = path
        if kind in ("res", "attn"):
            level, block = map(int, numbers)
            named = f"input_blocks.{level * blocks + 1 + block}.{int(kind == 'attn')}/{rest}"
        if kind == "down":
            convolution = "" if settings["residual_resampling"] else "op/"
            named = f"input_blocks.{int(numbers[0]) * blocks}.0/{convolution}{rest.removeprefix('conv/')}"
        name = rename(named, _CLASSIFIER)
        part = ("query", "key", "value")
        third = next(((index, 3) for index, one in enumerate(part) if path.startswith(f"pool/{one}/")), None)
        return Source((name,), transposed=path == "pool/positions", part=third)

    return plan(state, abstract_params(network), source, what=CLASSIFIER, ignored=lambda name: False, allowed=allowed)
