"""Which images show a training image's style, and which its content: the partners of a set of labeled images.

Of an image, *style partners* are others of its style; its *original* is the image that it was made of, or itself;
*twins* show the same subject in another style of the same family, alike in shape and place; *cousins* show it in
another family's style. All lists are runs of sorted rows, so that a partner is sampled on the device in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key


@flax.struct.dataclass
class Partners:
    """The partners of n images; the arrays are on the host or on devices.

    Attributes:
      style: [n] the number of each image's style.
      caption: [n] the number of its caption; 0 is no caption, which nothing shares.
      original: [n] the image that it was made of; its own number if it was not.
      by_style: [n] the images, sorted by style.
      style_run: [n, 2] the begin and the length of its style in `by_style`.
      by_caption: [n] the images, sorted by caption, then by family.
      caption_run: [n, 2] the begin and the length of its caption in `by_caption`; length 0 without a caption.
      family_run: [n, 2] the same of its caption within its family.
    """

    style: Any
    caption: Any
    original: Any
    by_style: Any
    style_run: Any
    by_caption: Any
    caption_run: Any
    family_run: Any


def find_partners(
    captions: Sequence[str], styles: Sequence[str], families: Sequence[str], rows: Int[np.ndarray, " n"] | None = None
) -> Partners:
    """Returns the partners of images by their labels, as arrays of the host.

    Args:
      captions: what each image shows; "" is unknown.
      styles: the name of each image's style.
      families: the name of the family of styles that it belongs to.
      rows: the row of the data that each image was made of; the first image of a row is the original of all others.
        None makes every image an original.
    """
    caption = np.unique(["", *captions], return_inverse=True)[1][1:]
    style, family = (np.unique(list(names), return_inverse=True)[1] for names in (styles, families))
    within = caption * (family.max(initial=0) + 1) + family
    by_style, by_caption = np.argsort(style, kind="stable"), np.argsort(within, kind="stable")
    caption_run = _runs(caption, by_caption)
    caption_run[caption == 0, 1] = 0
    _, first, place = np.unique(np.arange(len(style)) if rows is None else rows, return_index=True, return_inverse=True)
    labels, runs = (style, caption, first[place]), (caption_run, _runs(within, by_caption))
    arrays = *labels, by_style, _runs(style, by_style), by_caption, *runs
    return Partners(*(np.asarray(array, np.int32) for array in arrays))


def _runs(values: Int[np.ndarray, " n"], order: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n 2"]:
    """Returns the begin and the length of each element's value in the sorted order."""
    ordered = values[order]
    begin, end = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.stack([begin, end - begin], axis=1)


def sample_style_partners(
    key: Key[Array, ""], partners: Partners, rows: Int[Array, " b"], count: int
) -> Int[Array, "b k"]:
    """Returns random style partners of images; an image itself may be among them.

    Args:
      key: of the random numbers.
      partners: of the set.
      rows: the images.
      count: k, of each image.
    """
    begin, length = partners.style_run[rows].T
    places = _below(key, length[:, None], (len(rows), count))
    return partners.by_style[begin[:, None] + places]


def shows_another(partners: Partners, rows: Int[Array, " b"], found: Int[Array, "b k"]) -> Bool[Array, "b k"]:
    """Returns whether each style partner is another image than its image, and of another caption."""
    caption = partners.caption[rows][:, None]
    return ~((caption > 0) & (partners.caption[found] == caption)) & (found != rows[:, None])


def sample_content_partners(
    key: Key[Array, ""], partners: Partners, rows: Int[Array, " b"], odds: Float[Array, " 3"]
) -> tuple[Int[Array, " b"], Bool[Array, " b"]]:
    """Returns an image with each image's content, and whether it is the image itself.

    Args:
      key: of the random numbers.
      partners: of the set.
      rows: the images.
      odds: the probabilities of the original, a twin and a cousin. An image without a cousin takes a twin, one without
        either its original.
    """
    kind_key, twin_key, cousin_key = jax.random.split(key, 3)
    kind = jax.random.categorical(kind_key, jnp.log(odds), shape=rows.shape)
    (first, all_), (begin, own) = partners.caption_run[rows].T, partners.family_run[rows].T
    twin = partners.by_caption[begin + _below(twin_key, own, rows.shape)]
    place = first + _below(cousin_key, all_ - own, rows.shape)
    cousin = partners.by_caption[jnp.where(place >= begin, place + own, place)]
    has_cousin, is_twin = all_ > own, (twin != rows) & (all_ > 0)
    original = partners.original[rows]
    twin = jnp.where(is_twin, twin, original)
    found = jnp.where(kind == 0, original, jnp.where((kind == 2) & has_cousin, cousin, twin))
    return found, found == rows


def _below(key: Key[Array, ""], limit: Int[Array, "..."], shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Returns random integers in [0, limit); 0 where the limit is 0 or less."""
    uniform = jax.random.uniform(key, shape)
    return jnp.clip((uniform * limit).astype(jnp.int32), 0, jnp.maximum(limit - 1, 0))
