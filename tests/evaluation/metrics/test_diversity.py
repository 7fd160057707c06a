import itertools

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.metrics.diversity import pairs_within


def test_all_pairs_within_groups_are_taken_once():
    groups = ["a", "b", "a", "c", "a", "b", "a"]
    expected = {*itertools.combinations([0, 2, 4, 6], 2), (1, 5)}
    pairs = pairs_within(groups)
    assert len(pairs) == 7 and set(map(tuple, pairs.tolist())) == expected


def test_some_of_many_pairs_are_distinct_and_spread():
    pairs = pairs_within([0] * 300 + [1] * 200, most=5000)
    assert len(set(map(tuple, pairs.tolist()))) == 5000
    assert all(first < second and (second < 300 or first >= 300) for first, second in pairs.tolist())
    every = len(list(itertools.combinations(range(300), 2))), len(list(itertools.combinations(range(200), 2)))
    assert np.mean(pairs[:, 1] < 300) == pytest.approx(every[0] / sum(every), abs=0.03)


def test_a_large_group_needs_no_list_of_all_pairs():
    assert pairs_within([0] * 100_000, most=10).shape == (10, 2)


def test_groups_of_one_image_have_no_diversity():
    with pytest.raises(UserError, match="3 images have 3 groups"):
        pairs_within([1, 2, 3])
