import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import Selection
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Retriever, shares
from tests.retrieval.conftest import build


@pytest.fixture(scope="module")
def halves(source, encoder, tmp_path_factory):
    """Returns the databases of the source's cats and of its dogs."""
    root = tmp_path_factory.mktemp("halves")
    made = []
    for name in ("cats", "dogs"):
        build(source, encoder, root / name, BuildOptions(selection=Selection(where=(("caption", name),))))
        made.append(Database.open(root / name))
    return made


def test_neighbours_carry_rows_scores_and_names(database, encoder):
    queries = encoder.encode_texts(["a", "b", "c"])
    found = Retriever(encoder, [database]).retrieve(queries, 5)
    assert found.ids.shape == (3, 5) and (found.databases == "zoo").all()
    for row in range(3):
        np.testing.assert_array_equal(found.embeddings[row], database.embeddings(found.ids[row]))
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    rows = found.embeddings / np.linalg.norm(found.embeddings, axis=-1, keepdims=True)
    np.testing.assert_allclose(found.scores, np.einsum("qd,qkd->qk", unit, rows), atol=1e-6)


def test_two_halves_without_weights_are_the_whole(database, halves, encoder):
    queries = encoder.encode_texts(["a", "b"])
    whole = Retriever(encoder, [database]).retrieve(queries, 30)
    both = Retriever(encoder, halves).retrieve(queries, 30)
    np.testing.assert_array_equal(both.embeddings, whole.embeddings)
    np.testing.assert_array_equal(both.scores, whole.scores)
    by_name = {half.name: half for half in halves}
    for row, column in np.ndindex(2, 30):
        item = by_name[both.databases[row, column]].items(both.ids[row, [column]])[0]
        assert item["path"] == database.items(whole.ids[row, [column]])[0]["path"]


def test_weights_are_the_shares_of_the_neighbours(halves, encoder):
    queries = encoder.encode_texts(["a", "b"])
    found = Retriever(encoder, halves, weights=[3.0, 1.0]).retrieve(queries, 8)
    assert ((found.databases == "cats").sum(axis=1) == 6).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    alone = Retriever(encoder, halves[1:]).retrieve(queries, 2)
    for row in range(2):
        np.testing.assert_array_equal(found.ids[row][found.databases[row] == "dogs"], alone.ids[row])
    only = Retriever(encoder, halves, weights=[0.0, 5.0]).retrieve(queries, 8)
    assert (only.databases == "dogs").all()


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
def test_shares_sum_to_k(weights, k, expected):
    assert shares(weights, k) == expected


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
    with pytest.raises(UserError, match="database 'cats' has 150 rows, and its weight asks for 160"):
        Retriever(encoder, halves, weights=[1.0, 0.0]).retrieve(queries, 160)


def test_swapping_databases_changes_the_neighbours_only(halves, encoder):
    queries = encoder.encode_texts(["a"])
    cats, dogs = (Retriever(encoder, [half]).retrieve(queries, 4) for half in halves)
    assert cats.embeddings.shape == dogs.embeddings.shape and not np.array_equal(cats.embeddings, dogs.embeddings)
