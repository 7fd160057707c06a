"""What models are conditioned on beside prompts and neighbors: a class, a layout, a segmentation, a small image.

A bundle names its input, a key of `INPUTS`, in its section "conditioning"; a bundle without the entry reads prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.channels import upscales
from rdm_jax.conditioning.inputs.base import PART, Given, Input, Target
from rdm_jax.conditioning.inputs.class_label import ClassLabel
from rdm_jax.conditioning.inputs.class_vector import ClassVector
from rdm_jax.conditioning.inputs.layout import Layout
from rdm_jax.conditioning.inputs.low_resolution import LowResolution
from rdm_jax.conditioning.inputs.nothing import Nothing
from rdm_jax.conditioning.inputs.segmentation import Segmentation
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.options import declarations, flag_of
from rdm_jax.request import Request

__all__ = ["INPUTS", "Given", "check_parts", "input_of", "options_of", "read_input"]

INPUTS: Mapping[str, Input] = {
    "none": Nothing(),
    "class": ClassLabel(),
    "class_vector": ClassVector(),
    "layout": Layout(),
    "segmentation": Segmentation(),
    "low_resolution": LowResolution(),
}


def input_of(bundle: Bundle) -> Input | None:
    """Returns the input that a model takes; None if it reads prompts or images.

    Raises:
      UserError: the bundle names an unknown input.
    """
    return _input(bundle.config)


def _input(config: Mapping[str, Any]) -> Input | None:
    name = config["conditioning"].get("input")
    if name is None:
        return None
    if name not in INPUTS:
        raise unknown("input", str(name), INPUTS)
    return INPUTS[name]


def options_of(config: Mapping[str, Any]) -> set[str]:
    """Returns the options of a request that give a model its inputs, such as "low_resolution".

    Args:
      config: of its bundle.

    Raises:
      UserError: the configuration names an unknown input, or unknown channels.
    """
    own = _input(config)
    return {own.option if own else "", "low_resolution" if upscales(config) else ""} - {""}


def check_parts(bundle: Bundle) -> None:
    """Raises UserError if a model lacks the network that encodes its input."""
    own = input_of(bundle)
    if own is not None and own.encoded:
        bundle.require(PART)


def read_input(request: Request, bundle: Bundle, latent: tuple[int, int]) -> Given | None:
    """Returns what the input of a request gives; None where the model reads prompts alone.

    Args:
      request: its options name the input.
      bundle: the model.
      latent: (h, w) of a latent.

    Raises:
      UserError: the request has an input that the model does not take, lacks its own, or it is invalid.
    """
    own, taken = input_of(bundle), options_of(bundle.config)
    for one in INPUTS.values():
        if one.option not in taken and _is_given(request, one):
            takes = f"takes {own.what}" if own is not None else "reads prompts"
            raise UserError(
                f"{_flag(one)} applies to models that take {one.what}, and model {bundle.name!r} {takes}; leave it out"
            )
    if own is None:
        return None
    if own.option and not _is_given(request, own):
        raise UserError(f"model {bundle.name!r} takes {own.what}; give it by {_flag(own)}")
    return own.read(request, Target(bundle, latent))


def _is_given(request: Request, one: Input) -> bool:
    """Returns whether a request has a value for an input's option, other than the default."""
    return bool(one.option) and getattr(request, one.option) != getattr(Request(), one.option)


def _flag(one: Input) -> str:
    return flag_of(one.option, declarations(Request)[one.option])
