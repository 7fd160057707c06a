"""Attributes of training images."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import ImageSet


def attribute(images: ImageSet, name: str) -> list[str]:
    """Returns an attribute of all images.

    Raises:
      UserError: an image lacks it.
    """
    lacking = next((i for i, labels in enumerate(images.attributes) if name not in labels), None)
    if lacking is not None:
        known = sorted({key for labels in images.attributes for key in labels})
        raise UserError(
            f"image {lacking} of the training set has no attribute {name!r}, which the config's data section names; "
            f"its images have {', '.join(known) or 'none'}"
        )
    return [labels[name] for labels in images.attributes]


def one_color_images(images: ImageSet, name: str) -> Bool[np.ndarray, " n"]:
    """Returns which images are of one ink on white, by an attribute that is "True" or "1" for them; none for "".

    Raises:
      UserError: an image lacks the attribute.
    """
    if not name:
        return np.zeros(len(images), bool)
    return np.array([value.lower() in ("1", "true") for value in attribute(images, name)])
