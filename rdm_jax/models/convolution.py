"""3x3 convolutions that keep the size of a feature map, or double it, each by the fastest algorithm of its platform.

GPUs and TPUs use XLA's convolution. On the CPU it computes all 36 products of a 2x2 tile of outputs, while minimal
filtering (Lavin and Gray 2015, https://arxiv.org/abs/1509.09308, section 4.1: F(2x2, 3x3)) needs 16, and 9 if each
pixel is repeated first. Its errors are those of float32 sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

Features = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 c d"]
Matrix = tuple[tuple[float, ...], ...]

TILES = 4096  # computed at a time: the temporary memory is bounded, and the products are still large
LEAST_TILES = 128  # fewer do not outweigh the transform of the kernel
LEAST_CHANNELS = 48  # fewer do not outweigh the transform of the pixels
LEAST_PRODUCTS = 2**26  # of pixels and taps, about 6 ms: fewer do not outweigh half a second of compilation
FEW_PIXELS = 256  # up to so many, one product over patches uses the cores better than XLA's convolution


@dataclasses.dataclass(frozen=True)
class Filtering:
    """How two adjacent outputs along an axis are computed: from_products @ ((of_pixels @ pixels) * (of_taps @ taps)).

    Attributes:
      of_pixels: [products, pixels].
      of_taps: [products, 3].
      from_products: [2, products].
      stride: the pixels from one tile to the next.
    """

    of_pixels: Matrix
    of_taps: Matrix
    from_products: Matrix
    stride: int


SAME = Filtering(
    of_pixels=((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0)),
    of_taps=((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0)),
    from_products=((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0)),
    stride=2,
)
# Repeated pixels a, b, c give the tile k0 a + (k1 + k2) b and (k0 + k1) b + k2 c.
DOUBLED = Filtering(
    of_pixels=((1.0, -1.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, -1.0)),
    of_taps=((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0)),
    from_products=((1.0, 1.0, 0.0), (0.0, 1.0, -1.0)),
    stride=1,
)


def upsample_nearest(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Doubles height and width, each pixel repeated."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


@jax.custom_jvp
def convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """Convolves [b, h, w, c] with a kernel [3, 3, c, d] of the same type, padded with zeros."""
    return jax.lax.platform_dependent(x, kernel, cpu=_convolve_on_cpu, default=_convolve)


@jax.custom_jvp
def convolve_upsampled(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h2 w2 d"]:
    """Doubles height and width as `upsample_nearest` does and convolves, [b, h, w, c] to [b, 2h, 2w, d]."""
    return jax.lax.platform_dependent(x, kernel, cpu=_convolve_upsampled_on_cpu, default=_convolve_upsampled)


def _convolve(x: Features, kernel: Kernel) -> Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=dimensions)


def _convolve_upsampled(x: Features, kernel: Kernel) -> Array:
    return _convolve(upsample_nearest(x), kernel)


def _linear_in_features(x: Features, kernel: Kernel) -> Array:
    """Convolves as `_convolve` does, in a form whose gradient is fast on all platforms."""
    return jax.lax.platform_dependent(x, kernel, cpu=_flipped_twice, default=_convolve)


def _flipped_twice(x: Features, kernel: Kernel) -> Array:
    """Convolves by the transpose of a convolution with the flipped kernel; its own transpose is that convolution.

    The transpose of `_convolve` that JAX derives reads the kernel backwards, for which XLA on the CPU has only a loop
    that is up to 16 times slower. The barrier keeps XLA from fusing the flip into the convolution.
    """
    flipped = jax.lax.optimization_barrier(jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2))
    like = jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda gradient: _convolve(gradient, flipped), like)(x)[0]


def _linear_in_small_features(x: Features, kernel: Kernel) -> Array:
    return _linear_in_features(upsample_nearest(x), kernel)


def _bilinear(
    function: Callable[..., Array], in_features: Callable[..., Array], in_kernel: Callable[..., Array]
) -> Callable[..., tuple[Array, Array]]:
    """Returns the JVP rule of a function that is linear in each argument, from a form of it for each tangent."""

    def rule(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
        """Returns the value and its tangent."""
        (x, kernel), (dx, dkernel) = primals, tangents
        out = function(x, kernel)
        parts = [] if isinstance(dx, SymbolicZero) else [in_features(dx, kernel)]
        parts += [] if isinstance(dkernel, SymbolicZero) else [in_kernel(x, dkernel)]
        return out, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(out)

    return rule


convolve.defjvp(_bilinear(convolve, _linear_in_features, _convolve), symbolic_zeros=True)
convolve_upsampled.defjvp(
    _bilinear(convolve_upsampled, _linear_in_small_features, _convolve_upsampled), symbolic_zeros=True
)


def _convolve_on_cpu(x: Features, kernel: Kernel) -> Array:
    b, h, w, c = x.shape
    if h % 2 == w % 2 == 0 and _is_faster(b * h * w // 4, kernel):
        return _filtered(x, kernel, SAME)
    return _over_patches(x, kernel) if b * h * w <= FEW_PIXELS <= 4 * c else _convolve(x, kernel)


def _convolve_upsampled_on_cpu(x: Features, kernel: Kernel) -> Array:
    b, h, w, _ = x.shape
    return _filtered(x, kernel, DOUBLED) if _is_faster(b * h * w, kernel) else _convolve_upsampled(x, kernel)


def _is_faster(tiles: int, kernel: Kernel) -> bool:
    channels = kernel.shape[2:]
    large = tiles >= LEAST_TILES and min(channels) >= LEAST_CHANNELS
    return large and 4 * tiles * math.prod(channels) >= LEAST_PRODUCTS


def _over_patches(x: Features, kernel: Kernel) -> Array:
    """Convolves by one product of all patches with the kernel."""
    b, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    products = jnp.concatenate(patches, axis=-1).reshape(b * h * w, 9 * c) @ kernel.reshape(9 * c, -1)
    return products.reshape(b, h, w, -1)


def _filtered(x: Features, kernel: Kernel, filtering: Filtering) -> Array:
    """Convolves by minimal filtering, at least in float32; large feature maps in bands of rows."""
    b, h, w, _ = x.shape
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums of taps would lose digits in half precision
    stride, size = filtering.stride, len(filtering.of_pixels[0])
    taps = _on_both_axes(filtering.of_taps, [[kernel[i, j].astype(wide) for j in range(3)] for i in range(3)])
    padded = jnp.pad(x.astype(wide), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = h // stride
    band = max(1, min(rows, TILES * stride // (b * w)))
    if band == rows:
        return _tiles(padded, taps, filtering).astype(x.dtype)
    bands = -(-rows // band)  # the last band overlaps with the one before
    starts = jnp.minimum(jnp.arange(bands) * band, rows - band)

    def one(start: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(padded, start * stride, stride * (band - 1) + size, axis=1)
        return _tiles(part, taps, filtering).astype(x.dtype)

    parts = jax.lax.map(one, starts)
    first = jnp.moveaxis(parts[:-1], 0, 1).reshape(b, -1, *parts.shape[3:])
    return jnp.concatenate([first, parts[-1][:, 2 * ((bands - 1) * band - (rows - band)) :]], axis=1)


def _tiles(padded: Features, taps: list[list[Array]], filtering: Filtering) -> Array:
    """Returns the outputs of all tiles of a feature map with a margin of 1."""
    b, height, width, c = padded.shape
    stride, size = filtering.stride, len(filtering.of_pixels[0])
    down, across = (height - size) // stride + 1, (width - size) // stride + 1

    def pixels(i: int, j: int) -> Array:
        rows = padded[:, i : i + stride * (down - 1) + 1 : stride]
        return rows[:, :, j : j + stride * (across - 1) + 1 : stride]

    inputs = _on_both_axes(filtering.of_pixels, [[pixels(i, j) for j in range(size)] for i in range(size)])
    products = [
        [(value.reshape(-1, c) @ tap).reshape(b, down, across, -1) for value, tap in zip(*row, strict=True)]
        for row in zip(inputs, taps, strict=True)
    ]
    outputs = _on_both_axes(filtering.from_products, products)
    rows = [jnp.stack(row, axis=3) for row in outputs]
    return jnp.stack(rows, axis=2).reshape(b, 2 * down, 2 * across, -1)


def _on_both_axes(matrix: Matrix, grid: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Returns matrix @ grid @ matrix^T for a grid of arrays."""
    columns = [_combine(matrix, column) for column in zip(*grid, strict=True)]
    return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _combine(matrix: Matrix, parts: Sequence[Array]) -> list[Array]:
    rows = ([part * factor for factor, part in zip(row, parts, strict=True) if factor] for row in matrix)
    return [sum(terms[1:], terms[0]) for terms in rows]
