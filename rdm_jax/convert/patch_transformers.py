"""What conversions of released DiTs and U-ViTs have in common.

Nearly all settings follow from the names and shapes of the tensors. The number of heads does not: it is that of the
published width, or of the constructor's arguments in a .json file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.core import text
from rdm_jax.core.errors import UserError, unknown

LATENT_CHANNELS, LATENT_SCALE, DOWNSAMPLING = 4, 0.18215, 8  # of Stable Diffusion's first stage, KL-f8
_GIVE = "give the .json of the constructor's arguments"


def read_arguments(source: Path, config: Path | None) -> tuple[Path | None, Mapping[str, Any]]:
    """Returns the file of the constructor's arguments, and the arguments; (None, {}) if there is none.

    Args:
      source: the file of weights; "NAME.json" beside it is read if there is one.
      config: another .json file.

    Raises:
      UserError: the file cannot be read, or is no JSON object.
    """
    file = config or source.with_suffix(".json")
    if config is None and not file.is_file():
        return None, {}
    try:
        arguments = text.read_json(file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; {_GIVE}") from error
    except ValueError as error:
        raise UserError(f"{file} is no JSON; {_GIVE}") from error
    if not isinstance(arguments, dict):
        raise UserError(f"{file} is no JSON object; {_GIVE}")
    return file, arguments


def check_arguments(what: str, arguments: Mapping[str, Any], found: Mapping[str, Any], others: tuple[str, ...]) -> None:
    """Checks that a network's arguments fit its tensors.

    Args:
      what: the network, for the error.
      arguments: the constructor's.
      found: what the tensors say, by the arguments' names.
      others: arguments that leave no trace in the tensors.

    Raises:
      UserError: an argument is none of this network, or has another value than the tensors say.
    """
    for name, value in arguments.items():
        if name not in found and name not in others:
            raise unknown(f"argument of a {what}", name, [*found, *others])
        if name in found and value != found[name]:
            raise UserError(
                f"the arguments say {name}={value}, and the weights are of a {what} with {name}={found[name]}; "
                "give the arguments that belong to these weights"
            )


def heads_of(what: str, width: int, arguments: Mapping[str, Any], published: Mapping[int, int]) -> int:
    """Returns the number of heads: an argument, or that of the published width.

    Raises:
      UserError: neither is there, or it does not divide the width.
    """
    heads = arguments.get("num_heads", published.get(width))
    if heads is None:
        raise UserError(
            f"the weights do not say how many heads this {what} of width {width} has; give the .json of its "
            "constructor's arguments by --config, with num_heads"
        )
    if type(heads) is not int or heads < 1 or width % heads:
        raise UserError(f"num_heads={heads} does not divide the width {width} of this {what}")
    return heads


def count_blocks(state: Mapping[str, np.ndarray], prefix: str) -> int:
    """Returns how many numbered blocks there are under a prefix."""
    return len({match[1] for name in state if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))})


def square_root(patches: int, what: str) -> int:
    """Returns the side of a square of patches; raises UserError if there is none."""
    side = math.isqrt(max(patches, 0))
    if not side or side * side != patches:
        raise UserError(f"the {what} has positions for {patches} patches, which are no square")
    return side


def conventions(network: Mapping[str, Any], diffusion: Mapping[str, Any], **sampling: Any) -> dict[str, Any]:
    """Returns the sections of a bundle beside the denoiser of a released network without retrieval.

    Args:
      network: its configuration. Networks of four channels work on Stable Diffusion's latents, others on pixels.
      diffusion: the noise schedule and the prediction.
      sampling: how the release is sampled.
    """
    latent = network["in_channels"] == LATENT_CHANNELS
    side = network["latent_size"] * (DOWNSAMPLING if latent else 1)
    conditioned = network.get("context_dim") or network.get("vector_dim")
    return {
        **({} if latent else {"autoencoder": {"kind": "pixels"}}),
        "diffusion": {"num_timesteps": 1000, "prediction": "eps", **diffusion},
        "latents": {"scale": LATENT_SCALE if latent else 1.0},
        "conditioning": {
            "neighbors": 0,
            "unit_tokens": False,
            "null": "zeros",
            **({} if conditioned else {"input": "none"}),
        },
        "sampling": {**({} if conditioned else {"condition": "text"}), **sampling, "height": side, "width": side},
    }
