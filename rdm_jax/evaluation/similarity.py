"""How similar images are to their references: ranks in a gallery, textures, low frequencies, seams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from rdm_jax.core.vectors import unit

Images = UInt8[np.ndarray, "n h w 3"]


def ranks(
    vectors: Float[np.ndarray, "n d"], wanted: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]
) -> Int[np.ndarray, " n"]:
    """Returns how many of the others are nearer to each vector than its own reference, by cosine; 0 is the best rank.

    Args:
      vectors: of images.
      wanted: the reference of each.
      others: the distractors.
    """
    queries, references, distractors = (unit(each.astype(np.float64)) for each in (vectors, wanted, others))
    return (queries @ distractors.T > (queries * references).sum(axis=1)[:, None]).sum(axis=1)


def gram_distances(
    ours: Sequence[Float[np.ndarray, "n _ _"]], theirs: Sequence[Float[np.ndarray, "n _ _"]]
) -> Float[np.ndarray, " n"]:
    """Returns `|G - G'| / |G'|` of each pair of images, the mean over the levels; norms are Frobenius'.

    Args:
      ours: Gram matrices of each level.
      theirs: those of the references.
    """
    levels = [
        np.linalg.norm(a - b, axis=(1, 2)) / np.maximum(np.linalg.norm(b, axis=(1, 2)), 1e-12)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return np.mean(levels, axis=0)


def block_means(images: Shaped[np.ndarray, "n h w c"], side: int) -> Float[np.ndarray, "n h2 w2 c"]:
    """Returns the means over squares of side x side pixels."""
    n, h, w, c = images.shape
    return images.reshape(n, h // side, side, w // side, side, c).mean(axis=(2, 4), dtype=np.float64)


def low_difference(ours: Images, theirs: Images, side: int) -> Float[np.ndarray, " n"]:
    """Returns the root mean squared difference of each pair's means over squares of `side` pixels, in levels of 255."""
    difference = block_means(ours, side) - block_means(theirs, side)
    return np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))


def layout(ours: Images, theirs: Images, side: int) -> Float[np.ndarray, " n"]:
    """Returns the correlation of each pair's brightness, in means over squares of `side` pixels; 0 for a flat one."""
    a, b = (block_means(images, side).mean(axis=-1).reshape(len(images), -1) for images in (ours, theirs))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)


def pixel_distance(ours: Images, theirs: Images) -> Float[np.ndarray, " n"]:
    """Returns the root mean squared difference of each pair, in levels of 255."""
    return low_difference(ours, theirs, 1)


def pairwise_distances(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " p"]:
    """Returns the Euclidean distances of all pairs of rows."""
    first, second = np.triu_indices(len(features), 1)
    return np.linalg.norm(features[first].astype(np.float64) - features[second].astype(np.float64), axis=1)


def largest_change(ours: Images, theirs: Images, kept: Bool[np.ndarray, "h w"]) -> int:
    """Returns the largest difference in the kept region, in levels of 255."""
    return int(np.abs(ours.astype(np.int64) - theirs.astype(np.int64))[:, kept].max(initial=0))


def seam(images: Images, kept: Bool[np.ndarray, "h w"]) -> float:
    """Returns how visible the border of a region is: 1 if it is not, more if it shows.

    It is the mean difference of adjacent pixels across the border, over that of adjacent pixels one and two pixels off
    the border on the same side.
    """
    across, beside = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(images.astype(np.float64), axis=axis + 1)).mean(axis=-1)
        crossing = np.diff(kept, axis=axis)
        near = np.zeros_like(crossing)
        for shift in (-2, -1, 1, 2):
            near |= _shifted(crossing, shift, axis)
        across.append(steps[:, crossing])
        beside.append(steps[:, near & ~crossing])
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in (across, beside)]
    return float(flat[0].mean() / max(flat[1].mean(), 1e-12))


def _shifted(mask: Bool[np.ndarray, "h w"], by: int, axis: int) -> Bool[np.ndarray, "h w"]:
    """Returns a mask shifted along an axis, without wrapping."""
    moved = np.zeros_like(mask)
    size = mask.shape[axis]
    source = np.take(mask, range(max(0, -by), size - max(0, by)), axis=axis)
    place = [slice(None), slice(None)]
    place[axis] = slice(max(0, by), size - max(0, -by))
    moved[tuple(place)] = source
    return moved
