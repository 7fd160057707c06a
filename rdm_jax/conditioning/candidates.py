"""Candidates: more images than are requested, of which those are kept that fit the style and the prompt best.

Two measures rank the candidates of an image: how near it is to the style neighbors, by the model's own style encoder,
and how near it is to the prompt, by the retrieval encoder. Their scales have nothing to do with each other, so each is
first standardized among the candidates of one image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.conditioning.roles import StyleTokens, neighbor_images
from rdm_jax.core.images import fit
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors, map_neighbors

STYLE, CONCEPT = "style", "concept"


@dataclasses.dataclass(frozen=True, eq=False)
class Scorer:
    """Measures how well images fit their style neighbors and their prompts.

    Attributes:
      encoder: of prompts and images.
      style: of style neighbors; None for a model without a style encoder, where the prompt alone counts.
    """

    encoder: ClipEncoder
    style: StyleTokens | None

    def scores(
        self,
        images: UInt8[np.ndarray, "n h w 3"],
        queries: Float[np.ndarray, "n d"],
        neighbors: Neighbors | None,
        groups: Int[np.ndarray, " n"],
    ) -> Float[np.ndarray, " n"]:
        """Returns a score of each candidate, to be compared within its group; higher is better.

        Args:
          images: the candidates.
          queries: the vector of each one's prompt.
          neighbors: the style neighbors of each one; None where there are none.
          groups: the image that each one is a candidate of.
        """
        measures = {CONCEPT: agreement(self.encoder.encode_images(images), queries[:, None])}
        if self.style is not None and neighbors is not None:
            measures[STYLE] = agreement(self.style_vectors(images), self._references(neighbors))
        return ranked(measures, groups)

    def style_vectors(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n v"]:
        """Returns the style encoder's vectors of images of any size."""
        assert self.style is not None
        return self.style.encode(np.stack([fit(image, *self.style.size) for image in images]))[1]

    def _references(self, neighbors: Neighbors) -> Float[np.ndarray, "n k v"]:
        """Returns the vectors of style neighbors, each of which is encoded once."""
        assert self.style is not None
        keys = [*zip(neighbors.databases.ravel().tolist(), neighbors.ids.ravel().tolist(), strict=True)]
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        places = np.array(sorted(first.values()))
        flat = map_neighbors(lambda part: part.reshape(-1, 1, *part.shape[2:])[places], neighbors)
        images = neighbor_images(self.style.databases, flat, self.style.size)[:, 0]
        order = np.searchsorted(places, [first[key] for key in keys])
        return self.style.encode(images)[1][order].reshape(*neighbors.ids.shape, -1)


def agreement(vectors: Float[np.ndarray, "n d"], references: Float[np.ndarray, "n k d"]) -> Float[np.ndarray, " n"]:
    """Returns the mean cosine of each vector with its own references."""
    return np.einsum("nd,nkd->n", unit(vectors, np.float64), unit(references, np.float64)) / references.shape[1]


def ranked(measures: Mapping[str, Float[np.ndarray, " n"]], groups: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns a score of each candidate: the sum of its measures, each standardized among the candidates of its image.

    Args:
      measures: {name: value of each candidate}.
      groups: the image that each one is a candidate of.
    """
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    total = np.zeros(len(group))
    for values in measures.values():
        mean = np.bincount(group, values) / counts
        centered = values - mean[group]
        deviation = np.sqrt(np.bincount(group, centered**2) / counts)
        total += np.divide(centered, deviation[group], out=np.zeros(len(group)), where=deviation[group] > 1e-9)
    return total


def best_of(scores: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " g"]:
    """Returns the position of the best candidate of each image, images in ascending order; of equal ones the first.

    Args:
      scores: of all candidates.
      groups: the image that each one is a candidate of.
    """
    order = np.lexsort((np.arange(len(scores)), -np.asarray(scores), groups))
    return order[np.unique(np.asarray(groups)[order], return_index=True)[1]]
