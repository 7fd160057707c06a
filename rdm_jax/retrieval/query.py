"""One query vector of texts, pictures and what is not wanted."""

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
    pictures: Sequence[np.ndarray] = (),
    negatives: Sequence[str] = (),
    *,
    picture_weight: float = 1.0,
    negative_weight: float = 0.5,
) -> Float[np.ndarray, "1 d"]:
    """Returns the weighted sum of the terms' vectors, each at length 1, at length 1.

    Args:
      encoder: makes the vectors.
      texts: what is looked for, each of weight 1.
      pictures: what it looks like, uint8 [h, w, 3] each.
      negatives: what is not wanted; their vectors are taken away.
      picture_weight: of each picture, 0 or more.
      negative_weight: of each negative, 0 or more.

    Raises:
      UserError: nothing is looked for, a weight is out of range, or the terms cancel each other out.
    """
    if not texts and not pictures:
        raise UserError("nothing is looked for; give a text or a picture")
    for name, weight in (("image weight", picture_weight), ("negative weight", negative_weight)):
        if not 0 <= weight < float("inf"):
            raise UserError(f"{name} {weight} is out of range; give 0 or more")
    vectors = [np.zeros((0, int(encoder.identity["width"])), np.float32)]
    if texts or negatives:
        vectors.append(unit(encoder.encode_texts([*texts, *negatives]), np.float32))
    if pictures:
        vectors.append(unit(encoder.encode_images(list(pictures)), np.float32))
    weights = [1.0] * len(texts) + [-negative_weight] * len(negatives) + [picture_weight] * len(pictures)
    total = np.asarray(weights, np.float32) @ np.concatenate(vectors)
    if np.linalg.norm(total) < 1e-4:
        raise UserError("the terms of the query cancel each other out; lower the weight of the negatives")
    return unit(total[None])
