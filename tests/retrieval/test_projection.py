"""Maps of rows, against principal components by another way."""

import importlib.util

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.projection import fit
from tests.retrieval.conftest import unit

ROWS = (np.random.default_rng(0).normal(size=(200, 12)) * np.arange(1, 13)).astype(np.float32)


def test_pca_keeps_the_two_directions_of_the_greatest_variance():
    points = fit(ROWS)(ROWS)
    centerd = unit(ROWS) - unit(ROWS).mean(axis=0)
    variances, axes = np.linalg.eigh(centerd.T @ centerd)
    np.testing.assert_allclose((points**2).sum(axis=0), variances[[-1, -2]], rtol=1e-4)
    np.testing.assert_allclose(np.abs(points), np.abs(centerd @ axes[:, [-1, -2]]), atol=1e-4)


def test_points_that_lie_on_a_plane_keep_their_distances():
    angles = np.random.default_rng(1).uniform(0, 2 * np.pi, 50)
    plane = np.linalg.qr(np.random.default_rng(2).normal(size=(9, 2)))[0].T
    rows = (np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane).astype(np.float32)
    points = fit(rows)(rows)
    between = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(between, np.linalg.norm(rows[:, None] - rows[None], axis=-1), atol=1e-5)


def test_a_query_lies_where_its_row_lies_whatever_its_length_and_the_order():
    project = fit(ROWS)
    np.testing.assert_allclose(project(7 * ROWS[5:6]), project(ROWS)[5:6], atol=1e-5)
    np.testing.assert_allclose(fit(ROWS[::-1].copy())(ROWS), project(ROWS), atol=1e-3)


def test_equal_rows_lie_on_one_point():
    rows = np.tile(ROWS[:1], (5, 1))
    assert np.ptp(fit(rows)(rows), axis=0).max() < 1e-6


def test_bad_methods_and_too_few_rows_are_refused():
    with pytest.raises(UserError, match="unknown method 'pcb'; did you mean 'pca'"):
        fit(ROWS, "pcb")
    with pytest.raises(UserError, match="a map needs 3 rows or more, and there are 2"):
        fit(ROWS[:2])


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="UMAP is installed")
def test_umap_says_how_to_install_it():
    with pytest.raises(UserError, match=r"UMAP is not installed; pip install rdm_jax\[map\]"):
        fit(ROWS, "umap")
