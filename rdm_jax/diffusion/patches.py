"""Functions of large images computed in overlapping patches, whose outputs are blended.

This is how latent diffusion's program upscales images that are larger than those of training: at every step the network
sees one patch after another, and so does the decoder (https://arxiv.org/abs/2112.10752, section 4.3.2 and the program).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError

LEAST, MOST = 0.01, 0.5  # of a patch's weight: at its border and in its center


@dataclasses.dataclass(frozen=True)
class Patches:
    """How large inputs are divided.

    Attributes:
      size: of a patch on each side; smaller inputs are one patch.
      stride: between the beginnings of two patches, less than the size.
    """

    size: int
    stride: int

    @staticmethod
    def of(latents: Mapping[str, Any]) -> Patches | None:
        """Returns the patches of a bundle's section "latents"; None where it has none.

        Raises:
          UserError: the numbers are out of range.
        """
        if "patches" not in latents:
            return None
        size, stride = (int(latents["patches"][name]) for name in ("size", "stride"))
        if not 0 < stride < size:
            raise UserError(f"latents.patches has size {size} and stride {stride}; the stride is above 0 and below it")
        return Patches(size, stride)

    def begins(self, length: int) -> list[int]:
        """Returns where patches begin on an axis; the last one ends with it."""
        last = max(0, length - self.size)
        return [*range(0, last, self.stride), last]

    def apply(self, function: Callable[[Array], Array], x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Returns a function of whole inputs, computed patch by patch.

        Where patches overlap, their outputs are averaged with `weights`.

        Args:
          function: maps [b, h, w, c] to [b, f h, f w, d] for a whole number f.
          x: the whole input.
        """
        height, width = x.shape[1:3]
        if max(height, width) <= self.size:
            return function(x)
        sides = min(height, self.size), min(width, self.size)
        places = np.array([(top, left) for top in self.begins(height) for left in self.begins(width)], np.int32)

        def patch(place: Array) -> Array:
            """Returns the output of the patch that begins at a place."""
            begin = (0, place[0], place[1], 0)
            return function(jax.lax.dynamic_slice(x, begin, (x.shape[0], *sides, x.shape[3])))

        outputs = jax.lax.map(patch, jnp.asarray(places))
        factor = outputs.shape[2] // sides[0]
        weight = weights(sides[0] * factor, sides[1] * factor)
        total = np.zeros((height * factor, width * factor), np.float32)
        for top, left in places * factor:
            total[top : top + weight.shape[0], left : left + weight.shape[1]] += weight
        whole = jnp.zeros((x.shape[0], *total.shape, outputs.shape[-1]), outputs.dtype)
        for output, (top, left) in zip(outputs, places * factor, strict=True):
            rows, columns = slice(top, top + weight.shape[0]), slice(left, left + weight.shape[1])
            shares = (weight / total[rows, columns])[None, :, :, None]
            whole = whole.at[:, rows, columns].add(output * shares)
        return whole


def weights(height: int, width: int) -> Float[np.ndarray, "h w"]:
    """Returns the weight of each pixel of a patch: its distance to the border, 0.5 in the center, at least `LEAST`."""
    rows, columns = (np.arange(side) / max(1, side - 1) for side in (height, width))
    distances = np.minimum(np.minimum(rows, 1.0 - rows)[:, None], np.minimum(columns, 1.0 - columns)[None, :])
    return np.clip(distances, LEAST, MOST).astype(np.float32)
