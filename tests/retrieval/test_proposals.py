"""Proposals of rows: the paper's distribution, truncated to its top m, sampled by seed and number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval import proposals
from rdm_jax.retrieval.neighbors import NeighborOptions
from rdm_jax.retrieval.sidecar import NeighborSidecar
from tests.retrieval.conftest import neighbors_of
from tests.retrieval.test_neighbors import write_more_images

COUNTS = np.array([0, 7, 3, 7, 0, 1, 2, 0, 0, 0])


def test_counts_are_those_of_the_records(tmp_path, encoder, database):
    examples = write_more_images(tmp_path / "set", 20, seed=5, broken=(11,))
    neighbors_of(examples, encoder, database, NeighborOptions(6, part_size=8), tmp_path / "out")
    sidecar = NeighborSidecar.open(tmp_path / "out")
    counts = proposals.count_neighbors(sidecar, database)
    assert counts.shape == (len(database),)
    assert counts.sum() == 19 * 6  # the broken one has none
    for row in range(len(database)):
        assert counts[row] == sum(row in sidecar[i][0] for i in range(20))


@pytest.mark.parametrize(
    ("m", "expected"),
    [(1, [1, 3, 2, 6, 5]), (0.2, [1, 3]), (0.21, [1, 3, 2]), (4, [1, 3, 2, 6]), (500, [1, 3, 2, 6, 5])],
)
def test_the_top_m_are_the_most_frequent(m, expected):
    assert proposals.top(COUNTS, m).tolist() == expected


@pytest.mark.parametrize("m", [0, -0.5, 2.5, float("nan")])
def test_an_m_that_is_none_is_refused(m):
    with pytest.raises(UserError, match="neither a fraction"):
        proposals.top(COUNTS, m)


def test_a_database_that_was_never_seen_has_no_proposals():
    with pytest.raises(UserError, match="no row of the database is a neighbor"):
        proposals.top(np.zeros(5, np.int64), 0.5)


def test_samples_follow_the_shares():
    rows = proposals.top(COUNTS, 1)
    for weights, probabilities in ((None, np.full(5, 0.2)), (COUNTS[rows], COUNTS[rows] / 20)):
        samples = proposals.sample(rows, 2000, 3, weights)
        observed = [(samples == row).sum() for row in rows]
        assert stats.chisquare(observed, 2000 * probabilities).pvalue > 1e-3


def test_a_sample_depends_on_the_seed_and_its_number_alone():
    rows = np.arange(1000)
    np.testing.assert_array_equal(proposals.sample(rows, 20, 3)[:5], proposals.sample(rows, 5, 3))
    assert not np.array_equal(proposals.sample(rows, 20, 3), proposals.sample(rows, 20, 4))
    assert len(set(proposals.sample(rows, 20, 3).tolist())) > 15
