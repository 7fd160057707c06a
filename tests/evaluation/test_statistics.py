import numpy as np
import pytest
from scipy import stats

from rdm_jax.evaluation.statistics import Proportion, wilson


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
