import numpy as np
import pytest
from scipy import stats

from rdm_jax.evaluation.metrics import intervals
from rdm_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from rdm_jax.evaluation.metrics.intervals import bootstrap_mean, bootstrap_statistic


def test_the_interval_of_a_mean_is_that_of_scipy(monkeypatch):
    values = np.random.default_rng(0).exponential(size=200)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    for size in (2**22, 1000):
        monkeypatch.setattr(intervals, "CHUNK", size)
        found = bootstrap_mean(values, resamples=20_000)
        assert found == pytest.approx((expected.low, expected.high), abs=0.005)


def test_the_interval_of_a_statistic_has_the_spread_of_resamples_around_the_value():
    values = np.random.default_rng(1).normal(size=80)

    def spread(rows):
        return float(values[rows].var())  # a resample's is smaller by (n - 1) / n

    resampled = stats.bootstrap((values,), np.var, n_resamples=4000, rng=2).bootstrap_distribution
    assert resampled.mean() < 0.995 * values.var()
    expected = np.quantile(resampled, [0.025, 0.975]) + values.var() - resampled.mean()
    assert bootstrap_statistic(80, spread, 4000) == pytest.approx(tuple(expected), abs=0.02)


def test_the_interval_of_a_distance_is_where_other_sets_of_the_size_lie():
    def distance(rows):
        return frechet_distance(moments_of(rows), reference)

    generator = np.random.default_rng(4)
    reference = moments_of(generator.normal(size=(2000, 4)))
    others = [distance(generator.normal(0.5, 1.0, (150, 4))) for _ in range(300)]
    inside = []
    for seed in range(20):
        rows = generator.normal(0.5, 1.0, (150, 4))
        low, high = bootstrap_statistic(150, lambda chosen, rows=rows: distance(rows[chosen]), 100, seed)
        assert low < distance(rows) < high
        inside.append(low < np.mean(others) < high)
    assert np.mean(inside) >= 0.75


def test_intervals_cover_the_mean_as_often_as_they_claim():
    generator = np.random.default_rng(3)
    covered = [
        low <= 0.0 <= high
        for low, high in (bootstrap_mean(generator.normal(size=60), 200, seed) for seed in range(300))
    ]
    assert 0.9 < np.mean(covered) < 0.985


def test_no_numbers_have_no_interval():
    with pytest.raises(ValueError, match="no numbers"):
        bootstrap_mean(np.zeros(0))
