"""One query vector from texts, images and negative texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.retrieval.encoder import RetrievalEncoder


def mixed_query(
    encoder: RetrievalEncoder,
    texts: Sequence[str] = (),
    images: Sequence[np.ndarray] = (),
    negatives: Sequence[str] = (),
    *,
    image_weight: float = 1.0,
    negative_weight: float = 0.5,
) -> Float[np.ndarray, "1 d"]:
    """Returns the weighted sum of the terms' unit vectors, scaled to length 1.

    Args:
      encoder: it embeds the terms.
      texts: texts to search for, each of weight 1.
      images: images to search for, uint8 [h, w, 3] each.
      negatives: texts to avoid; their vectors are subtracted.
      image_weight: the weight of each image, 0 or more.
      negative_weight: the weight of each negative text, 0 or more.

    Raises:
      UserError: there is neither a text nor an image, a weight is out of range, or the terms cancel each other out.
    """
    if not texts and not images:
        raise UserError("the query is empty; give a text or an image")
    for name, weight in (("image weight", image_weight), ("negative weight", negative_weight)):
        if not 0 <= weight < float("inf"):
            raise UserError(f"{name} {weight} is out of range; give 0 or more")
    vectors = [np.zeros((0, int(encoder.identity["width"])), np.float32)]
    if texts or negatives:
        vectors.append(unit(encoder.encode_texts([*texts, *negatives]), np.float32))
    if images:
        vectors.append(unit(encoder.encode_images(list(images)), np.float32))
    weights = [1.0] * len(texts) + [-negative_weight] * len(negatives) + [image_weight] * len(images)
    total = np.asarray(weights, np.float32) @ np.concatenate(vectors)
    if np.linalg.norm(total) < 1e-4:
        raise UserError("the terms of the query cancel each other out; lower the weight of the negative texts")
    return unit(total[None])
