"""Inception-v3 as the Fréchet inception distance uses it (https://arxiv.org/abs/1706.08500).

The network of https://arxiv.org/abs/1512.00567 as released in 2015 for TensorFlow: averages exclude the padding, the
last block pools by the maximum, and there are 1,008 classes. Layers have the names of that release.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.models.layers import FrozenBatchNorm

Size = tuple[int, int]
Features = Float[Array, "_ _ _ _"]


class ConvNorm(nn.Module):
    """A convolution without bias, a frozen norm and a ReLU; `padding` None keeps the size."""

    features: int
    size: Size = (1, 1)
    stride: int = 1
    padding: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, h2, w2, features]."""
        margins = [side // 2 if self.padding is None else self.padding for side in self.size]
        pad = [(margin, margin) for margin in margins]
        h = nn.Conv(self.features, self.size, self.stride, pad, use_bias=False, name="conv")(x)
        return nn.relu(FrozenBatchNorm(epsilon=1e-3, name="norm")(h))


def _average(x: Features) -> Features:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _largest(x: Features, stride: int) -> Features:
    return nn.max_pool(x, (3, 3), (stride, stride), "SAME" if stride == 1 else "VALID")


def _join(*branches: Features) -> Features:
    return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
    """Mixed_5b to 5d: 1x1, 5x5, two 3x3, and an average, 35x35 pixels."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Maps [b, h, w, c] to [b, h, w, 224 + pool_features]."""
        five = ConvNorm(64, (5, 5), name="branch5x5_2")(ConvNorm(48, name="branch5x5_1")(x))
        three = ConvNorm(96, (3, 3), name="branch3x3dbl_2")(ConvNorm(64, name="branch3x3dbl_1")(x))
        three = ConvNorm(96, (3, 3), name="branch3x3dbl_3")(three)
        pool = ConvNorm(self.pool_features, name="branch_pool")(_average(x))
        return _join(ConvNorm(64, name="branch1x1")(x), five, three, pool)


class BlockB(nn.Module):
    """Mixed_6a: from 35x35 to 17x17 pixels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, h2, w2, 480 + c]."""
        one = ConvNorm(384, (3, 3), 2, 0, name="branch3x3")(x)
        two = ConvNorm(96, (3, 3), name="branch3x3dbl_2")(ConvNorm(64, name="branch3x3dbl_1")(x))
        two = ConvNorm(96, (3, 3), 2, 0, name="branch3x3dbl_3")(two)
        return _join(one, two, _largest(x, 2))


class BlockC(nn.Module):
    """Mixed_6b to 6e: 7x7 factorized into rows and columns, 17x17 pixels."""

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 768"]:
        """Maps [b, h, w, c] to [b, h, w, 768]."""
        width, row, column = self.channels, (1, 7), (7, 1)
        seven = ConvNorm(width, row, name="branch7x7_2")(ConvNorm(width, name="branch7x7_1")(x))
        seven = ConvNorm(192, column, name="branch7x7_3")(seven)
        twice = ConvNorm(width, name="branch7x7dbl_1")(x)
        for number, (features, size) in enumerate(((width, column), (width, row), (width, column), (192, row)), 2):
            twice = ConvNorm(features, size, name=f"branch7x7dbl_{number}")(twice)
        pool = ConvNorm(192, name="branch_pool")(_average(x))
        return _join(ConvNorm(192, name="branch1x1")(x), seven, twice, pool)


class BlockD(nn.Module):
    """Mixed_7a: from 17x17 to 8x8 pixels."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Maps [b, h, w, c] to [b, h2, w2, 512 + c]."""
        three = ConvNorm(320, (3, 3), 2, 0, name="branch3x3_2")(ConvNorm(192, name="branch3x3_1")(x))
        seven = ConvNorm(192, (1, 7), name="branch7x7x3_2")(ConvNorm(192, name="branch7x7x3_1")(x))
        seven = ConvNorm(192, (7, 1), name="branch7x7x3_3")(seven)
        seven = ConvNorm(192, (3, 3), 2, 0, name="branch7x7x3_4")(seven)
        return _join(three, seven, _largest(x, 2))


class BlockE(nn.Module):
    """Mixed_7b and 7c: 3x3 split into rows and columns, 8x8 pixels; `largest` pools by the maximum."""

    largest: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w 2048"]:
        """Maps [b, h, w, c] to [b, h, w, 2048]."""

        def split(h: Features, name: str) -> Features:
            return _join(ConvNorm(384, (1, 3), name=f"{name}a")(h), ConvNorm(384, (3, 1), name=f"{name}b")(h))

        three = split(ConvNorm(384, name="branch3x3_1")(x), "branch3x3_2")
        twice = ConvNorm(384, (3, 3), name="branch3x3dbl_2")(ConvNorm(448, name="branch3x3dbl_1")(x))
        pooled = _largest(x, 1) if self.largest else _average(x)
        pool = ConvNorm(192, name="branch_pool")(pooled)
        return _join(ConvNorm(320, name="branch1x1")(x), three, split(twice, "branch3x3dbl_3"), pool)


class InceptionV3(nn.Module):
    """The network of the Fréchet inception distance; seven of the `classes` are unused."""

    classes: int = 1008

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shape and type of the smallest input."""
        return (jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32),)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> dict[str, Any]:
        """Maps images [b, h, w, 3] in [-1, 1], 299x299 for the published distances and at least 75x75, to features.

        Returns:
          "pool" [b, 2048], of the Fréchet and the kernel distance; "spatial" [b, 17, 17, 768], before the last blocks
          (Mixed_6e); "logits" [b, classes], of the inception score.
        """
        h = ConvNorm(32, (3, 3), 2, 0, name="Conv2d_1a_3x3")(x)
        h = ConvNorm(32, (3, 3), 1, 0, name="Conv2d_2a_3x3")(h)
        h = ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(h)
        h = ConvNorm(80, name="Conv2d_3b_1x1")(_largest(h, 2))
        h = ConvNorm(192, (3, 3), 1, 0, name="Conv2d_4a_3x3")(h)
        h = _largest(h, 2)
        for name, width in (("5b", 32), ("5c", 64), ("5d", 64)):
            h = BlockA(width, name=f"Mixed_{name}")(h)
        h = BlockB(name="Mixed_6a")(h)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            h = BlockC(width, name=f"Mixed_{name}")(h)
        spatial = h
        h = BlockD(name="Mixed_7a")(h)
        h = BlockE(largest=False, name="Mixed_7b")(h)
        h = BlockE(largest=True, name="Mixed_7c")(h)
        pool = h.mean(axis=(1, 2))
        return {"pool": pool, "spatial": spatial, "logits": nn.Dense(self.classes, name="fc")(pool)}
