import numpy as np
import pytest
from scipy.spatial import distance

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.metrics import manifold as module
from rdm_jax.evaluation.metrics.manifold import manifold


def test_all_four_equal_their_definitions_at_any_chunk(monkeypatch):
    generator = np.random.default_rng(0)
    a, real = generator.normal(100.0, 1.0, (40, 3)), generator.normal(101.0, 1.0, (50, 3))
    between = distance.cdist(a, real)
    own = np.sort(distance.cdist(a, a), axis=1)[:, 3]
    theirs = np.sort(distance.cdist(real, real), axis=1)
    for size in (1024, 7):
        monkeypatch.setattr(module, "CHUNK", size)
        found = manifold(a, real)
        np.testing.assert_array_equal(found.precision, (between <= theirs[None, :, 3]).any(axis=1))
        np.testing.assert_array_equal(found.recall, (between <= own[:, None]).any(axis=0))
        np.testing.assert_allclose(found.density, (between < theirs[None, :, 5]).sum(axis=1) / 5)
        np.testing.assert_array_equal(found.coverage, between.min(axis=0) < theirs[:, 5])
    assert 0 < found.precision.mean() < 1 and 0 < found.recall.mean() < 1 and 0 < found.coverage.mean() < 1


def test_a_set_lies_within_itself_and_not_within_a_distant_one():
    rows = np.random.default_rng(1).normal(size=(30, 4))
    same, apart = manifold(rows, rows), manifold(rows + 100.0, rows)
    assert same.precision.all() and same.recall.all() and same.coverage.all()
    assert not (apart.precision.any() or apart.recall.any() or apart.density.any() or apart.coverage.any())


def test_rows_that_occur_twice_do_not_shift_the_neighbors():
    rows = np.array([[0.0], [0.0], [1.0], [3.0]])
    np.testing.assert_allclose(module.radii(rows, [1, 2])[0], [0.0, 0.0, 1.0, 4.0])
    np.testing.assert_allclose(module.radii(rows, [1, 2])[1], [1.0, 1.0, 1.0, 9.0])


def test_too_few_images_for_k_are_named():
    with pytest.raises(UserError, match="5 nearest neighbors need 6 images in each set, and one has 5"):
        manifold(np.ones((5, 2)), np.ones((9, 2)))
