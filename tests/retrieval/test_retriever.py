import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import Selection
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Retriever, apportion
from tests.retrieval.conftest import build


@pytest.fixture(scope="module")
def halves(source, encoder, tmp_path_factory):
    """Returns the databases of the source's cats and of its dogs."""
    root = tmp_path_factory.mktemp("halves")
    databases = []
    for name in ("cats", "dogs"):
        build(source, encoder, root / name, BuildOptions(selection=Selection(where=(("caption", name),))))
        databases.append(Database.open(root / name))
    return databases


def test_neighbors_have_rows_scores_and_names(database, encoder):
    queries = encoder.encode_texts(["a", "b", "c"])
    neighbors = Retriever(encoder, [database]).retrieve(queries, 5)
    assert neighbors.ids.shape == (3, 5) and (neighbors.databases == "zoo").all()
    for row in range(3):
        np.testing.assert_array_equal(neighbors.embeddings[row], database.embeddings(neighbors.ids[row]))
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows = neighbors.embeddings / np.linalg.norm(neighbors.embeddings, axis=-1, keepdims=True)
    np.testing.assert_allclose(neighbors.scores, np.einsum("qd,qkd->qk", unit, rows), atol=1e-6)


def test_two_halves_without_weights_equal_the_single_database(database, halves, encoder):
    queries = encoder.encode_texts(["a", "b"])
    single = Retriever(encoder, [database]).retrieve(queries, 30)
    both = Retriever(encoder, halves).retrieve(queries, 30)
    np.testing.assert_array_equal(both.embeddings, single.embeddings)
    np.testing.assert_array_equal(both.scores, single.scores)
    by_name = {half.name: half for half in halves}
    for row, column in np.ndindex(2, 30):
        item = by_name[both.databases[row, column]].items(both.ids[row, [column]])[0]
        assert item["path"] == database.items(single.ids[row, [column]])[0]["path"]


def test_weights_apportion_the_neighbors(halves, encoder):
    queries = encoder.encode_texts(["a", "b"])
    neighbors = Retriever(encoder, halves, weights=[3.0, 1.0]).retrieve(queries, 8)
    assert ((neighbors.databases == "cats").sum(axis=1) == 6).all()
    assert (np.diff(neighbors.scores, axis=1) <= 0).all()
    alone = Retriever(encoder, halves[1:]).retrieve(queries, 2)
    for row in range(2):
        np.testing.assert_array_equal(neighbors.ids[row][neighbors.databases[row] == "dogs"], alone.ids[row])
    only = Retriever(encoder, halves, weights=[0.0, 5.0]).retrieve(queries, 8)
    assert (only.databases == "dogs").all()


@pytest.mark.parametrize(
    ("weights", "where", "expected"),
    [(None, (), 300), ([1.0, 1.0], (), 300), ([3.0, 1.0], (), 200), ([0.0, 1.0], (), 150), (None, "cats/0000.png", 1)],
)
def test_a_default_k_is_lowered_to_what_there_is(halves, encoder, caplog, weights, where, expected):
    """Of 150 cats and 150 dogs."""
    selection = Selection(where=(("path", where),)) if where else Selection()
    retriever = Retriever(encoder, halves, weights, selection=selection)
    queries = encoder.encode_texts(["a", "b"])
    with caplog.at_level("INFO", "rdm_jax"):
        assert retriever.retrieve(queries, 400, default=True).ids.shape == (2, expected)
    assert f"{expected} neighbors and not 400, the default: cats, dogs has no more" in caplog.text
    assert retriever.at_most(1) == 1
    np.testing.assert_array_equal(
        retriever.retrieve(queries, 1, default=True).embeddings, retriever.retrieve(queries, 1).embeddings
    )
    with pytest.raises(UserError, match=r"k 400 is out of range|requires"):
        retriever.retrieve(queries, 400)


def test_a_default_k_is_lowered_where_duplicates_leave_fewer(database, encoder, caplog):
    queries = encoder.encode_texts(["a", "b"])
    retriever = Retriever(encoder, [database], duplicates=0.05)
    with pytest.raises(UserError, match=r"there are only \d+ neighbors") as error:
        retriever.retrieve(queries, 200)
    fewest = int(str(error.value).split("only ")[1].split()[0])
    few = retriever.retrieve(queries, 200, default=True)
    assert few.ids.shape == (2, fewest) and fewest < 200
    np.testing.assert_array_equal(few.ids, retriever.retrieve(queries, fewest).ids)


@pytest.mark.parametrize(
    ("weights", "k", "expected"),
    [
        ([1.0, 1.0], 4, [2, 2]),
        ([1.0, 1.0], 5, [3, 2]),
        ([2.0, 1.0], 3, [2, 1]),
        ([0.9, 0.1], 4, [4, 0]),
        ([1.0, 1.0, 1.0], 1, [1, 0, 0]),
        ([0.1, 0.2, 0.7], 10, [1, 2, 7]),
    ],
)
def test_apportioned_counts_sum_to_k(weights, k, expected):
    assert apportion(weights, k) == expected


def test_bad_databases_weights_and_k_are_refused(database, halves, encoder):
    import copy

    other = copy.copy(encoder)
    other.identity = {**encoder.identity, "sha256": "0" * 64}
    queries = encoder.encode_texts(["a"])
    with pytest.raises(UserError, match="was made by encoder"):
        Retriever(other, [database])
    with pytest.raises(UserError, match="no database"):
        Retriever(encoder, [])
    with pytest.raises(UserError, match="different names"):
        Retriever(encoder, [database, database])
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(UserError, match=r"weights .* do not fit the databases cats, dogs"):
            Retriever(encoder, halves, weights=weights)
    for k in (0, 301):
        with pytest.raises(UserError, match=rf"k {k} is out of range; cats, dogs has 300 rows"):
            Retriever(encoder, halves).retrieve(queries, k)
    assert Retriever(encoder, halves).retrieve(queries, 300).ids.shape == (1, 300)
    with pytest.raises(UserError, match="database 'cats' has 150 rows, and its weight requires 160"):
        Retriever(encoder, halves, weights=[1.0, 0.0]).retrieve(queries, 160)


def test_swapping_databases_changes_only_the_neighbors(halves, encoder):
    queries = encoder.encode_texts(["a"])
    cats, dogs = (Retriever(encoder, [half]).retrieve(queries, 4) for half in halves)
    assert cats.embeddings.shape == dogs.embeddings.shape and not np.array_equal(cats.embeddings, dogs.embeddings)
