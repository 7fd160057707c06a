"""Weights of CompVis's latent-diffusion and retrieval-augmented-diffusion-models checkpoints.

A checkpoint holds the U-Net under "model.diffusion_model.", its EMA under "model_ema." without the dots in the names,
and the first stage under "first_stage_model."; first stages are also released alone, without prefix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.mapping import Parameter, Source, Subset, Table, assemble, plan, rename
from rdm_jax.models import AutoencoderKL, AutoencoderVQ, UNet, abstract_params

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."
FIRST_STAGE_PREFIX = "first_stage_model."
GUIDANCE_VECTOR = "unconditional_guidance_vex"

# Other content of a checkpoint: the buffers of the schedule, the scale and counters.
_BESIDE = re.compile(
    r"(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|betas|logvar|lvlb_weights|scale_factor"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|model_ema\.(decay|num_updates)"
)

LEAVES: Table = ((r"/(kernel|scale)$", ".weight"), (r"/bias$", ".bias"), ("/", "."))

# Names within a transformer; diffusers has the same.
TRANSFORMER: Table = (
    (r"/block_(\d+)/", r"/transformer_blocks.\1/"),
    (r"/query/", "/to_q/"),
    (r"/key/", "/to_k/"),
    (r"/value/", "/to_v/"),
    (r"/out/", "/to_out.0/"),
    (r"/ff/up/", "/ff.net.0.proj/"),
    (r"/ff/down/", "/ff.net.2/"),
)

UNET: Table = (
    (r"^time_1/", "time_embed.0/"),
    (r"^time_2/", "time_embed.2/"),
    (r"^norm_out/", "out.0/"),
    (r"^conv_out/", "out.2/"),
    (r"^in_0_conv/", "input_blocks.0.0/"),
    (r"^vector/", "label_emb/"),
    (r"^in_(\d+)_down/conv/", r"input_blocks.\1.0.op/"),
    (r"^in_(\d+)_(res|down)/", r"input_blocks.\1.0/"),
    (r"^in_(\d+)_attn/", r"input_blocks.\1.1/"),
    (r"^mid_(\d)_(res|attn)/", r"middle_block.\1/"),
    (r"^out_(\d+)_res/", r"output_blocks.\1.0/"),
    (r"^out_(\d+)_attn/", r"output_blocks.\1.1/"),
    (r"(_blocks\.\d+\.\d|middle_block\.\d)/norm1/", r"\1/in_layers.0/"),
    (r"(_blocks\.\d+\.\d|middle_block\.\d)/norm2/", r"\1/out_layers.0/"),
    (r"/conv1/", "/in_layers.2/"),
    (r"/conv2/", "/out_layers.3/"),
    (r"/time/", "/emb_layers.1/"),
    (r"/skip/", "/skip_connection/"),
    (r"/context/", "/encoder_kv/"),
    *TRANSFORMER,
    *LEAVES,
)

AUTOENCODER: Table = (
    (r"^codebook$", "quantize.embedding/scale"),
    (r"^(post_)?quant/", r"\1quant_conv/"),
    (r"/down_(\d+)_down/", r"/down.\1.downsample/"),
    (r"/up_(\d+)_up/", r"/up.\1.upsample/"),
    (r"/(down|up)_(\d+)_res_(\d+)/", r"/\1.\2.block.\3/"),
    (r"/(down|up)_(\d+)_attn_(\d+)/", r"/\1.\2.attn.\3/"),
    (r"/mid_res_(\d)/", r"/mid.block_\1/"),
    (r"/mid_attn_1/", "/mid.attn_1/"),
    (r"/skip/", "/nin_shortcut/"),
    (r"/query/", "/q/"),
    (r"/key/", "/k/"),
    (r"/value/", "/v/"),
    (r"/out/", "/proj_out/"),
    *LEAVES,
)


# Matrices that are stored as convolutions of one pixel: of images, and of rows of pixels.
_UNET_PIXELS = re.compile(r"/(proj_in|proj_out|skip)/kernel")
_UNET_ROWS = re.compile(r"_attn/(qkv|context|proj_out)/kernel")
_AUTOENCODER_PIXELS = re.compile(r"(^|/)(skip|(post_)?quant|query|key|value|out)/kernel")


def is_checkpoint(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a whole latent-diffusion model."""
    return any(name.startswith(UNET_PREFIX) for name in state)


