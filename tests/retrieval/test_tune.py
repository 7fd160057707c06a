"""Recall and time of an index."""

import dataclasses

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.approximate_index import ENGINES, ApproximateIndex
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.engine import Parameters
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.tune import image_queries, recall, text_queries, tune
from tests.retrieval.conftest import Listed, build, noise, unit


@pytest.fixture(scope="module")
def large(encoder, tmp_path_factory):
    """Returns a database of 400 rows, each with a caption of its own."""
    out = tmp_path_factory.mktemp("large") / "db"
    build(Listed(noise(400)), encoder, out)
    return Database.open(out)


def test_recall_is_the_fraction_of_the_true_neighbors_in_any_order():
    truth = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert recall(truth, truth) == recall(truth[:, ::-1].copy(), truth) == 1.0
    assert recall(np.array([[4, 9, 1, 0], [0, 1, 2, 3]]), truth) == 0.25


def test_image_queries_lie_between_rows_and_their_neighbors(large):
    queries = image_queries(large, 50)
    rows = unit(np.asarray(large.rows, np.float32))
    assert queries.shape == (50, 24) and len(np.unique(queries, axis=0)) == 50
    assert (np.sort(unit(queries) @ rows.T, axis=1)[:, -2] > 0.5).all()  # near two rows
    assert (np.abs(queries[:, None] - np.asarray(large.rows, np.float32)[None]).sum(axis=-1) > 0).all()  # and none
    np.testing.assert_array_equal(queries, image_queries(large, 50))
    assert len(image_queries(large, 1000)) == 400


def test_text_queries_are_the_texts_or_distinct_captions(large, encoder):
    np.testing.assert_array_equal(text_queries(large, encoder, ["b", "a", "b"]), encoder.encode_texts(["b", "a"]))
    queries = text_queries(large, encoder, count=30)
    every = encoder.encode_texts([f"listed no. {i}" for i in range(400)])
    assert len(np.unique(queries, axis=0)) == 30 and all((every == row).all(axis=1).any() for row in queries)


def test_exact_search_has_a_recall_of_1(large, encoder):
    seen = []
    queries = {"images": image_queries(large, 8), "texts": text_queries(large, encoder, ["a"])}
    trials, best = tune(large, queries, 5, 1.0, None, seen.append)
    assert trials == seen == [best] and isinstance(best.index, ExactIndex)
    assert best.recall == {"images": 1.0, "texts": 1.0} and best.worst == 1.0
    assert best.single_ms > 0 and best.batch_ms > 0


@pytest.mark.skipif(not ENGINES["scann"].installed(), reason="ScaNN is not installed")
@pytest.mark.parametrize("target", [0.5, 1.0])
def test_trials_have_the_recall_and_the_best_meets_the_target_on_every_kind(large, encoder, target):
    parameters = dataclasses.replace(Parameters.of(20_000, 24), leaves=20, candidates=10)
    index = ApproximateIndex.build(large.rows, parameters)
    queries = {"images": image_queries(large, 40), "texts": text_queries(large, encoder, count=40)}
    trials, best = tune(large, queries, 10, target, index)
    assert best in trials and best.worst >= target and len(trials) > 1
    rows = unit(np.asarray(large.rows, np.float32))
    for trial in trials:
        for kind, vectors in queries.items():
            truth = np.argsort(-unit(vectors) @ rows.T, axis=1)[:, :10]
            ids = trial.index.search(vectors, 10)[0]
            fractions = [len(set(row) & set(true)) / 10 for row, true in zip(ids.tolist(), truth.tolist(), strict=True)]
            assert trial.recall[kind] == pytest.approx(np.mean(fractions))
    assert all(trial.worst < target for trial in trials[1:-1])  # it stops at the first that is good enough


@pytest.mark.parametrize("target", [0.0, 1.1, float("nan")])
def test_a_target_that_is_not_a_recall_is_refused(large, target):
    with pytest.raises(UserError, match=r"target .* is out of range; give a recall in \(0, 1\]"):
        tune(large, {"images": image_queries(large, 3)}, target=target)


def test_no_queries_are_refused(large):
    with pytest.raises(UserError, match=r"there are no queries; .* give texts by --queries FILE"):
        tune(large, {"texts": np.zeros((0, 24), np.float32)})
