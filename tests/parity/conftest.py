"""PyTorch where it is installed, and what compares its tensors with our arrays."""

from __future__ import annotations

import importlib
import re
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

TOLERANCE = 1e-4


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def vision(torch):
    """Torchvision, its operators named and never called where they cannot be loaded."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            return importlib.import_module("torchvision")
        except ImportError:
            pytest.skip("torchvision is not here; see make parity")
        except RuntimeError as error:
            missing = re.search(r"torchvision::(\w+)", str(error))
            assert missing, error
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]


@pytest.fixture(scope="module")
def randomized(torch):
    """`randomized(network)`, with random parameters and running statistics, so that activations keep their size."""

    def randomize(network):
        """Returns the network with random parameters and running statistics, so that activations keep their size."""
        generator = torch.Generator().manual_seed(0)
        for name, value in network.state_dict().items():
            if not value.is_floating_point() or "scaling_layer" in name:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5 if "lin" not in name else noise.abs())
            else:
                value.copy_((0.1 * noise).exp() if name.endswith(("var", "weight")) else 0.1 * noise)
        return network.eval()

    return randomize
