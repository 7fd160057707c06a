"""Whether images fit texts or references by an encoder of both: CLIP-score, direction of a change, retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from rdm_jax.core.vectors import unit

PLACES = (1, 5, 10, 20)

Vectors = Float[np.ndarray, "n d"]


def clip_scores(images: Vectors, texts: Vectors) -> Float[np.ndarray, " n"]:
    """Returns the cosine of each image with its own text, in [-1, 1].

    https://arxiv.org/abs/2104.08718 reports 2.5 max(cosine, 0), torchmetrics 100 max(cosine, 0); the mean cosine is
    what the papers of text-to-image models report.
    """
    return (unit(images.astype(np.float64)) * unit(texts.astype(np.float64))).sum(axis=1)


def directional_similarity(
    images: Vectors, sources: Vectors, texts: Vectors, source_texts: Vectors
) -> Float[np.ndarray, " n"]:
    """Returns the cosine of each image's change with the change of its text (https://arxiv.org/abs/2108.00946, eq. 3).

    Args:
      images: unit vectors are made of all four.
      sources: of the images before the edit.
      texts: that describe the images.
      source_texts: that describe the sources.

    Returns:
      [n], 0 where the image or the text has not changed.
    """
    image, source, text, source_text = (
        unit(each.astype(np.float64)) for each in (images, sources, texts, source_texts)
    )
    return (unit(image - source) * unit(text - source_text)).sum(axis=1)


def ranks_among(
    images: Vectors,
    own: Vectors,
    gallery: Float[np.ndarray, "m d"],
    own_names: Sequence[str],
    gallery_names: Sequence[str],
) -> Int[np.ndarray, " n"]:
    """Returns how many items of a gallery come before each image's own item, by cosine; 0 is the best rank.

    The fraction of ranks below k is the retrieval accuracy at k (https://arxiv.org/abs/2112.05744, section 4). It
    depends on the size of the gallery: report both. Every image has m - 1 distractors: its own item does not count, and
    where that is none of the gallery, the last one is left out.

    Args:
      images: of the encoder.
      own: the true item of each image, such as its prompt or its reference image.
      gallery: of distractors, among which true items may be.
      own_names: of the true items; equal names are one item.
      gallery_names: of the gallery's.
    """
    queries, references, others = (unit(each.astype(np.float64)) for each in (images, own, gallery))
    # An item that equals the true one is rounded to either side of it.
    before = queries @ others.T > (queries * references).sum(axis=1)[:, None] + 1e-12
    places = {name: place for place, name in enumerate(gallery_names)}
    for row, name in enumerate(own_names):
        before[row, places.get(name, -1)] = False
    return before.sum(axis=1)
