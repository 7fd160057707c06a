"""Neighbors beside a text: an adapter turns their vectors into tokens with an attention of their own.

A row of a database is the vector that the adapter reads (IP-Adapter, https://arxiv.org/abs/2308.06721), so that the
neighbors of a prompt take the place of the image that a user would choose by hand. The null condition has the tokens of
a vector of zeros, as in the original program.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rdm_jax.bundle import Bundle
from rdm_jax.models.condition import ImageTokens
from rdm_jax.models.image_adapter import VectorProjection


@dataclasses.dataclass(frozen=True, eq=False)
class NeighborTokens:
    """Makes the tokens of neighbors.

    Attributes:
      projection: makes tokens of a vector.
      params: its parameters.
      scale: what the attention to the tokens is multiplied by.
    """

    projection: VectorProjection
    params: Any
    scale: float

    @staticmethod
    def of(bundle: Bundle, scale: float) -> NeighborTokens | None:
        """Returns what makes the tokens of a model's neighbors; None for a model without an adapter."""
        if not bundle.has("image_adapter"):
            return None
        return NeighborTokens(bundle.image_adapter, bundle.params["image_adapter"], scale)

    @property
    def per_neighbor(self) -> int:
        """The number of tokens of a neighbor."""
        return self.projection.tokens

    def __call__(self, vectors: Float[np.ndarray, "q k d"]) -> ImageTokens:
        """Returns the tokens of each query's neighbors, one neighbor after the other, as one group."""
        tokens = np.stack([np.asarray(_project(self.projection, self.params, each)) for each in vectors])
        grouped = tokens.reshape(len(vectors), 1, -1, self.projection.token_dim)
        return ImageTokens(grouped, np.full((len(vectors), 1), self.scale, np.float32))

    def null(self, like: ImageTokens) -> ImageTokens:
        """Returns the tokens of no image, as many as of images."""
        zeros = np.zeros((1, 1, self.projection.vector_dim), np.float32)
        one = self(zeros).tokens[:, :, : self.per_neighbor]
        count = like.tokens.shape[2] // self.per_neighbor
        tokens = np.broadcast_to(np.tile(one, (1, 1, count, 1)), like.tokens.shape)
        return dataclasses.replace(like, tokens=tokens)


@functools.partial(jax.jit, static_argnums=0)
def _project(projection: VectorProjection, params: Any, vectors: Any) -> Any:
    return projection.apply({"params": params}, vectors)
