import dataclasses
import itertools
import pickle
import shutil

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval import exact_index, indexing
from rdm_jax.retrieval.approximate_index import ENGINES, ApproximateIndex, store
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.engine import Parameters
from rdm_jax.retrieval.exact_index import ExactIndex
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.rows import ShardedRows


@pytest.fixture(params=sorted(ENGINES))
def engine(request):
    """Each engine of approximate search that is installed."""
    pytest.importorskip(request.param)
    return ENGINES[request.param]


def brute_force(rows, queries, k):
    """Returns the k largest cosines in float64, equal ones by ascending id."""
    rows, queries = np.asarray(rows, np.float64), np.asarray(queries, np.float64)
    scores = (queries @ rows.T) / np.linalg.norm(rows, axis=1) / np.linalg.norm(queries, axis=1)[:, None]
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


def random(count, width=16, seed=0, dtype=np.float16):
    return (np.random.default_rng(seed).normal(size=(count, width)) * 7).astype(dtype)


@pytest.mark.parametrize("count", [1, 5, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("chunk", [1024, 2**17])
def test_exact_search_is_brute_force(count, chunk):
    rows, queries = random(count), random(9, seed=1, dtype=np.float32)
    k = min(count, 20)
    ids, scores = ExactIndex(rows, chunk_rows=chunk).search(queries, k)
    expected_ids, expected_scores = brute_force(rows, queries, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6, atol=1e-6)


def test_rows_that_do_not_stay_on_the_device_give_the_same_result():
    rows, queries = random(3000), random(3, seed=1, dtype=np.float32)
    resident = ExactIndex(rows, chunk_rows=1024).search(queries, 50)
    transferred = ExactIndex(rows, chunk_rows=1024, device_bytes=0).search(queries, 50)
    np.testing.assert_array_equal(resident[0], transferred[0])
    np.testing.assert_array_equal(resident[1], transferred[1])


@pytest.mark.parametrize("k", [1, 300, 1500, 2000])
def test_any_k_up_to_all_rows(k):
    rows, queries = random(2000), random(2, seed=1, dtype=np.float32)
    for index in (ExactIndex(rows, chunk_rows=1024), ExactIndex(rows)):
        np.testing.assert_array_equal(index.search(queries, k)[0], brute_force(rows, queries, k)[0])


@pytest.mark.parametrize("queries", [0, 1, 2, 8, 65, 300])
def test_results_do_not_depend_on_the_number_of_queries(queries):
    rows, vectors = random(500), random(300, seed=1, dtype=np.float32)
    index = ExactIndex(rows)
    ids, scores = index.search(vectors[:queries], 7)
    assert ids.shape == scores.shape == (queries, 7)
    np.testing.assert_array_equal(ids, brute_force(rows, vectors, 7)[0][:queries])


def test_cosines_ignore_lengths_and_find_a_row_itself():
    rows = random(200, dtype=np.float32)
    ids, scores = ExactIndex(rows * np.linspace(0.1, 9, 200, dtype=np.float32)[:, None]).search(rows * 3, 1)
    np.testing.assert_array_equal(ids[:, 0], np.arange(200))
    np.testing.assert_allclose(scores, 1, atol=1e-6)


def test_equal_rows_are_ordered_by_ascending_id(engine):
    rows = np.repeat(random(1), 50, axis=0)
    for index in (ExactIndex(rows), ApproximateIndex.build(rows, engine=engine)):
        np.testing.assert_array_equal(index.search(random(1, dtype=np.float32), 50)[0][0], np.arange(50))


def test_zero_vectors_score_zero_and_break_nothing():
    rows = random(30)
    rows[4] = 0
    ids, scores = ExactIndex(rows).search(np.zeros((1, 16), np.float32), 30)
    assert (scores == 0).all() and sorted(ids[0]) == list(range(30))
    assert np.isfinite(ExactIndex(rows).search(random(1, dtype=np.float32), 30)[1]).all()


def test_databases_of_similar_size_share_a_program():
    queries = random(1, dtype=np.float32)
    ExactIndex(random(1500)).search(queries, 4)
    compiled = exact_index._search_chunk._cache_size()
    for count, k in itertools.product((1025, 1700, 2048), (1, 10, 20)):
        ExactIndex(random(count, seed=count)).search(queries, k)
    assert exact_index._search_chunk._cache_size() == compiled


@pytest.mark.parametrize("count", [1, 15, 300, 5000])
def test_an_engine_without_a_tree_equals_exact_search(engine, count):
    rows, queries = random(count), random(20, seed=1, dtype=np.float32)
    k = min(count, 20)
    exact, found = ExactIndex(rows).search(queries, k), ApproximateIndex.build(rows, engine=engine).search(queries, k)
    np.testing.assert_array_equal(found[0], exact[0])
    np.testing.assert_array_equal(found[1], exact[1])


@pytest.mark.slow
def test_an_engine_with_a_tree_recalls_nearly_all(engine):
    centers = np.random.default_rng(2).normal(size=(200, 32))
    rows = (centers[np.arange(21_000) % 200] + 0.3 * np.random.default_rng(3).normal(size=(21_000, 32))).astype(
        np.float16
    )
    queries = rows[::1050].astype(np.float32) + np.float32(0.05)
    ids, scores = ApproximateIndex.build(rows, engine=engine).search(queries, 10)
    expected, expected_scores = brute_force(rows, queries, 10)
    assert np.mean([np.isin(row, right).mean() for row, right in zip(ids, expected, strict=True)]) > 0.95
    hit = ids == expected
    np.testing.assert_allclose(scores[hit], expected_scores[hit], rtol=1e-6)


@pytest.fixture
def copied(database, tmp_path):
    """Returns a copy of the database that a test may change."""
    return Database.open(shutil.copytree(database.path, tmp_path / "copy"))


def test_a_stored_index_moves_with_its_database_and_finds_the_same(copied, encoder, tmp_path, engine):
    queries = encoder.encode_texts(["a", "b"])
    stored = store(copied, ApproximateIndex.build(copied.rows, engine=engine))
    assert stored.digest == copied.digest and stored.manifest["index"]["parameters"]["leaves"] == 0
    assert stored.manifest["index"]["kind"] == engine.name
    stored.verify()
    moved = Database.open(copied.path.rename(tmp_path / "moved"))
    found = make_index(moved)
    assert isinstance(found, ApproximateIndex) and found.engine is engine
    np.testing.assert_array_equal(found.search(queries, 5)[0], make_index(moved, "exact").search(queries, 5)[0])


def test_a_damaged_index_or_an_index_of_other_rows_is_refused(copied, engine):
    stored = store(copied, ApproximateIndex.build(copied.rows, engine=engine))
    changed = dataclasses.replace(stored, manifest={**stored.manifest, "encoder": {**stored.encoder, "name": "x"}})
    with pytest.raises(UserError, match="belongs to other rows"):
        ApproximateIndex.open(changed)
    for name in ("scann_config.pb", "index.faiss"):
        for file in (stored.path / "index").rglob(name):
            file.write_bytes(b"x")
    with pytest.raises(UserError, match=rf"the SHA-256 of index/{engine.name}-.* is not"):
        stored.verify()
    with pytest.raises(UserError, match="damaged index"):
        ApproximateIndex.open(stored)


def test_a_pickle_in_an_index_is_never_opened(copied, tmp_path):
    pytest.importorskip("scann")
    stored = store(copied, ApproximateIndex.build(copied.rows, engine=ENGINES["scann"]))
    assert not list(stored.path.rglob("*.pkl"))
    proof = tmp_path / "run"
    evil = pickle.dumps(Evil(proof))
    (stored.path / "index" / stored.manifest["index"]["shards"][0] / "scann_docids.pkl").write_bytes(evil)
    with pytest.raises(UserError, match="contains a pickle"):
        ApproximateIndex.open(stored)
    assert not proof.exists()


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return open, (str(self.proof), "w")


def test_shards_of_an_index_are_merged_by_score(engine):
    rows, queries = random(500), random(20, seed=1, dtype=np.float32)
    parts = ApproximateIndex.build(rows, Parameters(0, 0, candidates=20, shard_rows=120), engine=engine)
    assert len(parts.searchers) == 5
    for one, other in zip(parts.search(queries, 10), ExactIndex(rows).search(queries, 10), strict=True):
        np.testing.assert_array_equal(one, other)


def test_leaves_with_too_few_rows_are_filled_up(engine):
    rows = random(2000)
    parameters = Parameters(leaves=500, searched=1, candidates=50, training_rows=2000)
    index = ApproximateIndex.build(rows, parameters, engine=engine)
    ids, _ = index.search(random(7, seed=1, dtype=np.float32), 40)
    assert all(len(set(row)) == 40 for row in ids.tolist()) and ids.min() >= 0


@pytest.mark.parametrize("kind", ["auto", "exact", *ENGINES])
def test_every_index_of_a_database_gives_the_same(database, encoder, kind):
    if kind in ENGINES:
        pytest.importorskip(kind)
    queries = encoder.encode_texts(["a red cat", "b"])
    ids, _ = make_index(database, kind).search(queries, 12)
    np.testing.assert_array_equal(ids, brute_force(database.rows, queries, 12)[0])


@pytest.mark.parametrize("k", [0, -1, 301])
def test_k_out_of_range_is_refused(database, encoder, k):
    for kind in ("exact", *(name for name, engine in ENGINES.items() if engine.installed())):
        with pytest.raises(UserError, match=rf"k {k} is out of range; this database has 300 rows, give 1 to 300"):
            make_index(database, kind).search(encoder.encode_texts(["a"]), k)


def test_bad_queries_and_names_are_refused(database):
    with pytest.raises(UserError, match="do not fit rows of width 24"):
        make_index(database).search(np.zeros((1, 7), np.float32), 1)
    with pytest.raises(UserError, match="a query is not finite"):
        make_index(database).search(np.full((1, 24), np.nan, np.float32), 1)
    with pytest.raises(UserError, match="unknown index 'exat'; did you mean 'exact'"):
        make_index(database, "exat")


@pytest.fixture
def without(monkeypatch):
    """Returns a function after which engines count as not installed."""

    def remove(*names):
        for name in names:
            monkeypatch.setattr(type(ENGINES[name]), "installed", lambda self: False)

    return remove


def test_without_an_engine_the_error_names_the_package(database, without):
    without(*ENGINES)
    for name, package in (("scann", "pip install scann"), ("faiss", r"pip install 'rdm_jax\[faiss\]'")):
        with pytest.raises(UserError, match=package):
            make_index(database, name)


def test_another_engine_takes_over_where_the_first_is_missing(database, without, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(indexing, "AUTO_ROWS", 100)
    without("scann")
    found = make_index(database)
    assert isinstance(found, ApproximateIndex) and found.engine is ENGINES["faiss"]


def test_an_index_of_a_missing_engine_is_searched_exactly_with_a_warning(copied, engine, without, caplog):
    stored = store(copied, ApproximateIndex.build(copied.rows, engine=engine))
    without(engine.name)
    assert isinstance(make_index(stored), ExactIndex)
    assert f"{engine.label} is not installed here: 300 rows" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("width", "block"), [(7, 2), (30, 4), (33, 4)])
def test_faiss_quantizes_any_width(width, block):
    pytest.importorskip("faiss")
    rows, queries = random(600, width=width), random(5, width=width, dtype=np.float32)
    parameters = Parameters(leaves=20, searched=20, candidates=300, training_rows=600, block=block)
    index = ApproximateIndex.build(rows, parameters, engine=ENGINES["faiss"])
    found, truth = index.search(queries, 5)[0], brute_force(rows, queries, 5)[0]
    assert np.mean([np.isin(row, right).mean() for row, right in zip(found, truth, strict=True)]) > 0.9


def test_shards_read_as_one_array():
    array = random(100)
    rows = ShardedRows((array[:1], array[1:40], array[40:40], array[40:]))
    assert rows.shape == (100, 16) and rows.dtype == np.float16 and len(rows) == 100
    np.testing.assert_array_equal(np.asarray(rows), array)
    for start, stop in itertools.product((0, 1, 39, 40, 99, 100), repeat=2):
        np.testing.assert_array_equal(rows[start:stop], array[start:stop])
    ids = np.random.default_rng(0).integers(0, 100, 64)
    np.testing.assert_array_equal(rows[ids], array[ids])
    assert rows[[]].shape == (0, 16)
    queries = random(3, seed=1, dtype=np.float32)
    np.testing.assert_array_equal(ExactIndex(rows).search(queries, 9)[0], brute_force(array, queries, 9)[0])
