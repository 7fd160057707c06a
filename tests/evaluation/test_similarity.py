"""Ranks, textures, low frequencies and seams, against what can be stated without computing."""

from __future__ import annotations

import numpy as np
import pytest

from rdm_jax.evaluation import similarity
from rdm_jax.evaluation.metrics.frechet import moments_of
from rdm_jax.evaluation.statistics import Mean


def flat(*levels):
    return np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])


def ramp(step, count=2):
    row = np.arange(8, dtype=np.uint8) * step
    return np.broadcast_to(row[None, None, :, None], (count, 8, 8, 3)).copy()


LEFT = np.broadcast_to(np.arange(8)[None] < 4, (8, 8))


def test_the_rank_counts_the_distractors_that_are_nearer_whatever_their_length():
    axes = np.eye(3, dtype=np.float32)
    others = np.concatenate([axes * 5, np.array([[1, 1, 0]], np.float32)])
    assert similarity.ranks(axes[:1], 9 * axes[:1], others[1:]).tolist() == [0]
    assert similarity.ranks(axes[:1], axes[1:2], others).tolist() == [2]  # the first axis, and the one between
    assert similarity.ranks(axes[:2], np.array([[1, 2, 0], [1, 1, 0]], np.float32), others).tolist() == [2, 1]


def test_low_frequencies_see_the_level_and_no_texture():
    checks = flat(100)
    checks[:, ::2, ::2] += 30
    checks[:, 1::2, 1::2] += 30
    assert similarity.low_difference(checks, flat(115), 4).tolist() == [0.0]
    assert similarity.low_difference(flat(100, 90), flat(110, 110), 8) == pytest.approx([10.0, 20.0])
    assert similarity.pixel_distance(checks, flat(115)) == pytest.approx([15.0])


def test_layout_is_the_correlation_of_brightness():
    up = ramp(20)
    assert similarity.layout(up, up // 2, 2) == pytest.approx([1.0, 1.0])
    assert similarity.layout(up, 200 - up, 2) == pytest.approx([-1.0, -1.0])
    assert similarity.layout(up, flat(7, 9), 2) == pytest.approx([0.0, 0.0])


def test_gram_distances_are_relative_to_the_reference():
    grams = [np.random.default_rng(i).standard_normal((4, 3 + i, 3 + i)) for i in range(2)]
    assert similarity.gram_distances(grams, grams) == pytest.approx(np.zeros(4))
    assert similarity.gram_distances([3 * gram for gram in grams], grams) == pytest.approx(np.full(4, 2.0))


def test_all_pairs_are_looked_at_once():
    assert sorted(similarity.pairwise_distances(np.array([[0, 0], [3, 4], [0, 4]], np.float32))) == [3, 4, 5]


def test_a_seam_is_one_where_nothing_shows_and_more_where_a_step_does():
    assert similarity.seam(ramp(10), LEFT) == pytest.approx(1.0)
    stepped = ramp(10)
    stepped[:, :, 4:] += 50
    assert similarity.seam(stepped, LEFT) == pytest.approx(6.0)
    assert similarity.seam(np.swapaxes(stepped, 1, 2), LEFT.T) == pytest.approx(6.0)
    stepped[:, :, 7] = 255  # far from the border
    assert similarity.seam(stepped, LEFT) == pytest.approx(6.0)


def test_only_the_kept_region_counts_as_changed():
    changed = flat(100)
    changed[0, 0, 6] = 0
    assert similarity.largest_change(changed, flat(100), LEFT) == 0
    changed[0, 5, 1, 2] = 97
    assert similarity.largest_change(changed, flat(100), LEFT) == 3


def test_a_mean_has_the_interval_of_its_standard_error():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    mean = Mean.of(values)
    low, high = mean.interval
    assert mean.value == pytest.approx(values.mean()) and (high - low) / 2 == pytest.approx(1.96 * 0.1, rel=0.1)
    assert Mean.of(values[:1]).to_json() == {"mean": values[0], "low": None, "high": None, "count": 1}
    with pytest.raises(ValueError, match="no numbers"):
        Mean.of(values[:0])


def test_moments_of_rows_are_numpys():
    rows = np.random.default_rng(1).standard_normal((50, 3))
    assert moments_of(rows).covariance == pytest.approx(np.cov(rows.T))
