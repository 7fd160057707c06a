"""Whether images fit texts or references by an encoder of both: CLIP-score, direction of a change, retrieval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from rdm_jax.core.errors import UserError
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


@dataclasses.dataclass(frozen=True)
class RetrievalAccuracy:
    """How often the true item is among the first k of a gallery.

    Attributes:
      ranks: [n] how many distractors come before the true item.
      gallery: the number of items that each image ranks, the true one and the distractors.
    """

    ranks: Int[np.ndarray, " n"]
    gallery: int

    def at(self, k: int) -> Float[np.ndarray, " n"]:
        """Returns 1 for each image whose true item is among the first k, otherwise 0."""
        return (self.ranks < k).astype(np.float64)


def retrieval_accuracy(
    images: Vectors, wanted: Vectors, distractors: Float[np.ndarray, "m d"], places: Sequence[int] = PLACES
) -> RetrievalAccuracy:
    """Returns the rank of each image's own item among distractors, by cosine (https://arxiv.org/abs/2112.05744).

    The accuracy depends on the size of the gallery: report both.

    Args:
      images: of the encoder.
      wanted: the true item of each image, such as its prompt or its reference image.
      distractors: other items; one that equals an image's own item counts as a tie, which the true item wins.
      places: the k that will be reported.

    Raises:
      UserError: the gallery is not larger than every k.
    """
    most = max(places)
    if len(distractors) < most:
        raise UserError(
            f"accuracy at {most} needs a gallery of more than {most} items, and there are {len(distractors)} "
            "distractors; add images or prompts, or lower k"
        )
    found, references, others = (unit(each.astype(np.float64)) for each in (images, wanted, distractors))
    own = (found * references).sum(axis=1)
    # A distractor that equals the true item is rounded to either side of it.
    ranks = (found @ others.T > own[:, None] + 1e-12).sum(axis=1)
    return RetrievalAccuracy(ranks, len(distractors) + 1)
