"""Attention over two axes of a grid, against dense attention with masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.models.attention import attend
from rdm_jax.models.condition import Condition
from rdm_jax.models.multi_axis import attend_axes, check_axes
from rdm_jax.models.token_transformer import TokenTransformer


@pytest.mark.slow
@pytest.mark.parametrize(("side", "square"), [(6, 2), (6, 3), (4, 1), (4, 4)])
def test_half_of_the_heads_see_their_square_and_half_see_their_place_in_every_square(side, square):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, side**2, 4, 8))
    row, column = np.divmod(np.arange(side**2), side)
    squares, places = row // square * side + column // square, row % square * square + column % square

    def dense(labels, heads):
        bias = jnp.where(labels[:, None] == labels[None], 0.0, -jnp.inf)[None].repeat(2, axis=0)
        return attend(q[:, :, heads], k[:, :, heads], v[:, :, heads], bias=bias)

    expected = jnp.concatenate([dense(squares, slice(0, 2)), dense(places, slice(2, 4))], axis=2)
    found = attend_axes(q, k, v, square, functools.partial(attend, implementation=None))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_sizes_that_do_not_divide_are_refused():
    check_axes(8, 4096, 16)
    with pytest.raises(UserError, match="square=3 does not divide the side of a grid of 64 positions"):
        check_axes(3, 64, 2)
    with pytest.raises(UserError, match="square=2 does not divide the side of a grid of 60 positions"):
        check_axes(2, 60, 2)
    with pytest.raises(UserError, match="square=4 needs an even number of heads, and there are 3"):
        check_axes(4, 64, 3)
    causal = TokenTransformer(num_codes=4, num_tokens=16, width=16, depth=1, context_dim=8, head_channels=8, square=2)
    codes, condition = jnp.zeros((1, 16), jnp.int32), Condition(jnp.zeros((1, 1, 8)))
    with pytest.raises(UserError, match="square=2: a causal transformer attends to all positions before"):
        jax.eval_shape(causal.init, jax.random.key(0), codes, condition)
