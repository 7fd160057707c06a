import numpy as np
import pytest
from scipy import linalg

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.metrics.frechet import Moments, frechet_distance, moments_of, require_rank


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


def test_moments_of_two_processes_are_those_of_all_rows():
    rows = np.random.default_rng(4).normal(50.0, 3.0, (40, 6))
    merged = moments_of(rows[:13]).merge(moments_of(rows[13:]))
    np.testing.assert_allclose(merged.covariance, np.cov(rows.T), rtol=1e-10)
    np.testing.assert_allclose(Moments.empty(6).merge(merged).mean, rows.mean(axis=0), rtol=1e-12)
    assert Moments.empty(6).merge(Moments.empty(6)).count == 0


def test_too_few_images_for_the_rank_are_named_with_the_count_needed():
    rows = np.random.default_rng(5).normal(size=(13, 12))
    require_rank(moments_of(rows), "the set")
    with pytest.raises(UserError, match="the set has 12 images, and a covariance of 12 features needs 13"):
        require_rank(moments_of(rows[:12]), "the set")
