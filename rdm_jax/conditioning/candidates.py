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

from rdm_jax.conditioning.roles import StyleReferences, StyleTokens
from rdm_jax.core.vectors import agreement
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors

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
            references = StyleReferences(self.style, neighbors)
            measures[STYLE] = references.agreement(images, np.arange(len(images)))
        return ranked(measures, groups)


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
