"""Neighbors that differ, against maximal marginal relevance written out."""

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import Selection
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.diversity import diverse
from rdm_jax.retrieval.retriever import POOL, Retriever
from tests.retrieval.conftest import Listed, build, noise, unit


def slow(scores, embeddings, k, diversity, duplicates=None, origins=(), quotas=None):
    """Returns the places that the definition selects, one candidate at a time."""
    vectors, selected = unit(embeddings), []
    while len(selected) < k:
        best, best_gain = None, -np.inf
        for i, vector in enumerate(vectors):
            nearest = max((float(vectors[j] @ vector) for j in selected), default=0.0)
            full = quotas and [origins[j] for j in selected].count(origins[i]) >= quotas[origins[i]]
            if i in selected or full or (duplicates is not None and selected and nearest >= duplicates):
                continue
            gain = (1 - diversity) * float(scores[i]) - diversity * nearest
            if gain > best_gain + 1e-9:
                best, best_gain = i, gain
        if best is None:
            break
        selected.append(best)
    return selected


def candidates(seed, count=40):
    """Returns rows in groups, as databases have them, and their cosines to a query."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(8, 24))[generator.integers(0, 8, count)] + 0.3 * generator.normal(size=(count, 24))
    scores = unit(rows) @ unit(generator.normal(size=(1, 24)))[0]
    order = np.argsort(-scores)
    return scores[order].astype(np.float32), rows[order].astype(np.float32)


@pytest.mark.parametrize("diversity", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("duplicates", [None, 0.9, 0.6])
def test_each_step_selects_the_largest_marginal_relevance(diversity, duplicates):
    for seed in range(5):
        scores, rows = candidates(seed)
        places = diverse(scores, rows, 10, diversity, duplicates)
        assert places.tolist() == slow(scores, rows, 10, diversity, duplicates)


def test_no_diversity_is_the_order_of_the_scores():
    scores, rows = candidates(0)
    assert diverse(scores, rows, 7).tolist() == list(range(7))


def test_quotas_bound_the_candidates_of_each_database():
    for seed in range(5):
        scores, rows = candidates(seed)
        origins = np.random.default_rng(seed).choice(["ink", "oil", "wax"], 40)
        quotas = {"ink": 4, "oil": 2, "wax": 1}
        places = diverse(scores, rows, 7, 0.3, 0.95, origins, quotas)
        assert places.tolist() == slow(scores, rows, 7, 0.3, 0.95, origins, quotas)
        assert all(list(origins[places]).count(name) <= quota for name, quota in quotas.items())


def test_copies_are_omitted_at_any_threshold():
    scores, rows = candidates(1)
    twice = np.repeat(rows, 2, axis=0)
    for threshold in (0.999, 1.0):
        places = diverse(np.repeat(scores, 2), twice, 80, duplicates=threshold)
        assert places.tolist() == list(range(0, 80, 2))


def test_a_retriever_selects_from_several_times_as_many_candidates(database, encoder):
    queries = encoder.encode_texts(["a", "b"])
    neighbors = Retriever(encoder, [database], diversity=0.4).retrieve(queries, 5)
    pool = Retriever(encoder, [database]).retrieve(queries, POOL * 5)
    for row in range(2):
        places = slow(pool.scores[row], pool.embeddings[row], 5, 0.4)
        np.testing.assert_array_equal(neighbors.ids[row], pool.ids[row][places])
        np.testing.assert_array_equal(neighbors.scores[row], pool.scores[row][places])


@pytest.fixture(scope="module")
def halves(source, encoder, tmp_path_factory):
    """Returns the databases of the source's cats and of its dogs."""
    root = tmp_path_factory.mktemp("halves")
    for name in ("cats", "dogs"):
        build(source, encoder, root / name, BuildOptions(selection=Selection(where=(("caption", name),))))
    return [Database.open(root / name) for name in ("cats", "dogs")]


def test_two_halves_are_as_diverse_as_the_single_database(database, halves, encoder):
    queries = encoder.encode_texts(["a", "b"])
    for diversity, duplicates in ((0.4, None), (0.0, 0.6), (0.3, 0.7)):
        single = Retriever(encoder, [database], diversity=diversity, duplicates=duplicates).retrieve(queries, 9)
        both = Retriever(encoder, halves, diversity=diversity, duplicates=duplicates).retrieve(queries, 9)
        np.testing.assert_array_equal(both.embeddings, single.embeddings)


def test_weights_apportion_diverse_neighbors(halves, encoder):
    queries = encoder.encode_texts(["a", "b", "c"])
    neighbors = Retriever(encoder, halves, [3.0, 1.0], diversity=0.5, duplicates=0.9).retrieve(queries, 8)
    assert ((neighbors.databases == "cats").sum(axis=1) == 6).all()


def cosines(neighbors):
    """Returns the greatest cosine between two neighbors of each query."""
    vectors = unit(neighbors.embeddings)
    between = np.einsum("qid,qjd->qij", vectors, vectors)
    return (between - 2 * np.eye(between.shape[1])).max(axis=(1, 2))


def test_no_two_neighbors_are_nearer_than_the_threshold(database, encoder):
    queries = encoder.encode_texts(["a", "b", "c"])
    assert (cosines(Retriever(encoder, [database]).retrieve(queries, 12)) > 0.7).all()
    assert (cosines(Retriever(encoder, [database], duplicates=0.7).retrieve(queries, 12)) < 0.7).all()


@pytest.mark.parametrize("weights", [None, [1.0, 1.0], [1.0, 3.0]])
def test_an_image_that_two_databases_share_is_found_once(encoder, tmp_path, weights):
    images = noise(30)
    for name, part in (("a", images[:20]), ("b", images[10:])):
        build(Listed(part, name), encoder, tmp_path / name)
    databases = [Database.open(tmp_path / name) for name in ("a", "b")]
    queries = encoder.encode_texts(["a", "b"])
    for diversity in (0.0, 0.2):
        retriever = Retriever(encoder, databases, weights, diversity=diversity, duplicates=0.97)
        neighbors = retriever.retrieve(queries, 16)
        assert (cosines(neighbors) < 0.97).all()
        if weights:
            assert ((neighbors.databases == "a").sum(axis=1) == round(16 * weights[0] / sum(weights))).all()


def test_too_few_different_neighbors_are_an_error(encoder, tmp_path):
    build(Listed(noise(4) * 5), encoder, tmp_path / "db")
    databases = [Database.open(tmp_path / "db")]
    queries = encoder.encode_texts(["a"])
    for weights in (None, [1.0]):
        retriever = Retriever(encoder, databases, weights, duplicates=0.97)
        assert retriever.retrieve(queries, 4).ids.max() < 4
        with pytest.raises(
            UserError, match=r"there are only 4 neighbors with a cosine below 0.97 to each other; lower k"
        ):
            retriever.retrieve(queries, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diversity": 1.5}, "diversity 1.5 is out of range; give 0 to 1"),
        ({"diversity": float("nan")}, "diversity nan is out of range"),
        ({"duplicates": 0.0}, r"duplicates 0.0 is not a cosine in \(0, 1\]"),
    ],
)
def test_numbers_out_of_range_are_refused(database, encoder, options, message):
    with pytest.raises(UserError, match=message):
        Retriever(encoder, [database], **options)
