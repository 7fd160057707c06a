import numpy as np
import pytest
from scipy import linalg, stats

from rdm_jax.evaluation.statistics import (
    Moments,
    Proportion,
    frechet_distance,
    nearest_cosine,
    nearest_rmse,
    psnr,
    wilson,
)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (1, 10), (5, 10), (10, 10), (194, 200), (970, 1000)])
def test_wilson_equals_scipy(hits, count):
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_solves_its_equation():
    # The bounds are the p at which the observed share lies z standard errors away.
    for bound in wilson(37, 50, z=1.7):
        assert abs(37 / 50 - bound) == pytest.approx(1.7 * np.sqrt(bound * (1 - bound) / 50))


def test_a_proportion_of_nothing_has_no_rate():
    assert Proportion(0, 0).to_json() == {"rate": None, "low": 0.0, "high": 1.0, "hits": 0, "count": 0}


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_moments_do_not_depend_on_batches(batch):
    rows = np.random.default_rng(0).normal(1e3, 1.0, (101, 5)).astype(np.float32)
    moments = Moments.empty(5)
    for start in range(0, len(rows), batch):
        moments = moments.add(rows[start : start + batch])
    np.testing.assert_allclose(moments.mean, rows.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.astype(np.float64).T), rtol=1e-8, atol=1e-9)


def test_moments_of_one_row_have_no_covariance():
    with pytest.raises(ValueError, match="at least 2 rows"):
        _ = Moments.empty(2).add(np.ones((1, 2))).covariance


def gaussian(mean, covariance):
    return Moments(2, np.asarray(mean, np.float64), np.asarray(covariance, np.float64))


def test_frechet_equals_the_matrix_square_root():
    generator = np.random.default_rng(1)
    a, b = (generator.normal(size=(6, 20)) for _ in range(2))
    first, second = gaussian(generator.normal(size=6), a @ a.T), gaussian(generator.normal(size=6), b @ b.T)
    root = linalg.sqrtm(first.covariance @ second.covariance).real
    expected = np.sum((first.mean - second.mean) ** 2) + np.trace(first.covariance + second.covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-10)


def test_frechet_of_diagonal_gaussians_is_a_sum_of_squares():
    first, second = gaussian([0.0, 1.0], np.diag([4.0, 9.0])), gaussian([3.0, 1.0], np.diag([1.0, 16.0]))
    assert frechet_distance(first, second) == pytest.approx(9.0 + (2.0 - 1.0) ** 2 + (3.0 - 4.0) ** 2)


def test_frechet_stands_singular_covariances():
    rows = np.random.default_rng(2).normal(size=(4, 12))
    moments = Moments.empty(12).add(rows)
    assert frechet_distance(moments, moments) == pytest.approx(0.0, abs=1e-7)
    shifted = Moments.empty(12).add(rows + 2.0)
    assert frechet_distance(moments, shifted) == pytest.approx(12 * 4.0, rel=1e-7)


def test_psnr_of_a_constant_error():
    a = np.full((3, 4, 4, 3), 100, np.uint8)
    b = a + np.array([0, 10, 255 - 100], np.uint8).reshape(3, 1, 1, 1)
    expected = [99.0, 20 * np.log10(255 / 10), 20 * np.log10(255 / 155)]
    np.testing.assert_allclose(psnr(a, b), expected)


def test_nearest_equals_the_loop():
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    others = generator.integers(0, 256, (9, 6, 6, 3), dtype=np.uint8)
    others[4] = images[2]
    differences = images[:, None].astype(np.float64) - others[None].astype(np.float64)
    expected = np.sqrt((differences**2).mean(axis=(2, 3, 4))).min(axis=1)
    np.testing.assert_allclose(nearest_rmse(images, others), expected, atol=1e-9)
    assert nearest_rmse(images, others)[2] == 0


def test_nearest_cosine_does_not_see_lengths():
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 5.0], [3.0, 0.0]])
    np.testing.assert_allclose(nearest_cosine(a, b), [1.0, np.sqrt(0.5)])
    np.testing.assert_allclose(nearest_cosine(7 * a, 2 * b), [1.0, np.sqrt(0.5)])
