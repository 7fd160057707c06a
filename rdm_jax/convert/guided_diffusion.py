"""The U-Nets of OpenAI's guided diffusion (ADM) and GLIDE: what their tensors imply, and the flags that they do not.

Both programs store bare state dicts. Widths, levels, attention and conditions follow from names and shapes; the number
of heads, the order of queries, keys and values, and the noise schedule do not: they are those of the published model of
such shapes, or of a .json of the program's flags.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.mapping import shape_of
from rdm_jax.core.errors import UserError, unknown

WHAT = "U-Net"
SCHEDULES = {
    "linear": {"schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2},
    "cosine": {"schedule": "cosine"},
    "squaredcos_cap_v2": {"schedule": "cosine"},
}
"""By the programs' names: settings of `diffusion.schedule`."""

ALIASES = {
    "width": "num_channels",
    "depth": "num_res_blocks",
    "model_channels": "num_channels",
    "head_channels": "num_head_channels",
}
"""Flags with another name in some of the programs."""

IGNORED = (
    "dropout",
    "use_fp16",
    "class_cond",
    "num_classes",
    "learn_sigma",
    "attention_ds",
    "attention_resolutions",
    "num_heads_upsample",
    "cache_text_emb",
    "super_res",
    "inpaint",
    "pool",
    "in_channels",
    "out_channels",
    "use_scale_shift_norm",
    "resblock_updown",
    "small_size",
    "text_ctx",
    "xf_width",
    "xf_layers",
    "xf_final_ln",
    "xf_padding",
    "n_vocab",
)
"""Flags that a tensor shows, or that matter in training alone."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """What no tensor shows.

    Attributes:
      image_size: height and width of the images; 0 is unknown.
      num_heads: of attention; -1 where `num_head_channels` counts.
      num_head_channels: channels of a head; -1 where `num_heads` counts.
      noise_schedule: a name in `SCHEDULES`.
      use_new_attention_order: whether queries, keys and values are stored one after another, each with all its heads.
      diffusion_steps: times of the schedule.
      xf_heads: of GLIDE's text encoder.
    """

    image_size: int = 0
    num_heads: int = -1
    num_head_channels: int = -1
    noise_schedule: str = "linear"
    use_new_attention_order: bool = False
    diffusion_steps: int = 1000
    xf_heads: int = 8

    @property
    def heads(self) -> dict[str, int]:
        """The setting of attention heads of our U-Net."""
        by_channels = self.num_head_channels > 0
        return {"num_head_channels": self.num_head_channels} if by_channels else {"num_heads": self.num_heads}


def structure(state: Mapping[str, np.ndarray], channels: int = 3) -> dict[str, Any]:
    """Returns the settings of a U-Net, or of the half of one, that its names and shapes imply.

    Args:
      state: the tensors.
      channels: of the images; further ones of the input are a condition.

    Raises:
      UserError: a tensor is missing or of another rank, or the levels do not follow from the attention.
    """
    width = shape_of(state, "time_embed.0.weight", 2, WHAT)[1]
    blocks = 1 + max(_numbers(state, r"input_blocks\.(\d+)\."))
    attended = _numbers(state, r"input_blocks\.(\d+)\.1\.qkv\.weight")
    per_level = _per_level(state, blocks, attended)
    levels = range(blocks // (per_level + 1))
    firsts = [1 + level * (per_level + 1) for level in levels]
    convolutions = [shape_of(state, f"input_blocks.{block}.0.out_layers.3.weight", 4, WHAT) for block in firsts]
    outputs, inputs = convolutions[0][0], shape_of(state, "input_blocks.0.0.weight", 4, WHAT)[1]
    embedded = shape_of(state, f"input_blocks.{firsts[0]}.0.emb_layers.1.weight", 2, WHAT)[0]
    downsampled = f"input_blocks.{firsts[1] - 1}.0.op.weight" if len(levels) > 1 else ""
    multiples = [shape[0] / width for shape in convolutions]
    return {
        "in_channels": channels,
        "condition_channels": inputs - channels,
        "model_channels": width,
        "channel_mult": [int(one) if one == int(one) else one for one in multiples],
        "num_res_blocks": per_level,
        "attention_resolutions": [2**level for level, block in zip(levels, firsts, strict=True) if block in attended],
        "scale_shift": embedded == 2 * outputs,
        "residual_resampling": downsampled not in state,
    }


def _per_level(state: Mapping[str, np.ndarray], blocks: int, attended: set[int]) -> int:
    """Returns how many residual blocks a level has: only one number fits the blocks that have attention.

    A level has attention in all its blocks or in none. Blocks that change the size have none, and keep the channels.
    """
    fitting = [
        count for count in range(1, blocks) if blocks % (count + 1) == 0 and _fits(state, count, attended, blocks)
    ]
    if len(fitting) != 1:
        raise UserError(
            f"the {WHAT} has {blocks} blocks on its way down, and no single number of blocks a level fits their "
            "attention; models of guided diffusion and GLIDE are converted"
        )
    return fitting[0]


def _fits(state: Mapping[str, np.ndarray], count: int, attended: set[int], blocks: int) -> bool:
    groups = [set(range(1 + first, 1 + first + count)) for first in range(0, blocks, count + 1)]
    between = set(range(1, blocks)) - set().union(*groups)
    widened = any(f"input_blocks.{block}.0.skip_connection.weight" in state for block in between)
    return not widened and not between & attended and all(group <= attended or not group & attended for group in groups)


def read_flags(what: str, arguments: Mapping[str, Any], published: Flags | None, found: Mapping[str, Any]) -> Flags:
    """Returns the flags of a model: those that are given, else those of the published model of its shapes.

    Args:
      what: the model, for errors.
      arguments: the content of the .json; empty without one.
      published: of the published model; None if there is none of these shapes.
      found: what the tensors show, by the names of flags.

    Raises:
      UserError: a flag is unknown, contradicts the tensors or is out of range, or flags are needed and none are given.
    """
    given = {ALIASES.get(name, name): value for name, value in arguments.items() if value is not None}
    own = {field.name for field in dataclasses.fields(Flags)}
    for name, value in given.items():
        if name not in own and name not in found and name not in IGNORED:
            raise unknown(f"flag of {what}", name, [*own, *found, *IGNORED])
        if name in found and value != found[name]:
            raise UserError(
                f"the flags say {name}={value}, and the weights of this {what} have {name}={found[name]}; give the "
                "flags that belong to these weights"
            )
    chosen = {name: value for name, value in given.items() if name in own}
    heads = {"num_heads", "num_head_channels"} & chosen.keys()
    if published is None and not heads:
        raise UserError(
            f"the weights are of no published {what}, and do not show its heads, attention order and noise schedule; "
            f"give the .json of the program's flags by --config, with {', '.join(sorted(own))}"
        )
    if heads == {"num_heads"}:
        chosen["num_head_channels"] = -1
    base = published if published is not None else Flags()
    flags = dataclasses.replace(base, **chosen)
    if flags.noise_schedule not in SCHEDULES:
        raise unknown("noise schedule", str(flags.noise_schedule), SCHEDULES)
    numbers = ("image_size", "num_heads", "num_head_channels", "diffusion_steps", "xf_heads")
    wrong = [name for name in numbers if type(getattr(flags, name)) is not int]
    if wrong or flags.image_size < 1 or flags.diffusion_steps < 1:
        raise UserError(
            f"the flags of the {what} have no valid {wrong[0] if wrong else 'image_size'}; whole numbers only"
        )
    return flags


def _numbers(state: Mapping[str, np.ndarray], pattern: str) -> set[int]:
    """Returns the numbers that a pattern's group has in the names of tensors."""
    return {int(match[1]) for name in state if (match := re.match(pattern, name))}


def conventions(flags: Flags, sampling: Mapping[str, Any], conditioning: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sections of a bundle beside its networks.

    Args:
      flags: of the model.
      sampling: its defaults.
      conditioning: beside the entries of any model without neighbors.
    """
    side = flags.image_size
    schedule = SCHEDULES[flags.noise_schedule]
    return {
        "diffusion": {"num_timesteps": flags.diffusion_steps, "prediction": "eps", "clip": 1.0, **schedule},
        "latents": {"scale": 1.0},
        "conditioning": {"neighbors": 0, "null": "zeros", **conditioning},
        "sampling": {
            "condition": "text",
            "sampler": "ddpm(variance='learned')",
            "spacing": "linspace",
            "eta": 0.0,
            "guidance_scale": 1.0,
            **sampling,
            "height": side,
            "width": side,
        },
    }
