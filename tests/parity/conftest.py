"""PyTorch where it is installed, and what compares its tensors with our arrays."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not here; see make parity")


@pytest.fixture(scope="module")
def tensors(torch):
    """`random(*shape)`, a tensor; `nhwc(tensor)`, it as we take it; `close(ours, theirs)`, within the tolerance."""

    def random(*shape):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))

    def nhwc(tensor):
        return jnp.asarray(tensor.numpy().transpose(0, 2, 3, 1))

    def close(ours, theirs):
        ours = np.asarray(ours)
        ours = ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=TOLERANCE, atol=TOLERANCE)

    return SimpleNamespace(random=random, nhwc=nhwc, close=close)
