"""Functions of large images in overlapping patches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.patches import Patches, weights

SMALL = Patches(size=8, stride=4)


def test_patches_cover_every_pixel():
    assert SMALL.begins(8) == [0] and SMALL.begins(6) == [0]
    assert SMALL.begins(16) == [0, 4, 8] and SMALL.begins(18) == [0, 4, 8, 10]


@pytest.mark.parametrize("shape", [(18, 8), (6, 16), (20, 18)])
def test_a_function_of_single_pixels_is_that_of_the_whole(shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *shape, 3)), jnp.float32)

    def function(patch):
        return jnp.repeat(jnp.repeat(patch**2, 2, axis=1), 2, axis=2)[..., :2]

    np.testing.assert_allclose(jax.jit(lambda y: SMALL.apply(function, y))(x), function(x), atol=1e-6)


def test_overlapping_outputs_are_averaged_by_their_weights():
    """Each patch returns its own mean; by hand, pixel 5 lies in two patches."""
    x = np.zeros((1, 8, 12, 1), np.float32)
    x[:, :, 4:] = 1.0
    blended = SMALL.apply(lambda patch: jnp.broadcast_to(patch.mean(), patch.shape), jnp.asarray(x))
    own = weights(8, 8)[3]
    expected = (own[5] * 0.5 + own[1] * 1.0) / (own[5] + own[1])
    np.testing.assert_allclose(np.asarray(blended)[0, 3, [0, 5, 11], 0], [0.5, expected, 1.0], atol=1e-6)


def test_weights_are_distances_to_the_border():
    np.testing.assert_allclose(weights(5, 5)[2], [0.01, 0.25, 0.5, 0.25, 0.01])


def test_a_stride_lies_below_the_size():
    assert Patches.of({"scale": 1.0}) is None
    with pytest.raises(UserError, match="the stride is above 0 and below it"):
        Patches.of({"patches": {"size": 8, "stride": 8}})
