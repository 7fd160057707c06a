"""Neighbors beside a text: an adapter turns them into tokens with an attention of their own.

The base adapter reads the vector of a row (IP-Adapter, https://arxiv.org/abs/2308.06721), the plus adapter the patches
of its image, so that the neighbors of a prompt take the place of the image that a user would choose by hand. The null
condition has the tokens of a vector of zeros, or of an image whose pixels are the mean, as in the original program.

Re-Imagen's (https://arxiv.org/abs/2209.14491) reads the U-Net's own features of the neighbor and its caption. They
depend on no step, and are computed once. The null condition has tokens of zeros, whose attention adds nothing.

A transformer over codes (Parti, https://arxiv.org/abs/2206.10789, with neighbors) has one attention to the text and to
the projected vectors of the neighbors; the scale is how often each of these counts there.
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
from rdm_jax.conditioning.features import feature_tokens
from rdm_jax.conditioning.roles import neighbor_captions, neighbor_images
from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.factory import encoder_from
from rdm_jax.models import ImageAdapter, UNet
from rdm_jax.models.condition import ImageTokens
from rdm_jax.models.image_adapter import FeatureProjection, VectorProjection
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import SMALL_BATCH, ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors


@dataclasses.dataclass(frozen=True, eq=False)
class NeighborTokens:
    """Makes the tokens of neighbors.

    Attributes:
      projection: makes tokens of what it reads of an image.
      params: its parameters.
      encoder: the model's CLIP.
      scale: what the attention to the tokens is multiplied by.
      blocks: [p] the same in each of the denoiser's places; None where all are 1.
      databases: that the neighbors are from.
      bundle: the model.
      joined: whether one attention is to the text and the neighbors, and the null condition has no neighbors at all.
    """

    projection: ImageAdapter
    params: Any
    encoder: ClipEncoder
    scale: float
    blocks: Float[np.ndarray, " p"] | None = None
    databases: Sequence[Database] = ()
    bundle: Bundle | None = None
    joined: bool = False

    @staticmethod
    def of(
        bundle: Bundle, encoder: ClipEncoder, scale: float, blocks: str, databases: Sequence[Database]
    ) -> NeighborTokens | None:
        """Returns what makes the tokens of a model's neighbors; None for a model without an adapter.

        Args:
          bundle: the model.
          encoder: its CLIP.
          scale: of the attention.
          blocks: where the adapter acts, a name in `request.ADAPTER_BLOCKS`.
          databases: that the neighbors are from.

        Raises:
          UserError: the adapter of a transformer over codes is to act in some blocks alone.
        """
        if not bundle.has("image_adapter"):
            return None
        joined = bundle.has("transformer")
        if joined and blocks != "all":
            raise UserError(
                f"adapter_blocks {blocks}: every block of model {bundle.name!r} attends to neighbors; leave it at all"
            )
        acting = None if joined else acting_places(bundle.denoiser, blocks)
        params = bundle.params["image_adapter"]
        return NeighborTokens(bundle.image_adapter, params, encoder, scale, acting, databases, bundle, joined)

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
        if self.projection.reads == "features":
            return self._of_features(neighbors).reshape(q, k * self.per_neighbor, -1)
        if self.projection.reads == "vector":
            read = neighbors.embeddings.reshape(q * k, -1).astype(np.float32)
        else:
            side = self.encoder.image_size
            images = neighbor_images(self.databases, neighbors, (side, side))
            read = self.encoder.encode_patches([*images.reshape(q * k, side, side, 3)])
        tokens = np.asarray(_project(self.projection, self.params, read))
        return tokens.reshape(q, k * self.per_neighbor, -1)

    def _of_features(self, neighbors: Neighbors) -> Float[np.ndarray, "n t d"]:
        """Returns the tokens of neighbors by the denoiser's features of each, one neighbor after the other.

        Raises:
          UserError: a database keeps no images.
        """
        assert self.bundle is not None and isinstance(self.projection, FeatureProjection)
        bundle, unet, stage = self.bundle, self.bundle.denoiser, self.bundle.autoencoder
        side = self.projection.side * unet.size_multiple * stage.downsampling
        images = neighbor_images(self.databases, neighbors, (side, side)).reshape(-1, side, side, 3)
        captions = self.encoder.encode_queries(neighbor_captions(self.databases, neighbors))
        if bundle.config["conditioning"].get("unit_tokens", False):
            captions = unit(captions)
        latents = bundle.config["latents"]
        scaling = float(latents["scale"]), tuple(np.ravel(latents.get("shift", 0.0)).tolist())
        made = []
        for begin in range(0, len(images), SMALL_BATCH):  # all go through one program
            some = images[begin : begin + SMALL_BATCH], captions[begin : begin + SMALL_BATCH]
            batch = (np.pad(one, [(0, SMALL_BATCH - len(one))] + [(0, 0)] * (one.ndim - 1)) for one in some)
            made.append(_of_images(unet, stage, self.projection, scaling, bundle.params, *batch)[: len(some[0])])
        return np.concatenate([np.zeros((0, self.per_neighbor, self.projection.token_dim), np.float32), *made])

    def group(self, tokens: Float[np.ndarray, "q n d"]) -> ImageTokens:
        """Returns tokens as one group with the run's scale."""
        blocks = None if self.blocks is None else np.tile(self.blocks, (len(tokens), 1))
        return ImageTokens(tokens[:, None], np.full((len(tokens), 1), self.scale, np.float32), blocks=blocks)

    def null(self, like: ImageTokens) -> ImageTokens:
        """Returns the tokens of no image, as many as of images; joined ones count nothing."""
        if self.joined:
            return dataclasses.replace(like, scales=np.zeros_like(like.scales))
        count = like.tokens.shape[2] // self.per_neighbor
        tokens = np.broadcast_to(np.tile(self._nothing, (count, 1)), like.tokens.shape)
        return dataclasses.replace(like, tokens=tokens)

    @functools.cached_property
    def _nothing(self) -> Float[np.ndarray, "n d"]:
        """The tokens of no image."""
        if isinstance(self.projection, FeatureProjection):
            return np.zeros((self.per_neighbor, self.projection.token_dim), np.float32)
        if isinstance(self.projection, VectorProjection):
            read = np.zeros((1, self.projection.vector_dim), np.float32)
        else:
            read = self.encoder.mean_patches
        return np.asarray(_project(self.projection, self.params, read))[0]


