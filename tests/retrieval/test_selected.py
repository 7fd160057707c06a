"""Search among some rows, compared with brute force."""

import dataclasses

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.retriever import Retriever
from rdm_jax.retrieval.rows import SelectedRows
from rdm_jax.retrieval.selected import FEW, SelectedIndex
from tests.retrieval.conftest import unit

ROWS = np.random.default_rng(0).normal(size=(500, 24)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(7, 24)).astype(np.float32)


def nearest(rows, queries, k, admitted):
    """Returns ids and cosines by comparing all admitted rows, equal ones by ascending id."""
    ids = np.flatnonzero(admitted)
    scores = unit(queries) @ unit(rows[ids]).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids[order], np.take_along_axis(scores, order, axis=1)


@dataclasses.dataclass(frozen=True)
class Counting:
    """An index that records its calls."""

    index: ExactIndex
    calls: list

    def search(self, queries, k):
        self.calls.append(k)
        return self.index.search(queries, k)


@pytest.mark.parametrize("fraction", [0.002, 0.05, FEW, 0.11, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_the_nearest_admitted_rows_are_found(fraction, k):
    admitted = np.zeros(500, bool)
    admitted[np.random.default_rng(2).permutation(500)[: round(fraction * 500)]] = True
    index = Counting(ExactIndex(ROWS), [])
    selected = SelectedIndex(ROWS, index, admitted)
    if k > admitted.sum():
        with pytest.raises(UserError, match=f"k {k} is out of range; this database has {admitted.sum()} rows"):
            selected.search(QUERIES, k)
        return
    ids, scores = selected.search(QUERIES, k)
    expected = nearest(ROWS, QUERIES, k, admitted)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_allclose(scores, expected[1], atol=1e-6)
    assert bool(index.calls) == (fraction > FEW)


def test_rows_that_are_the_farthest_of_all_are_found():
    order = np.argsort(unit(ROWS) @ unit(QUERIES[:1])[0])
    admitted = np.zeros(500, bool)
    admitted[order[:60]] = True
    ids, _ = SelectedIndex(ROWS, ExactIndex(ROWS), admitted).search(QUERIES[:1], 60)
    np.testing.assert_array_equal(ids[0], order[:60][::-1])


def test_equal_scores_are_ordered_by_ascending_id():
    rows = np.tile(ROWS[:1], (50, 1))
    for step in (2, 15):
        admitted = np.arange(50) % step == 1
        ids, _ = SelectedIndex(rows, ExactIndex(rows), admitted).search(QUERIES[:2], 3)
        assert ids.tolist() == [[1, 1 + step, 1 + 2 * step]] * 2


def test_no_queries_give_no_rows():
    for admitted in (np.arange(500) < 9, np.arange(500) < 400):
        ids, scores = SelectedIndex(ROWS, ExactIndex(ROWS), admitted).search(QUERIES[:0], 4)
        assert ids.shape == scores.shape == (0, 4)


def test_a_view_of_some_rows_is_an_array_of_them():
    ids = np.array([7, 3, 450, 3])
    view = SelectedRows(ROWS, ids)
    assert len(view) == 4 and view.shape == (4, 24)
    np.testing.assert_array_equal(view[1:3], ROWS[[3, 450]])
    np.testing.assert_array_equal(view[np.array([3, 0])], ROWS[[3, 7]])


@pytest.mark.parametrize(
    ("selection", "admits"),
    [
        (Selection(where=(("caption", "cats"),)), lambda i: i % 2 == 0),
        (Selection(exclude=(("path", "cats/"),)), lambda i: i % 2 == 1),
        (Selection(exclude=(("path", "cats/0000.png"), ("path", "dogs/0011.png"))), lambda i: i not in (0, 11)),
        (Selection(where=(("path", "dogs/0011.png"),)), lambda i: i == 11),
        (Selection(exclude=tuple(("path", f"cats/{i:04d}.png") for i in range(0, 290, 2))), lambda i: i % 2 or i > 289),
    ],
)
def test_a_retriever_finds_what_its_selection_admits(database, encoder, selection, admits):
    paths = [item["path"] for item in database.items(range(300))]
    admitted = np.array([bool(admits(int(path[5:9]))) for path in paths])
    k = min(6, int(admitted.sum()))
    queries = encoder.encode_texts(["a", "b", "c"])
    neighbors = Retriever(encoder, [database], selection=selection).retrieve(queries, k)
    np.testing.assert_array_equal(neighbors.ids, nearest(np.asarray(database.rows), queries, k, admitted)[0])
    with pytest.raises(UserError, match=rf"zoo has {admitted.sum()} rows that the selection admits"):
        Retriever(encoder, [database], selection=selection).retrieve(queries, int(admitted.sum()) + 1)


def test_an_empty_selection_is_everything(database, encoder):
    queries = encoder.encode_texts(["a"])
    for selection in (EVERYTHING, Selection(exclude=(("style", "none"),))):
        neighbors = Retriever(encoder, [database], selection=selection).retrieve(queries, 300)
        np.testing.assert_array_equal(neighbors.ids, Retriever(encoder, [database]).retrieve(queries, 300).ids)
    nothing = Selection(where=(("style", "none"),))
    with pytest.raises(UserError, match="zoo has 0 rows that the selection admits"):
        Retriever(encoder, [database], selection=nothing).retrieve(queries, 1)
