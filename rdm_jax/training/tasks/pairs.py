"""What the tasks share that learn the vector of an image from a text: pairs of a frozen CLIP's vectors."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.image_set import ImageSet
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.tasks.base import training_and_held_out
from rdm_jax.training.tasks.part import PartTask
from rdm_jax.training.vectors import caption_vectors, image_vectors

LEAST_STD = 1e-3  # of a number that is the same for all vectors


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Images and their captions, as a CLIP sees them.

    Attributes:
      images: [n, d] the vectors of images.
      texts: [n, d] those of captions.
      tokens: [n, length] the captions' token ids.
      fingerprint: of the images.
    """

    images: Float[np.ndarray, "n d"]
    texts: Float[np.ndarray, "n d"]
    tokens: Int[np.ndarray, "n length"]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Any) -> dict[str, np.ndarray]:
        """Returns the vectors in float32, and the token ids, of one row or of several."""
        vectors = {"image": self.images[rows], "text": self.texts[rows]}
        return {**{name: part.astype(np.float32) for name, part in vectors.items()}, "tokens": self.tokens[rows]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairsTask(PartTask):
    """Trains a network on pairs of a finished model's CLIP.

    Attributes:
      pairs: to train on.
      held_out: to evaluate on.
    """

    pairs: Pairs
    held_out: Pairs

    @property
    def size(self) -> int:
        """The number of pairs."""
        return len(self.pairs)

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the images and of the model."""
        return {"source": self.pairs.fingerprint, "base": self.base.digest}

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the vectors [d] of an image and its caption, and the caption's token ids."""
        return self.pairs.batch(row)


def statistics_of(name: str, vectors: Float[np.ndarray, "n d"]) -> Mapping[str, Array]:
    """Returns the parameters with the mean and the standard deviation of vectors (`models.statistics`)."""
    wide = vectors.astype(np.float64)
    mean, std = wide.mean(axis=0), np.maximum(wide.std(axis=0), LEAST_STD)
    return {f"{name}_mean": jnp.asarray(mean, jnp.float32), f"{name}_std": jnp.asarray(std, jnp.float32)}


def open_pairs(config: Config, progress: StageProgressCallback) -> dict[str, Any]:
    """Returns the fields that both tasks share; encodes images and captions first if they are not cached.

    Raises:
      UserError: the model `config.base` has no CLIP or no tokenizer, or the images have no captions.
    """
    base = Bundle.open(config.base)
    base.require("clip")
    sets = training_and_held_out(config.data, progress)
    pairs, held_out = (_pairs(base, images, config, progress) for images in sets)
    return {"config": config, "base": base, "pairs": pairs, "held_out": held_out}


def _pairs(base: Bundle, images: ImageSet, config: Config, progress: StageProgressCallback) -> Pairs:
    if not any(images.captions):
        raise UserError(f"the images of {config.data.source} have no captions; give data.source a set with captions")
    folder = cache_folder(config.data)
    return Pairs(
        image_vectors(base, images, folder, functools.partial(progress, "encoding images")),
        caption_vectors(base, images, folder, functools.partial(progress, "encoding captions")),
        ClipEncoder(base).tokenize(images.captions)[0],
        images.fingerprint,
    )
