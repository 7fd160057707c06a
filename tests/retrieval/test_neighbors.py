import json
import pickle

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval import neighbors
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.duplicates import SAME
from rdm_jax.retrieval.indexing import make_index
from rdm_jax.retrieval.neighbors import NeighborOptions
from rdm_jax.retrieval.parts import ProcessIndex
from rdm_jax.retrieval.sidecar import NeighborSidecar
from tests.retrieval.conftest import build, neighbors_of


def write_more_images(root, count, seed, broken=()):
    from PIL import Image

    generator = np.random.default_rng(seed)
    root.mkdir(parents=True)
    for i in range(count):
        path = root / f"{i:03d}.png"
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:60])
    return open_source(str(root))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Returns 70 examples, number 11 of them broken."""
    return write_more_images(tmp_path_factory.mktemp("examples") / "set", 70, seed=5, broken=(11,))


@pytest.fixture(scope="module")
def finished(examples, encoder, database, tmp_path_factory):
    out = tmp_path_factory.mktemp("neighbors") / "out"
    neighbors_of(examples, encoder, database, NeighborOptions(6, part_size=32, duplicates=None), out)
    return out


def test_record_i_has_the_neighbors_of_example_i(finished, examples, encoder, database):
    sidecar = NeighborSidecar.open(finished)
    assert len(sidecar) == 70 and sidecar.k == 6 and sidecar.width == 24
    index = make_index(database)
    for i in (0, 10, 12, 31, 32, 69):
        ids, scores, embeddings = sidecar[i]
        expected = index.search(encoder.encode_images([examples[i].image]), 6)
        np.testing.assert_array_equal(ids, expected[0][0])
        np.testing.assert_allclose(scores, expected[1][0], rtol=1e-6)
        np.testing.assert_array_equal(embeddings, database.rows[ids])
        assert embeddings.dtype == np.float16
    many = sidecar.read([69, 0, 32])
    for part, single in zip(many, zip(sidecar[69], sidecar[0], sidecar[32], strict=True), strict=True):
        np.testing.assert_array_equal(part, np.stack(single))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sidecar))[5][0], sidecar[5][0])
    with pytest.raises(IndexError):
        sidecar[70]
    sidecar.verify()


def test_a_broken_image_has_an_empty_record(finished):
    sidecar = NeighborSidecar.open(finished)
    ids, scores, embeddings = sidecar[11]
    assert (ids == -1).all() and (scores == 0).all() and (embeddings == 0).all()
    assert len(sidecar.manifest["skipped"]) == 1 and "011.png" in sidecar.manifest["skipped"][0]
    assert (sidecar.read([i for i in range(70) if i != 11])[0] >= 0).all()


def test_records_do_not_depend_on_the_size_of_parts(finished, examples, encoder, database, tmp_path):
    neighbors_of(examples, encoder, database, NeighborOptions(6, part_size=1000, duplicates=None), tmp_path / "out")
    for one, other in zip(
        NeighborSidecar.open(finished).read(range(70)),
        NeighborSidecar.open(tmp_path / "out").read(range(70)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("stop_at", [0, 33, 65])
def test_a_stopped_run_resumes_and_ends_the_same(finished, examples, encoder, database, tmp_path, stop_at):
    class Killed(BaseException):
        pass

    def kill(done, total):
        if done > stop_at:
            raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        neighbors_of(examples, encoder, database, NeighborOptions(6, part_size=32, duplicates=None), out, progress=kill)
    assert not out.exists()
    calls = encoder.calls
    report = neighbors_of(examples, encoder, database, NeighborOptions(6, part_size=32, duplicates=None), out)
    assert report.resumed == 32 * (stop_at // 32) and len(report.skipped) == 1
    assert encoder.calls - calls == {0: 5, 33: 3, 65: 1}[stop_at]  # batches of 16
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert dict(NeighborSidecar.open(out).manifest) == dict(NeighborSidecar.open(finished).manifest)
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in finished.iterdir())


def test_a_finished_run_is_reported_and_encodes_nothing(finished, examples, encoder, database):
    calls = encoder.calls
    report = neighbors_of(examples, encoder, database, NeighborOptions(6, duplicates=None), finished)
    assert report.resumed == report.count == 70 and len(report.skipped) == 1 and encoder.calls == calls


def test_another_set_database_encoder_or_k_is_refused(finished, examples, encoder, database, source, tmp_path):
    build(source, encoder, tmp_path / "db", BuildOptions(limit=50))
    other = Database.open(tmp_path / "db")
    with pytest.raises(UserError, match="computed with another source"):
        neighbors_of(source, encoder, database, NeighborOptions(6, duplicates=None), finished)
    with pytest.raises(UserError, match="computed with another database"):
        neighbors_of(examples, encoder, other, NeighborOptions(6, duplicates=None), finished)
    with pytest.raises(UserError, match="computed with another k"):
        neighbors_of(examples, encoder, database, NeighborOptions(5, duplicates=None), finished)
    sidecar = NeighborSidecar.open(finished)
    sidecar.check(examples, database, encoder.identity)
    with pytest.raises(UserError, match=r"were computed for set .70 examples., not for these 300 of"):
        sidecar.check(source)
    with pytest.raises(UserError, match="come from database 'zoo'"):
        sidecar.check(examples, other)
    with pytest.raises(UserError, match="were computed with encoder 'random'"):
        sidecar.check(examples, database, {**encoder.identity, "sha256": "0" * 64})


def test_an_unfinished_run_with_other_inputs_is_refused(examples, encoder, database, tmp_path):
    class Killed(BaseException):
        pass

    def kill(done, total):
        if done > 20:  # the first part is finished
            raise Killed

    with pytest.raises(Killed):
        neighbors_of(
            examples,
            encoder,
            database,
            NeighborOptions(6, part_size=20, duplicates=None),
            tmp_path / "out",
            progress=kill,
        )
    with pytest.raises(UserError, match="holds an unfinished run with another k"):
        neighbors_of(examples, encoder, database, NeighborOptions(7, part_size=20, duplicates=None), tmp_path / "out")
    with pytest.raises(UserError, match="holds an unfinished run with another part lengths"):
        neighbors_of(examples, encoder, database, NeighborOptions(6, part_size=8, duplicates=None), tmp_path / "out")


def test_good_options_work_after_bad_ones(examples, encoder, database, tmp_path):
    with pytest.raises(UserError, match="has the attribute 'no-such'"):
        neighbors_of(
            examples, encoder, database, NeighborOptions(6, within="no-such", duplicates=None), tmp_path / "out"
        )
    assert neighbors_of(
        examples, encoder, database, NeighborOptions(6, duplicates=None), tmp_path / "out"
    ).count == len(examples)


def test_duplicates_are_excluded_only_with_a_threshold(source, encoder, database, tmp_path):
    neighbors_of(source, encoder, database, NeighborOptions(4, duplicates=None), tmp_path / "with")
    neighbors_of(source, encoder, database, NeighborOptions(4, duplicates=SAME), tmp_path / "without")
    kept, excluded = (NeighborSidecar.open(tmp_path / name).read(range(300)) for name in ("with", "without"))
    np.testing.assert_array_equal(kept[0][:, 0], np.arange(300))
    assert (kept[1][:, 0] > SAME).all()
    assert not (excluded[0] == np.arange(300)[:, None]).any() and (excluded[1] <= SAME).all()
    np.testing.assert_array_equal(excluded[0][:, :3], kept[0][:, 1:])


def test_the_search_passes_over_many_duplicates(encoder, tmp_path):
    image = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    same = write_more_images(tmp_path / "same", 40, seed=1)
    from PIL import Image

    for i in range(30):
        Image.fromarray(image).save(tmp_path / "same" / f"{i:03d}.png")
    same = open_source(str(tmp_path / "same"))
    build(same, encoder, tmp_path / "db")
    database = Database.open(tmp_path / "db")
    neighbors_of(same, encoder, database, NeighborOptions(4, duplicates=SAME), tmp_path / "out")
    assert (NeighborSidecar.open(tmp_path / "out").read(range(30))[0] >= 30).all()
    with pytest.raises(UserError, match="has fewer than 11 rows for an example when its duplicates are excluded"):
        neighbors_of(same, encoder, database, NeighborOptions(11, duplicates=SAME), tmp_path / "none")


def test_too_many_broken_images_fail_unless_they_are_allowed(encoder, database, tmp_path):
    examples = write_more_images(tmp_path / "set", 20, seed=3, broken=(2, 3))
    with pytest.raises(UserError, match=r"2 of the first 4 images of set cannot be read, at most 5.0% of 20"):
        neighbors_of(examples, encoder, database, NeighborOptions(2, duplicates=None), tmp_path / "out")
    report = neighbors_of(
        examples, encoder, database, NeighborOptions(2, duplicates=None), tmp_path / "out", max_skip=0.2
    )
    assert report.resumed == 0 and len(report.skipped) == 2


@pytest.mark.parametrize("k", [0, 301])
def test_k_out_of_range_is_refused(examples, encoder, database, tmp_path, k):
    with pytest.raises(UserError, match=f"k {k} is out of range"):
        neighbors_of(examples, encoder, database, NeighborOptions(k, duplicates=None), tmp_path / "out")


def test_a_damaged_sidecar_is_refused(finished, tmp_path):
    import shutil

    copy = shutil.copytree(finished, tmp_path / "copy")
    part = next(copy.glob("*.array_record"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="the SHA-256 of neighbors-"):
        NeighborSidecar.open(copy).verify()
    part.unlink()
    with pytest.raises(UserError, match=r"damaged neighbors .* is missing"):
        NeighborSidecar.open(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "schema": 0}))
    with pytest.raises(UserError, match="another schema than 2"):
        NeighborSidecar.open(copy)
    with pytest.raises(UserError, match="has no finished neighbors"):
        NeighborSidecar.open(tmp_path / "nowhere")


def test_several_processes_share_the_parts_and_the_last_one_finishes(finished, examples, encoder, database, tmp_path):
    out, options = tmp_path / "out", NeighborOptions(6, part_size=32, duplicates=None)
    first = neighbors_of(examples, encoder, database, options, out, process=ProcessIndex(1, 2))
    assert first.missing == 2 and not out.exists()
    second = neighbors_of(examples, encoder, database, options, out, process=ProcessIndex(0, 2))
    assert second.missing == 0 and second.resumed == 32 and second.skipped
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in finished.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line_and_loses_no_part(finished, examples, encoder, database, tmp_path, monkeypatch):
    def full(path, records):
        if "00001-of" in str(path):
            raise OSError(28, "No space left on device")
        write_records(path, records)

    write_records = neighbors.write_records
    out, options = tmp_path / "out", NeighborOptions(6, part_size=32, duplicates=None)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device; make room there"):
        patch.setattr(neighbors, "write_records", full)
        neighbors_of(examples, encoder, database, options, out)
    assert neighbors_of(examples, encoder, database, options, out).resumed == 32
    assert all((out / path.name).read_bytes() == path.read_bytes() for path in finished.iterdir())
