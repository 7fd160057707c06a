"""Neighbors beside a text: an adapter turns them into tokens with an attention of their own.

The base adapter reads the vector of a row (IP-Adapter, https://arxiv.org/abs/2308.06721), the plus adapter the patches
of its image, so that the neighbors of a prompt take the place of the image that a user would choose by hand. The null
condition has the tokens of a vector of zeros, or of an image whose pixels are the mean, as in the original program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.roles import neighbor_images
from rdm_jax.models.condition import ImageTokens
from rdm_jax.models.image_adapter import PatchResampler, VectorProjection
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors


@dataclasses.dataclass(frozen=True, eq=False)
class NeighborTokens:
    """Makes the tokens of neighbors.

    Attributes:
      projection: makes tokens of what it reads of an image.
      params: its parameters.
      encoder: the model's CLIP.
      scale: what the attention to the tokens is multiplied by.
      databases: that the neighbors are from.
    """

    projection: VectorProjection | PatchResampler
    params: Any
    encoder: ClipEncoder
    scale: float
    databases: Sequence[Database] = ()

    @staticmethod
    def of(bundle: Bundle, encoder: ClipEncoder, scale: float, databases: Sequence[Database]) -> NeighborTokens | None:
        """Returns what makes the tokens of a model's neighbors; None for a model without an adapter."""
        if not bundle.has("image_adapter"):
            return None
        return NeighborTokens(bundle.image_adapter, bundle.params["image_adapter"], encoder, scale, databases)

    @property
    def per_neighbor(self) -> int:
        """The number of tokens of a neighbor."""
        return self.projection.tokens

    def tokens(self, neighbors: Neighbors) -> Float[np.ndarray, "q n d"]:
        """Returns the tokens of each query's neighbors, one neighbor after the other.

        Raises:
          UserError: the adapter reads images, and a database keeps none.
        """
        q, k = neighbors.ids.shape
        if self.projection.reads == "vector":
            read = neighbors.embeddings.reshape(q * k, -1).astype(np.float32)
        else:
            side = self.encoder.image_size
            images = neighbor_images(self.databases, neighbors, (side, side))
            read = self.encoder.encode_patches([*images.reshape(q * k, side, side, 3)])
        tokens = np.asarray(_project(self.projection, self.params, read))
        return tokens.reshape(q, k * self.per_neighbor, -1)

    def group(self, tokens: Float[np.ndarray, "q n d"]) -> ImageTokens:
        """Returns tokens as one group with the run's scale."""
        return ImageTokens(tokens[:, None], np.full((len(tokens), 1), self.scale, np.float32))

    def null(self, like: ImageTokens) -> ImageTokens:
        """Returns the tokens of no image, as many as of images."""
        count = like.tokens.shape[2] // self.per_neighbor
        tokens = np.broadcast_to(np.tile(self._nothing, (count, 1)), like.tokens.shape)
        return dataclasses.replace(like, tokens=tokens)

    @functools.cached_property
    def _nothing(self) -> Float[np.ndarray, "n d"]:
        """The tokens of no image."""
        if isinstance(self.projection, VectorProjection):
            read = np.zeros((1, self.projection.vector_dim), np.float32)
        else:
            read = self.encoder.mean_patches
        return np.asarray(_project(self.projection, self.params, read))[0]


@functools.partial(jax.jit, static_argnums=0)
def _project(projection: VectorProjection | PatchResampler, params: Any, read: Any) -> Any:
    return projection.apply({"params": params}, jnp.asarray(read))
