"""Attention over two axes of a grid (HiT, https://arxiv.org/abs/2106.07631, section 3.2), for large grids.

Half of the heads attend within each square of `square` x `square` positions, the other half to the positions at the
same place of every square. The cost grows with the number of positions times that of a square and of all squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError

Attend = Callable[[Array, Array, Array], Array]
"""Queries, keys and values [b, n, heads, d] to [b, n, heads, d]."""


def check_axes(square: int, tokens: int, heads: int) -> None:
    """Raises UserError unless the positions of a square grid divide into squares, and the heads into halves."""
    side = math.isqrt(tokens)
    if side * side != tokens or side % square:
        raise UserError(f"square={square} does not divide the side of a grid of {tokens} positions; choose a divisor")
    if heads % 2:
        raise UserError(f"square={square} needs an even number of heads, and there are {heads}; change head_channels")


def attend_axes(
    q: Float[Array, "b l h d"], k: Float[Array, "b l h d"], v: Float[Array, "b l h d"], square: int, attend: Attend
) -> Float[Array, "b l h d"]:
    """Returns the attention of positions in row-major order, half of the heads over each axis.

    Args:
      q: queries; l is a square number whose root `square` divides, and h is even.
      k: keys.
      v: values.
      square: the side of a square.
      attend: the attention of all positions of one axis.
    """
    half = q.shape[2] // 2
    near = [_squares(part[:, :, :half], square) for part in (q, k, v)]
    far = [jnp.swapaxes(_squares(part[:, :, half:], square), 1, 2) for part in (q, k, v)]
    within, across = _attend_last(near, attend), jnp.swapaxes(_attend_last(far, attend), 1, 2)
    return jnp.concatenate([_rows(within, square), _rows(across, square)], axis=2)


def _attend_last(parts: list[Array], attend: Attend) -> Array:
    """Returns the attention over axis 2 of [b, m, n, h, d]."""
    q, k, v = (part.reshape(-1, *part.shape[2:]) for part in parts)
    return attend(q, k, v).reshape(parts[0].shape)


def _squares(x: Float[Array, "b l h d"], square: int) -> Float[Array, "b m n h d"]:
    """Returns positions in row-major order by their square and their place in it."""
    b, length, h, d = x.shape
    count = math.isqrt(length) // square
    parted = x.reshape(b, count, square, count, square, h, d).swapaxes(2, 3)
    return parted.reshape(b, count**2, square**2, h, d)


def _rows(x: Float[Array, "b m n h d"], square: int) -> Float[Array, "b l h d"]:
    """Returns what `_squares` maps to `x`."""
    b, squares, _, h, d = x.shape
    count = math.isqrt(squares)
    joined = x.reshape(b, count, count, square, square, h, d).swapaxes(2, 3)
    return joined.reshape(b, -1, h, d)
