"""Weights of the networks that evaluations ask: LPIPS with its VGG-16, and the Inception-v3 of the Fréchet distance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdm_jax.convert.mapping import Parameter, Source, Table, plan, rename
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_inception, build_lpips

# Where torchvision's VGG-16 has each convolution in its list of layers; LPIPS has the same numbers within slices.
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
    """Tells whether the names are those of LPIPS, with its VGG-16 or without."""
    return "lin0.model.1.weight" in state


def is_vgg(state: Mapping[str, np.ndarray]) -> bool:
    """Tells whether the names are those of torchvision's VGG-16."""
    return "features.28.weight" in state


def is_inception(state: Mapping[str, np.ndarray]) -> bool:
    """Tells whether the names are those of Inception-v3."""
    return "Mixed_7c.branch_pool.conv.weight" in state


def lpips_plan(
    state: Mapping[str, np.ndarray], vgg: Mapping[str, np.ndarray] | None, allowed: frozenset[str] = frozenset()
) -> dict[str, Parameter]:
    """Returns how the parameters of LPIPS are made.

    Args:
      state: LPIPS's own tensors: with the network's, or the weights of the distances alone, as they are published.
      vgg: torchvision's VGG-16 for the latter.
      allowed: names that may be missing or left over.

    Raises:
      UserError: there is no VGG-16, or there are two; or names are missing, unexpected or mis-shaped.
    """
    whole = "net.slice1.0.weight" in state
    if whole and vgg is not None:
        raise UserError("these weights of LPIPS have their VGG-16 in them; leave --vgg away")
    if not whole and vgg is None:
        raise UserError("these are the weights of LPIPS's distances alone; give torchvision's VGG-16 by --vgg")

    def source_of(path: str) -> Source:
        """Returns the name of one parameter's tensor."""
        layer, leaf = path.split("/")
        kind, *place = layer.split("_")
        if kind == "weights":
            return Source((f"lin{place[0]}.model.1.weight",), pointwise=True)
        stage, number = int(place[0]), _VGG[int(place[0])][int(place[1])]
        group = f"net.slice{stage + 1}" if whole else "features"
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
    return {"classes": int(state["fc.bias"].shape[0])} if "fc.bias" in state else {}


def inception_source(path: str) -> Source:
    """Returns the name of one parameter's tensor."""
    return Source((rename(path, _INCEPTION),))


def inception_plan(state: Mapping[str, np.ndarray], allowed: frozenset[str] = frozenset()) -> dict[str, Parameter]:
    """Returns how the parameters of Inception-v3 are made; running counts are left out.

    Raises:
      UserError: names are missing, unexpected or mis-shaped; torchvision's own weights, which are of another network,
        have "AuxLogits" left over.
    """
    return plan(
        state,
        abstract_params(build_inception(inception_config(state))),
        inception_source,
        what="Inception-v3 of the Fréchet distance",
        ignored=lambda name: name.endswith(".num_batches_tracked"),
        allowed=allowed,
    )
