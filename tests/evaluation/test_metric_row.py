import numpy as np
import pytest
from scipy import stats

from rdm_jax.evaluation.metric_row import HIGHER, mean_row
from rdm_jax.evaluation.metrics.intervals import bootstrap_mean


def test_a_fraction_has_wilsons_interval_and_a_mean_a_bootstrap_one():
    none = mean_row("fraction", np.zeros(24, bool), HIGHER, 0, {"k": 3})
    expected = stats.binomtest(0, 24).proportion_ci(0.95, method="wilson")
    assert none.value == 0.0 and none.interval == pytest.approx((expected.low, expected.high))
    assert none.to_json()["parameters"] == {"k": 3, "interval": "Wilson"}
    values = np.random.default_rng(0).normal(size=30)
    mean = mean_row("mean", values, HIGHER, 7, {})
    assert mean.interval == bootstrap_mean(values, seed=7) and mean.value == pytest.approx(values.mean())
    assert mean.to_json()["low"] == mean.interval[0]
