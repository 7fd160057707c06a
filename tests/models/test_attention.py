"""Attention against JAX's own and against its definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.models import attention


def _inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, tokens, 3, 8), dtype) for key, tokens in zip(keys, (7, 5, 5), strict=True)]


@pytest.mark.parametrize("most", [2**24, 0])
def test_it_equals_jax_at_once_and_head_by_head(monkeypatch, most):
    monkeypatch.setattr(attention, "WEIGHTS", most)
    q, k, v = _inputs()
    np.testing.assert_allclose(attention.attend(q, k, v), jax.nn.dot_product_attention(q, k, v), atol=1e-6)
    np.testing.assert_allclose(
        attention.attend(k, k, v, causal=True), jax.nn.dot_product_attention(k, k, v, is_causal=True), atol=1e-6
    )
    np.testing.assert_array_equal(attention.attend(q, k, v, "xla"), jax.nn.dot_product_attention(q, k, v))


def test_it_equals_the_definition():
    q, k, v = (np.asarray(x, np.float64) for x in _inputs())
    weights = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(8))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(attention.attend(*_inputs()), np.einsum("bhnm,bmhd->bnhd", weights, v), atol=1e-6)


def test_the_softmax_is_in_float32():
    q, k, v = _inputs(jnp.bfloat16)
    out = attention.attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    exact = attention.attend(*(x.astype(jnp.float32) for x in (q, k, v)))
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=2e-2)
