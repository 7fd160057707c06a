"""A label map as channels beside the noisy latent: semantic synthesis.

Rombach et al. 2022, Latent Diffusion (https://arxiv.org/abs/2112.10752), section 4.3.2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int

from rdm_jax.conditioning.inputs.base import PART, Given, Input, Target
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit_labels, pad, read_labels
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request


class Segmentation(Input):
    """The label of each pixel, from an image file whose pixel values or palette indices are the labels."""

    option = "segmentation"
    what = "a segmentation"
    encoded = True

    def read(self, request: Request, target: Target) -> Given:
        """Returns the channels of the label map; raises UserError if it cannot be read or a label is out of range."""
        labels = checked(
            read_labels(request.segmentation), getattr(target.bundle, PART).num_labels, request.segmentation
        )
        fitted = fit_labels(labels, request.height, request.width)
        padded = pad(fitted[..., None], *target.size)[..., 0]
        label = f"segmentation {Path(request.segmentation).name}"
        return Given(label, Condition(target.no_tokens, channels=target.encode(padded[None].astype(np.int32))))


def checked(labels: Int[np.ndarray, "h w"], count: int, file: str) -> Int[np.ndarray, "h w"]:
    """Returns labels; raises UserError if one of them is not below `count`."""
    if labels.max() >= count:
        raise UserError(
            f"segmentation {file} has label {labels.max()}, and the model has labels 0 to {count - 1}; each pixel's "
            "value is its label"
        )
    return labels
