import jax
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.images import to_float
from rdm_jax.evaluation.features.perceptual import PerceptualNetwork
from tests.helpers import tiny


@pytest.fixture(scope="module")
def network():
    config = {"name": "perceptual", "lpips": {}}
    return PerceptualNetwork(Bundle(config, {"lpips": tiny.random_params(config, "lpips")}))


@pytest.mark.slow
def test_distances_are_those_of_each_pair_whatever_the_padding(network):
    a, b = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    b[2] = a[2]
    found = network.distances(a, b)
    apply = jax.jit(lambda x, y: network.bundle.lpips.apply({"params": network.bundle.params["lpips"]}, x, y))
    np.testing.assert_allclose(found, apply(to_float(a), to_float(b)), rtol=1e-4, atol=1e-6)
    assert found.shape == (3,) and found[2] == pytest.approx(0.0, abs=1e-6) and abs(found[0]) > 1e-4


def test_the_name_is_that_of_the_weights_and_the_first_bundle_with_them_is_taken(network):
    assert network.title == "LPIPS with the weights of 'perceptual'"
    other = tiny.bundle()
    assert PerceptualNetwork.of([other]) is None
    found = PerceptualNetwork.of([other, network.bundle])
    assert found is not None and found.bundle is network.bundle
