import numpy as np
import pytest
from scipy import special, stats

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.metrics.class_score import class_score


def test_one_split_is_the_mean_entropy_against_the_marginal():
    logits = np.random.default_rng(0).normal(0, 3, (50, 7)) + 500.0
    p = special.softmax(logits, axis=1)
    expected = np.exp(np.mean([stats.entropy(row, p.mean(axis=0)) for row in p]))
    assert class_score(logits, splits=1).mean == pytest.approx(expected, rel=1e-10)


def test_certain_and_even_classes_score_their_number():
    logits = 200.0 * np.eye(4)[np.arange(40) % 4]
    assert class_score(logits, splits=1).mean == pytest.approx(4.0, rel=1e-9)
    assert class_score(np.zeros((40, 4))).mean == pytest.approx(1.0, rel=1e-12)


def test_parts_are_those_of_the_shuffled_order():
    logits = np.random.default_rng(1).normal(0, 2, (23, 5))
    order = np.random.RandomState(2020).permutation(23)
    parts = [class_score(logits[order][i * 23 // 4 : (i + 1) * 23 // 4], splits=1).mean for i in range(4)]
    found = class_score(logits, splits=4)
    assert (found.mean, found.std) == (pytest.approx(np.mean(parts)), pytest.approx(np.std(parts)))
    with pytest.raises(UserError, match="needs 24 images or more, and there are 23"):
        class_score(logits, splits=24)
