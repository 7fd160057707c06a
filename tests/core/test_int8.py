"""Rows in int8 are near the rows, and stay as they are when they are stored again."""

from __future__ import annotations

import numpy as np

from rdm_jax.core.int8 import dequantize, quantize

ROWS = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32) * np.logspace(-3, 2, 50)[:, None]


def test_rows_are_rounded_to_half_a_step() -> None:
    rows = ROWS.astype(np.float32)
    integers, scales = quantize(rows)
    assert (integers.dtype, scales.dtype) == (np.int8, np.float16)
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    assert (np.abs(dequantize(integers, scales) - rows) <= 0.6 * step).all()


def test_stored_again_nothing_changes() -> None:
    integers, scales = quantize(ROWS.astype(np.float32))
    again = quantize(dequantize(integers, scales))
    np.testing.assert_array_equal(again[0], integers)
    np.testing.assert_array_equal(again[1], scales)


def test_rows_of_zeros_and_no_rows() -> None:
    assert not dequantize(*quantize(np.zeros((3, 4), np.float32))).any()
    assert dequantize(*quantize(np.zeros((0, 4), np.float32))).shape == (0, 4)


def test_each_index_of_an_axis_has_its_scale() -> None:
    kernel = np.random.default_rng(1).normal(size=(3, 3, 8, 5)).astype(np.float32) * np.logspace(-2, 2, 5)
    integers, scales = quantize(kernel.astype(np.float32), axis=-1)
    assert integers.shape == kernel.shape and scales.shape == (1, 1, 1, 5)
    step = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    assert (np.abs(dequantize(integers, scales) - kernel) <= 0.6 * step).all()