def is_first_stage(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of a first stage alone."""
    return "encoder.conv_in.weight" in state and "quant_conv.weight" in state


def unexpected_names(state: Mapping[str, np.ndarray], *others: str) -> list[str]:
    """Returns the names of a whole checkpoint that belong neither to its networks nor to its other known content.

    Args:
      state: the tensors.
      *others: the prefixes of further networks.
    """
    prefixes = (UNET_PREFIX, EMA_PREFIX, FIRST_STAGE_PREFIX, *others)
    return sorted(n for n in state if not n.startswith(prefixes) and not _BESIDE.fullmatch(n) and n != GUIDANCE_VECTOR)


def unet_source(
    unet: UNet, *, ema: bool = False, prefix: str = UNET_PREFIX, table: Table = UNET
) -> Callable[[str], Source]:
    """Returns the function from a parameter's path to the names of its tensors.

    Args:
      unet: the network.
      ema: of the moving average instead of the raw weights.
      prefix: of the names of the raw weights.
      table: from paths to names.
    """
    targets = abstract_params(unet)

    def source_of(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        name = prefix + rename(_place_upsampling(path, targets), table)
        if ema:
            # Names of the EMA are relative to "model." and have no dots.
            name = EMA_PREFIX + name.removeprefix("model.").replace(".", "")
        if path == "vector/kernel":
            return Source((name,), as_stored=not unet.vector_bias)  # without a bias, it is a table of rows
        rows = unet.attention == "block" and bool(_UNET_ROWS.search(path))
        return Source((name,), pixel_axes=1 if rows else 2 * bool(_UNET_PIXELS.search(path)))

    return source_of


def autoencoder_source(path: str, prefix: str = FIRST_STAGE_PREFIX) -> Source:
    """Returns the names of an autoencoder's parameter."""
    name = prefix + rename(path, AUTOENCODER)
    return Source((name,), pixel_axes=2 * bool(_AUTOENCODER_PIXELS.search(path)))


def unet_plan(
    state: Mapping[str, np.ndarray],
    unet: UNet,
    *,
    ema: bool = False,
    allowed: frozenset[str] = frozenset(),
    source_of: Callable[[str], Source] | None = None,
) -> dict[str, Parameter]:
    """Returns how the U-Net's parameters are assembled, from the raw weights or from the EMA.

    `source_of` is `unet_source(unet, ema=ema)` if it is None.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; all are listed.
    """
    return plan(
        Subset(state, EMA_PREFIX if ema else UNET_PREFIX),
        abstract_params(unet),
        source_of or unet_source(unet, ema=ema),
        what="U-Net (EMA)" if ema else "U-Net",
        ignored=lambda name: bool(_BESIDE.fullmatch(name)),
        allowed=allowed,
    )


def autoencoder_plan(
    state: Mapping[str, np.ndarray],
    autoencoder: AutoencoderKL | AutoencoderVQ,
    *,
    prefix: str = FIRST_STAGE_PREFIX,
    allowed: frozenset[str] = frozenset(),
) -> dict[str, Parameter]:
    """Returns how the autoencoder's parameters are assembled; `prefix` is "" for a first stage released alone.

    The weights of the training loss ("loss.") and the EMA ("model_ema.") are ignored.

    Raises:
      UserError: a name is missing, unexpected or mis-shaped, and not in `allowed`; all are listed.
    """
    ignored = (f"{prefix}loss.", f"{prefix}{EMA_PREFIX}")
    return plan(
        Subset(state, prefix),
        abstract_params(autoencoder),
        lambda path: autoencoder_source(path, prefix),
        what="autoencoder",
        ignored=lambda name: name.startswith(ignored),
        allowed=allowed,
    )


def unet_params(state: Mapping[str, np.ndarray], unet: UNet, *, ema: bool = False) -> dict[str, Any]:
    """Returns the U-Net's parameters; raises UserError as `unet_plan` does."""
    return assemble(unet_plan(state, unet, ema=ema))


def autoencoder_params(
    state: Mapping[str, np.ndarray], autoencoder: AutoencoderKL | AutoencoderVQ, *, prefix: str = FIRST_STAGE_PREFIX
) -> dict[str, Any]:
    """Returns the autoencoder's parameters; raises UserError as `autoencoder_plan` does."""
    return assemble(autoencoder_plan(state, autoencoder, prefix=prefix))


def _place_upsampling(path: str, targets: Mapping[str, Any]) -> str:
    """Upsampling is numbered after the attention, if the block has any."""
    match = re.match(r"out_(\d+)_up/", path)
    if not match:
        return path
    block, rest = match[1], path.removeprefix(match[0])
    place = 2 if any(target.startswith(f"out_{block}_attn/") for target in targets) else 1
    return f"output_blocks.{block}.{place}{'.' if rest.startswith('conv/') else '/'}{rest}"
