import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.metrics import kernel
from rdm_jax.evaluation.metrics.kernel import gaussian_mmd, kernel_distance, polynomial_mmd


def sets(shift=0.3):
    generator = np.random.default_rng(0)
    return generator.normal(size=(30, 8)), generator.normal(shift, 1.2, size=(25, 8))


def test_the_polynomial_distance_is_the_sum_over_pairs():
    a, b = sets()

    def k(x, y):
        return (x @ y / 8 + 1) ** 3

    own = [np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (a, b)]
    cross = np.mean([k(x, y) for x in a for y in b])
    assert polynomial_mmd(a, b) == pytest.approx(own[0] + own[1] - 2 * cross, rel=1e-10)


def test_the_estimate_is_unbiased():
    generator = np.random.default_rng(1)
    found = [polynomial_mmd(generator.normal(size=(12, 3)), generator.normal(size=(12, 3))) for _ in range(4000)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_subsets_of_the_whole_set_do_not_vary():
    a, b = sets()
    found = kernel_distance(a[:20], b[:20], subsets=5, size=20)
    assert found.mean == pytest.approx(polynomial_mmd(a[:20], b[:20]), rel=1e-10)
    assert found.std == pytest.approx(0.0, abs=1e-12)
    smaller = kernel_distance(a, b, subsets=50, size=10)
    assert smaller.std > 0 and smaller == kernel_distance(a, b, subsets=50, size=10)
    assert smaller != kernel_distance(a, b, subsets=50, size=10, seed=1)


def test_too_few_images_for_a_subset_are_named():
    with pytest.raises(UserError, match="subsets of 26 images, and a set has 25"):
        kernel_distance(*sets(), size=26)


def test_the_gaussian_distance_is_the_sum_over_pairs_of_directions(monkeypatch):
    a, b = sets()
    x, y = (z / np.linalg.norm(z, axis=1)[:, None] for z in (a, b))

    def mean(u, v):
        return np.mean([np.exp(-np.sum((p - q) ** 2) / (2 * 0.5**2)) for p in u for q in v])

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    for size in (2048, 7):
        monkeypatch.setattr(kernel, "CHUNK", size)
        assert gaussian_mmd(a, 3 * b, sigma=0.5) == pytest.approx(expected, rel=1e-9)
    assert gaussian_mmd(a, a) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(UserError, match="one set is empty"):
        gaussian_mmd(a, b[:0])
