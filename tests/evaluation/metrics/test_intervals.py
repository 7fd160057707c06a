import numpy as np
import pytest
from scipy import stats

from rdm_jax.evaluation.metrics import intervals
from rdm_jax.evaluation.metrics.intervals import bootstrap_mean, bootstrap_statistic


def test_the_interval_of_a_mean_is_that_of_scipy(monkeypatch):
    values = np.random.default_rng(0).exponential(size=200)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    for size in (2**22, 1000):
        monkeypatch.setattr(intervals, "CHUNK", size)
        found = bootstrap_mean(values, resamples=20_000)
        assert found == pytest.approx((expected.low, expected.high), abs=0.005)


def test_the_interval_of_a_statistic_is_scipys_basic_one():
    values = np.random.default_rng(1).normal(size=80)

    def spread(rows):
        return float(values[rows].var())  # a resample's is smaller by (n - 1) / n

    expected = stats.bootstrap((values,), np.var, n_resamples=4000, method="basic", rng=2).confidence_interval
    assert bootstrap_statistic(80, spread, 4000) == pytest.approx((expected.low, expected.high), abs=0.02)


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
