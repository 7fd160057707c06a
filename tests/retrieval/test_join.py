"""Neighbors joined to the examples of a data set in several files."""

import pickle
from typing import Any

import grain
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.join import JoinNeighbors, number_examples
from rdm_jax.retrieval.neighbors import NeighborOptions
from rdm_jax.retrieval.parts import ProcessIndex
from rdm_jax.retrieval.sidecar import NeighborSidecar
from tests.retrieval.conftest import Listed, build, neighbors_of, noise

LENGTHS = (5, 9, 3)


@pytest.fixture(scope="module")
def examples():
    """Returns a set of 17 examples in three files, example 6 broken."""
    return Listed(noise(17, seed=3, broken=(6,)), "examples", LENGTHS)


@pytest.fixture(scope="module")
def computed(examples, encoder, database, tmp_path_factory):
    """Returns the folders of their neighbors, with rows and without."""
    root = tmp_path_factory.mktemp("computed")
    for name, embeddings in (("rows", True), ("ids", False)):
        options = NeighborOptions(4, embeddings=embeddings, duplicates=None, part_size=2)
        neighbors_of(examples, encoder, database, options, root / name, max_skip=0.1)
    return root


def expected(examples, encoder, database, i):
    """Returns example i's neighbors by searching for it alone."""
    if examples.images[i] is None:
        return np.full(4, -1), np.zeros(4, np.float32), np.zeros((4, 24), np.float16)
    ids, scores = make_index(database).search(encoder.encode_images([examples.images[i]]), 4)
    return ids[0], scores[0], database.rows[ids[0]]


def test_there_is_a_part_for_each_file_of_the_set(computed):
    sidecar = NeighborSidecar.open(computed / "rows")
    assert tuple(sidecar.manifest["part_lengths"]) == LENGTHS
    assert sorted(sidecar.manifest["files"]) == [f"neighbors-0000{i}-of-00003.array_record" for i in range(3)]
    assert sorted(path.name for path in (computed / "rows").iterdir()) == [
        "manifest.json",
        *sorted(sidecar.manifest["files"]),
    ]
    from array_record.python.array_record_module import ArrayRecordReader

    for i, length in enumerate(LENGTHS):
        reader = ArrayRecordReader(str(computed / "rows" / f"neighbors-0000{i}-of-00003.array_record"))
        numbers = [int(np.frombuffer(record[:8], "<i8")[0]) for record in reader.read_all()]
        assert numbers == list(range(sum(LENGTHS[:i]), sum(LENGTHS[: i + 1]))) and len(numbers) == length


def test_records_are_read_in_any_order(computed, examples, encoder, database):
    sidecar = NeighborSidecar.open(computed / "rows")
    generator = np.random.default_rng(0)
    for indices in ([16, 0, 5, 4, 13, 14], [3, 3, 3], [4, 5], range(17), generator.permutation(17).tolist(), []):
        records = sidecar.read(list(indices))
        for place, i in enumerate(indices):
            ids, scores, rows = expected(examples, encoder, database, int(i))
            np.testing.assert_array_equal(records[0][place], ids)
            np.testing.assert_allclose(records[1][place], scores, rtol=1e-6)
            np.testing.assert_array_equal(records[2][place], rows)
        assert records[0].shape == (len(indices), 4) and records[2].shape == (len(indices), 4, 24)
    for outside in (17, -1):
        with pytest.raises(IndexError):
            sidecar.read([0, outside])


def test_records_without_rows_read_them_from_the_database(computed, database):
    with_rows = NeighborSidecar.open(computed / "rows").read(range(17))
    ids_only = NeighborSidecar.open(computed / "ids", database)
    for one, other in zip(ids_only.read(range(17)), with_rows, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ids_only)).read([6, 2])[2], with_rows[2][[6, 2]])
    np.testing.assert_array_equal(NeighborSidecar.open(computed / "ids").ids(range(17)), with_rows[0])
    with pytest.raises(UserError, match="have no rows; give database 'zoo' too"):
        NeighborSidecar.open(computed / "ids").read([0])


@pytest.mark.parametrize("kind", ["rows", "ids"])
def test_a_joined_set_pairs_each_example_with_its_neighbors(computed, examples, encoder, database, kind):
    sidecar = NeighborSidecar.open(computed / kind, database)
    pairs: Any = number_examples(grain.MapDataset.range(17), examples, sidecar)
    batches = pairs.shuffle(seed=1).repeat(2).batch(4).map(JoinNeighbors(sidecar))
    seen = []
    for numbers, neighbors in batches:
        assert neighbors["embeddings"].dtype == np.float16
        for place, number in enumerate(numbers.tolist()):
            ids, scores, rows = expected(examples, encoder, database, number)
            np.testing.assert_array_equal(neighbors["ids"][place], ids)
            np.testing.assert_allclose(neighbors["scores"][place], scores, rtol=1e-6)
            np.testing.assert_array_equal(neighbors["embeddings"][place], rows)
        seen += numbers.tolist()
    assert sorted(seen[:17]) == list(range(17)) and seen != sorted(seen) and len(seen) == 34


def test_the_neighbors_of_another_set_split_or_database_are_refused(computed, examples, encoder, database, tmp_path):
    sidecar, numbers = NeighborSidecar.open(computed / "rows"), grain.MapDataset.range(17)
    others = [
        Listed(examples.images[::-1], "examples", LENGTHS),  # another order
        Listed(examples.images[:12], "examples"),  # another split
        Listed(examples.images, "others", LENGTHS),  # other captions
    ]
    for other in others:
        with pytest.raises(UserError, match=r"were computed for examples \(17 examples\), not for these"):
            number_examples(numbers, other, sidecar)
    with pytest.raises(UserError, match="12 examples of 17; number all examples of the source"):
        number_examples(numbers[:12], examples, sidecar)
    build(examples, encoder, tmp_path / "db", BuildOptions(limit=5))
    with pytest.raises(UserError, match=r"come from database 'zoo' .* not from this 'db'"):
        NeighborSidecar.open(computed / "rows", Database.open(tmp_path / "db"))
    with pytest.raises(UserError, match=r"come from database 'zoo' .* not from this 'db'"):
        NeighborSidecar.open(computed / "ids", Database.open(tmp_path / "db"))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_processes_that_share_the_work_end_the_same_as_one_process(
    computed, examples, encoder, database, tmp_path, order
):
    options = NeighborOptions(4, duplicates=None)
    missing = [
        neighbors_of(
            examples, encoder, database, options, tmp_path / "out", process=ProcessIndex(index, 2), max_skip=0.1
        ).missing
        for index in order
    ]
    assert missing == [3 - len(range(order[0], 3, 2)), 0]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(path.name for path in (computed / "rows").iterdir())
    assert all((tmp_path / "out" / name).read_bytes() == (computed / "rows" / name).read_bytes() for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
