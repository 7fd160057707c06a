"""CLIP's vectors of a data set's images and captions, encoded once and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.retrieval.encoder import ClipEncoder

ENCODE_BATCH = 256


def image_vectors(base: Bundle, images: ImageSet, folder: Path, progress: ProgressCallback) -> Float[np.ndarray, "n d"]:
    """Returns the vectors of all images in float16, cached in `folder` by the hashes of both."""
    encoder = ClipEncoder(base)

    def encode(rows: slice) -> np.ndarray:
        return encoder.encode_images(np.asarray(images.images[rows]))

    return _cached(folder / f"vectors-{_key(base, images)}", len(images), encode, progress)


def caption_vectors(
    base: Bundle, images: ImageSet, folder: Path, progress: ProgressCallback
) -> Float[np.ndarray, "n d"]:
    """Returns the vectors of all captions in float16, cached likewise."""
    encoder = ClipEncoder(base)

    def encode(rows: slice) -> np.ndarray:
        return encoder.encode_texts(images.captions[rows])

    return _cached(folder / f"captions-{_key(base, images)}", len(images), encode, progress)


def _key(base: Bundle, images: ImageSet) -> str:
    return f"{base.encoder_identity['sha256'][:16]}-{images.fingerprint[:16]}"


def _cached(
    folder: Path, count: int, encode: Callable[[slice], np.ndarray], progress: ProgressCallback
) -> Float[np.ndarray, "n d"]:
    def chunks() -> Iterator[np.ndarray]:
        """Yields the vectors of one batch after another."""
        for start in range(0, count, ENCODE_BATCH):
            yield encode(slice(start, start + ENCODE_BATCH)).astype(np.float16)
            progress(min(start + ENCODE_BATCH, count), count)

    return cached_array(folder, count, chunks)
