"""LPIPS of a converted bundle, in batches on all devices of this process."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.images import to_float
from rdm_jax.core.mesh import batch_sharding, local_mesh, put_locally
from rdm_jax.evaluation.features.published import published_name

BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class PerceptualNetwork:
    """The LPIPS of a bundle."""

    bundle: Bundle

    @staticmethod
    def of(bundles: Sequence[Bundle]) -> PerceptualNetwork | None:
        """Returns the network of the first bundle that has one, None if none has."""
        return next((PerceptualNetwork(bundle) for bundle in bundles if bundle.has("lpips")), None)

    @functools.cached_property
    def title(self) -> str:
        """The name of the distance in tables."""
        return published_name(self.bundle, "lpips") or f"LPIPS with the weights of {self.bundle.name!r}"

    def distances(self, a: UInt8[np.ndarray, "n h w 3"], b: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
        """Returns the distance of each pair, 0 for equal images; at most `BATCH` pairs."""
        devices = self._mesh.size
        size = min(-(-BATCH // devices), -(-len(a) // devices)) * devices
        padding = [(0, size - len(a)), (0, 0), (0, 0), (0, 0)]
        pair = [jax.device_put(to_float(np.pad(x, padding)), batch_sharding(self._mesh)) for x in (a, b)]
        return np.asarray(self._apply(self._params, *pair), np.float32)[: len(a)]

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return local_mesh()

    @functools.cached_property
    def _params(self) -> Any:
        return put_locally(self.bundle.params["lpips"], self._mesh)

    @functools.cached_property
    def _apply(self) -> Callable[..., jax.Array]:
        return jax.jit(lambda params, a, b: self.bundle.lpips.apply({"params": params}, a, b))
