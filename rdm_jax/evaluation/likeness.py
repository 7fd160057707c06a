"""How like pictures are to what they were led to: ranks in a gallery, textures, low frequencies, seams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

from rdm_jax.core.vectors import unit

Pictures = UInt8[np.ndarray, "n h w 3"]


def ranks(
    vectors: Float[np.ndarray, "n d"], wanted: Float[np.ndarray, "n d"], others: Float[np.ndarray, "m d"]
) -> Int[np.ndarray, " n"]:
    """Returns how many of the others are nearer to each vector than what is wanted, by cosine; 0 is the first place.

    Args:
      vectors: of pictures.
      wanted: what each of them should find.
      others: the distractors.
    """
    mine, own, theirs = (unit(each.astype(np.float64)) for each in (vectors, wanted, others))
    return (mine @ theirs.T > (mine * own).sum(axis=1)[:, None]).sum(axis=1)


def gram_distances(
    ours: Sequence[Float[np.ndarray, "n _ _"]], theirs: Sequence[Float[np.ndarray, "n _ _"]]
) -> Float[np.ndarray, " n"]:
    """Returns |G - G'| / |G'| of each pair of pictures, the mean over the levels; norms are Frobenius'.

    Args:
      ours: Gram matrices of each level.
      theirs: those of the references.
    """
    levels = [
        np.linalg.norm(a - b, axis=(1, 2)) / np.maximum(np.linalg.norm(b, axis=(1, 2)), 1e-12)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return np.mean(levels, axis=0)


def block_means(pictures: Shaped[np.ndarray, "n h w c"], side: int) -> Float[np.ndarray, "n h2 w2 c"]:
    """Returns the means over squares of side x side pixels."""
    n, h, w, c = pictures.shape
    return pictures.reshape(n, h // side, side, w // side, side, c).mean(axis=(2, 4), dtype=np.float64)


def low_difference(ours: Pictures, theirs: Pictures, side: int) -> Float[np.ndarray, " n"]:
    """Returns the root mean squared difference of each pair's means over squares of `side` pixels, in levels of 255."""
    difference = block_means(ours, side) - block_means(theirs, side)
    return np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))


def layout(ours: Pictures, theirs: Pictures, side: int) -> Float[np.ndarray, " n"]:
    """Returns the correlation of each pair's brightness, in means over squares of `side` pixels; 0 for a flat one."""
    a, b = (block_means(some, side).mean(axis=-1).reshape(len(some), -1) for some in (ours, theirs))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)


def pixel_distance(ours: Pictures, theirs: Pictures) -> Float[np.ndarray, " n"]:
    """Returns the root mean squared difference of each pair, in levels of 255."""
    return low_difference(ours, theirs, 1)


def pairwise_distances(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " p"]:
    """Returns the Euclidean distances of all pairs of rows."""
    first, second = np.triu_indices(len(features), 1)
    return np.linalg.norm(features[first].astype(np.float64) - features[second].astype(np.float64), axis=1)


def largest_change(ours: Pictures, theirs: Pictures, kept: Bool[np.ndarray, "h w"]) -> int:
    """Returns the largest difference in the region that is kept, in levels of 255."""
    return int(np.abs(ours.astype(np.int64) - theirs.astype(np.int64))[:, kept].max(initial=0))


def seam(pictures: Pictures, kept: Bool[np.ndarray, "h w"]) -> float:
    """Returns how visible the border of a region is: 1 as in any other place, more if it shows.

    The mean difference of neighbouring pixels on both sides of the border, over that of neighbours that lie one and two
    pixels off it on the same side.
    """
    across, beside = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(pictures.astype(np.float64), axis=axis + 1)).mean(axis=-1)
        crossing = np.diff(kept, axis=axis)
        near = np.zeros_like(crossing)
        for shift in (-2, -1, 1, 2):
            near |= _shifted(crossing, shift, axis)
        across.append(steps[:, crossing])
        beside.append(steps[:, near & ~crossing])
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in (across, beside)]
    return float(flat[0].mean() / max(flat[1].mean(), 1e-12))


def _shifted(mask: Bool[np.ndarray, "h w"], by: int, axis: int) -> Bool[np.ndarray, "h w"]:
    """Returns a mask moved along an axis, nothing wrapped around."""
    moved = np.zeros_like(mask)
    size = mask.shape[axis]
    source = np.take(mask, range(max(0, -by), size - max(0, by)), axis=axis)
    place = [slice(None), slice(None)]
    place[axis] = slice(max(0, by), size - max(0, -by))
    moved[tuple(place)] = source
    return moved
