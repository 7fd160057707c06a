"""The two roles of neighbors in images: style neighbors become tokens, content neighbors channels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.structure import ink, structure
from rdm_jax.conditioning.views import View
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit, to_float
from rdm_jax.core.vectors import agreement
from rdm_jax.models import build_style_encoder
from rdm_jax.models.patch_encoder import PatchEncoder
from rdm_jax.models.style_encoder import StyleEncoder
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import SMALL_BATCH
from rdm_jax.retrieval.retriever import Neighbors, map_neighbors


def two_roles(bundle: Bundle) -> bool:
    """Returns whether a model has neighbors that show the content beside those that show the style."""
    return bundle.has("style_encoder")


@dataclasses.dataclass(frozen=True, eq=False)
class StyleTokens:
    """Makes tokens of the images of style neighbors.

    Attributes:
      encoder: the style encoder.
      params: its parameters.
      view: what it takes of an image.
      networks: {part: parameters} that the view needs.
      databases: that the neighbors are from.
    """

    encoder: StyleEncoder | PatchEncoder
    params: Any
    view: View
    networks: Mapping[str, Any]
    databases: Sequence[Database] = ()

    @staticmethod
    def of(bundle: Bundle, databases: Sequence[Database]) -> StyleTokens | None:
        """Returns what makes the tokens of a model's style neighbors; None if it has one role of neighbors."""
        if not two_roles(bundle):
            return None
        config = bundle.config
        view = View.of(config["style_encoder"], bundle, bundle.denoiser, config["latents"])
        networks = {part: bundle.params[part] for part in view.parts}
        encoder = build_style_encoder(config["style_encoder"])
        return StyleTokens(encoder, bundle.params["style_encoder"], view, networks, databases)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images that the encoder takes."""
        return self.encoder.image_size, self.encoder.image_size

    @property
    def per_neighbor(self) -> int:
        """The number of tokens of a neighbor."""
        return self.encoder.tokens

    def tokens(self, neighbors: Neighbors) -> Float[np.ndarray, "q n d"]:
        """Returns the tokens of each query's neighbors, one neighbor after the other."""
        images = neighbor_images(self.databases, neighbors, self.size)
        tokens, _ = self.encode(images.reshape(-1, *images.shape[2:]))
        return tokens.reshape(len(images), -1, tokens.shape[-1])

    def encode(
        self, images: UInt8[np.ndarray, "n s s 3"]
    ) -> tuple[Float[np.ndarray, "n t d"], Float[np.ndarray, "n v"]]:
        """Returns tokens and vectors of images, which have the encoder's size."""
        batches = [_padded(images[i : i + SMALL_BATCH]) for i in range(0, len(images), SMALL_BATCH)]
        networks = self.encoder, self.view, self.params, self.networks
        encoded = [_apply(*networks, jnp.asarray(to_float(batch))) for batch in batches]
        empty = np.zeros((0, self.encoder.tokens, self.encoder.token_dim)), np.zeros((0, self.encoder.vector_dim))
        tokens, vectors = map(np.concatenate, zip(empty, *encoded, strict=True))
        return tokens[: len(images)].astype(np.float32), vectors[: len(images)].astype(np.float32)

    def vectors(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n v"]:
        """Returns the vectors of images of any size."""
        return self.encode(np.stack([fit(image, *self.size) for image in images]))[1]


@dataclasses.dataclass(frozen=True, eq=False)
class StyleReferences:
    """The style neighbors of queries, as what the style of other images is compared with.

    Attributes:
      style: makes the vectors.
      neighbors: of each query.
    """

    style: StyleTokens
    neighbors: Neighbors

    @functools.cached_property
    def vectors(self) -> Float[np.ndarray, "q k v"]:
        """The vectors of each query's style neighbors; each image is encoded once, when something is compared."""
        names, ids = self.neighbors.databases, self.neighbors.ids
        keys = [*zip(names.ravel().tolist(), ids.ravel().tolist(), strict=True)]
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        places = np.array(sorted(first.values()))
        flat = map_neighbors(lambda part: part.reshape(-1, 1, *part.shape[2:])[places], self.neighbors)
        images = neighbor_images(self.style.databases, flat, self.style.size)[:, 0]
        order = np.searchsorted(places, [first[key] for key in keys])
        return self.style.encode(images)[1][order].reshape(*ids.shape, -1)

    def agreement(
        self, images: UInt8[np.ndarray, "n h w 3"], queries: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Returns how near the style of images is to that of some queries' style neighbors, in [-1, 1].

        Args:
          images: of any size.
          queries: the number of the query that each image is compared with.
        """
        return agreement(self.style.vectors(images), self.vectors[queries])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(encoder: StyleEncoder | PatchEncoder, view: View, params: Any, networks: Any, images: Any) -> Any:
    return encoder.apply({"params": params}, view(networks, images))


def _padded(images: np.ndarray) -> np.ndarray:
    """Returns a full small batch, for all of them to go through one program."""
    return np.pad(images, [(0, SMALL_BATCH - len(images)), (0, 0), (0, 0), (0, 0)])


def neighbor_images(
    databases: Sequence[Database], neighbors: Neighbors, size: tuple[int, int]
) -> UInt8[np.ndarray, "q k h w 3"]:
    """Returns the images of neighbors at a size, as their databases keep them.

    Args:
      databases: that they are from.
      neighbors: of queries.
      size: (height, width) of the result.

    Raises:
      UserError: a database keeps no images.
    """
    named = {database.name: database for database in databases}
    images = np.zeros((*neighbors.ids.shape, *size, 3), np.uint8)
    for name in np.unique(neighbors.databases):
        if str(name) not in named:
            raise UserError("neighbors of which only the vectors are known have no images, which this model needs")
        places = np.nonzero(neighbors.databases == name)
        kept = named[str(name)].thumbnails(neighbors.ids[places])
        images[places] = [fit(image, *size) for image in kept]
    return images


def neighbor_captions(databases: Sequence[Database], neighbors: Neighbors) -> list[str]:
    """Returns the captions of neighbors, of one query after the other; "" where there is none.

    Raises:
      UserError: the vectors alone are known of some.
    """
    named = {database.name: database for database in databases}
    if unknown := [name for name in np.unique(neighbors.databases) if str(name) not in named]:
        raise UserError(f"neighbors of which only the vectors are known ({unknown[0]!r}) have no captions")
    pairs = zip(neighbors.databases.ravel(), neighbors.ids.ravel(), strict=True)
    return [named[str(name)].items(np.array([row]))[0]["caption"] or "" for name, row in pairs]


@dataclasses.dataclass(frozen=True, eq=False)
class ContentChannels:
    """Makes channels of the images of content neighbors (see `structure`).

    Attributes:
      factor: pixels of a latent on each side.
      view: of the latents, where they are among the channels; None otherwise.
      networks: {part: parameters} that the view needs.
    """

    factor: int
    view: View | None
    networks: Mapping[str, Any]

    @staticmethod
    def of(bundle: Bundle) -> ContentChannels:
        """Returns what makes the channels of a model."""
        config, factor = bundle.config, bundle.autoencoder.downsampling
        if not config["conditioning"].get("content_latents", False):
            return ContentChannels(factor, None, {})
        view = View.of({"view": "latent"}, bundle, bundle.denoiser, config["latents"])
        return ContentChannels(factor, view, {part: bundle.params[part] for part in view.parts})

    def __call__(self, images: UInt8[np.ndarray, "q c h w 3"]) -> Float[np.ndarray, "q c h2 w2 n"]:
        """Returns the channels of each query's content neighbors, which have the size of the images that are made."""
        flat = images.reshape(-1, *images.shape[2:])
        batches = [flat[begin : begin + SMALL_BATCH] for begin in range(0, len(flat), SMALL_BATCH)]
        found = [_structure(self.factor, self.view, self.networks, to_float(_padded(batch))) for batch in batches]
        channels = np.concatenate([np.asarray(one) for one in found])[: len(flat)]
        return channels.reshape(*images.shape[:2], *channels.shape[1:])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _structure(factor: int, view: View | None, networks: Any, images: Any) -> Any:
    return structure(ink(images), factor, None if view is None else functools.partial(view, networks))