def acting_places(unet: UNet, blocks: str) -> Float[np.ndarray, " p"] | None:
    """Returns 1 for each place of a U-Net where an adapter acts and 0 for the others; None for all of them.

    The blocks of the smallest size with attention hold the style on the way up, and the layout on the way down and in
    the middle (InstantStyle, https://arxiv.org/abs/2404.02733, section 3.2; its program names up_blocks.1,
    down_blocks.2 and mid_block of Stable Diffusion 1.5, as an experiment).

    Args:
      unet: the denoiser.
      blocks: "all", "style" or "style+layout".
    """
    if blocks == "all":
        return None
    levels = [level for level in range(len(unet.channel_mult)) if 2**level in unet.attention_resolutions]
    acting = {f"up_{levels[-1]}"} | ({f"down_{levels[-1]}", "mid"} if blocks == "style+layout" else set())
    return np.array([place in acting for place in unet.places], np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _project(projection: ImageAdapter, params: Any, read: Any) -> Any:
    return projection.apply({"params": params}, jnp.asarray(read))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _of_images(
    unet: Any, stage: Any, projection: FeatureProjection, scaling: Any, params: Any, images: Any, captions: Any
) -> Any:
    encode = encoder_from(stage, dict(zip(("scale", "shift"), scaling, strict=True)))
    latents = encode(params["autoencoder"], images.astype(jnp.float32) / 127.5 - 1.0)
    return feature_tokens(unet, projection, params, latents, captions)
