"""Weights of the networks of evaluation: LPIPS with its VGG-16, and the Inception-v3 of the Fréchet distance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.mapping import Parameter, Source, Table, plan, rename, shape_of
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_inception, build_lpips

# The numbers of the convolutions in torchvision's list of VGG-16's layers; LPIPS has the same numbers in slices.
_VGG = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_LPIPS_BESIDE = re.compile(r"classifier\..*|lins\..*|scaling_layer\.(shift|scale)")

_INCEPTION: Table = (
    (r"^fc/kernel$", "fc.weight"),
    (r"^fc/bias$", "fc.bias"),
    (r"/conv/kernel$", ".conv.weight"),
    (r"/norm/scale$", ".bn.weight"),
    (r"/norm/bias$", ".bn.bias"),
    (r"/norm/(mean|var)$", r".bn.running_\1"),
    ("/", "."),
)


def is_lpips(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of LPIPS, with its VGG-16 or without."""
    return "lin0.model.1.weight" in state


def is_vgg(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of torchvision's VGG-16."""
    return "features.28.weight" in state


def is_inception(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether the names are those of Inception-v3."""
    return "Mixed_7c.branch_pool.conv.weight" in state


def lpips_plan(
    state: Mapping[str, np.ndarray], vgg: Mapping[str, np.ndarray] | None, allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how the parameters of LPIPS are assembled.

    Args:
      state: LPIPS's tensors, with the VGG-16's or without, as they are published.
      vgg: torchvision's VGG-16, if `state` is without.
      allowed: names that may be missing or unused.

    Raises:
      UserError: there is no VGG-16, or there are two, or names are missing, unexpected or mis-shaped.
    """
    complete = "net.slice1.0.weight" in state
    if complete and vgg is not None:
        raise UserError("these weights of LPIPS contain their VGG-16; omit --vgg")
    if not complete and vgg is None:
        raise UserError("these weights of LPIPS are without its VGG-16; give torchvision's VGG-16 by --vgg")

    def source_of(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        layer, leaf = path.split("/")
        kind, *place = layer.split("_")
        if kind == "weights":
            return Source((f"lin{place[0]}.model.1.weight",), pixel_axes=2)
        stage, number = int(place[0]), _VGG[int(place[0])][int(place[1])]
        group = f"net.slice{stage + 1}" if complete else "features"
        return Source((f"{group}.{number}.{'weight' if leaf == 'kernel' else 'bias'}",))

    return plan(
        state if vgg is None else {**vgg, **state},
        abstract_params(build_lpips({})),
        source_of,
        what="LPIPS",
        ignored=lambda name: bool(_LPIPS_BESIDE.fullmatch(name)),
        allowed=allowed,
    )


def inception_config(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the configuration of the Inception-v3 that a state dict holds."""
    return {"classes": shape_of(state, "fc.bias", 1, "Inception-v3")[0]} if "fc.bias" in state else {}


def inception_source(path: str) -> Source:
    """Returns the name of one parameter's tensor."""
    return Source((rename(path, _INCEPTION),))


def inception_plan(state: Mapping[str, np.ndarray], allowed: frozenset[str] = frozenset()) -> dict[str, Parameter]:
    """Returns how the parameters of Inception-v3 are assembled; counters are ignored.

    Raises:
      UserError: names are missing, unexpected or mis-shaped; torchvision's own weights, of another network, have an
        unexpected "AuxLogits".
    """
    return plan(
        state,
        abstract_params(build_inception(inception_config(state))),
        inception_source,
        what="Inception-v3 of the Fréchet distance",
        ignored=lambda name: name.endswith(".num_batches_tracked"),
        allowed=allowed,
    )
