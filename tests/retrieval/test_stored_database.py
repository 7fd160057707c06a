import dataclasses
import functools
import json
import os
import pickle
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.core.files import sha256
from rdm_jax.core.images import resize_and_crop
from rdm_jax.data.selection import Selection, holds
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval import shards
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.rows import ShardedRows
from rdm_jax.retrieval.shards import image_hash, item_id
from rdm_jax.retrieval.stored_shard import StoredShard
from tests.retrieval.conftest import build

ROWS, ITEMS = "embeddings-00000-of-00001.npy", "items-00000-of-00001.parquet"


class Listed:
    """A source from a list of images, None for a broken one."""

    def __init__(self, images):
        self.images, self.name, self.captions, self.fingerprint = images, "listed", "a list", "0" * 64

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from rdm_jax.data.examples import Example

        if self.images[index] is None:
            raise ValueError(f"{index}.png: broken")
        return Example(self.images[index], f"caption {index}", f"{index}.png", {"parity": str(index % 2)})

    @property
    def shard_lengths(self):
        return (len(self),)

    def labels(self, index):
        return {"caption": f"caption {index}", "path": f"{index}.png", "parity": str(index % 2)}


def random_images(count, broken=()):
    generator = np.random.default_rng(7)
    images = [generator.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(count)]
    return Listed([None if i in broken else image for i, image in enumerate(images)])


@pytest.fixture
def copy(database, tmp_path):
    """Returns the folder of a copy that a test may damage."""
    import shutil

    return shutil.copytree(database.path, tmp_path / "copy")


def test_selections_match_names_whatever_their_unicode_form(encoder, tmp_path):
    """As `data.selection.holds` does for labels."""
    paths = ["caf\u00e9/a.png", "cafe\u0301/b.png", "win\\c.png", "d.png"]

    class Named(Listed):
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), **self.labelled(index))

        def labelled(self, index):
            return {"path": paths[index], "attributes": {"artist": ("Jos\u00e9", "Jose\u0301", "a\\b", "a/b")[index]}}

    build(Named(random_images(4).images), encoder, tmp_path / "db")
    database = Database.open(tmp_path / "db")
    assert [item["path"] for item in database.items(range(4))] == paths
    labels = [{**item["attributes"], "path": item["path"]} for item in database.items(range(4))]
    values = [*paths, "caf\u00e9/", "cafe\u0301\\", "win/", "win/c.png"]
    terms = [("path", value) for value in values] + [("artist", one["artist"]) for one in labels]
    for term in terms:
        expected = [holds(term, one) for one in labels]
        assert any(expected) and database.mask(Selection(where=(term,))).tolist() == expected, term
        assert database.mask(Selection(exclude=(term,))).tolist() == [not one for one in expected], term


def test_a_row_that_is_not_finite_is_named_with_the_right_advice(tmp_path):
    item = {"path": "a.png", "caption": "", "attributes": {}, "sha256": ""}
    for value, message in ((np.nan, "check the weights of the encoder"), (1e6, "not finite in float16; use float32")):
        contents = shards.ShardContents([item], np.full((1, 3), value, np.float32))
        with pytest.raises(UserError, match=f"the embedding of a.png is .*{message}"):
            shards.write_shard(tmp_path, 0, 1, contents, "float16")


def test_rows_items_and_thumbnails_are_those_of_the_images(database, source, encoder):
    assert len(database) == len(source) == 300 and database.name == "zoo" and database.width == 24
    images = [source[i].image for i in range(300)]
    stored = encoder.encode_images(images).astype(np.float16)
    np.testing.assert_array_equal(np.asarray(database.rows), stored)
    ids = np.array([299, 0, 7, 7])
    np.testing.assert_array_equal(database.embeddings(ids), stored[ids].astype(np.float32))
    for item, i in zip(database.items(ids), ids, strict=True):
        example = source[int(i)]
        sha256 = image_hash(example.image)
        assert item == {
            "row": i,
            "id": item_id({"path": example.path, "sha256": sha256}),
            "box": None,
            "path": example.path,
            "caption": example.caption,
            "attributes": dict(example.attributes),
            "sha256": sha256,
        }
    thumbnails = database.thumbnails(ids)
    assert thumbnails.shape == (4, 64, 64, 3)
    expected = np.stack([resize_and_crop(images[i], 64) for i in ids]).astype(int)
    assert np.abs(thumbnails - expected).mean() < 6
    assert database.items([]) == [] and database.thumbnails([]).shape == (0, 64, 64, 3)


def test_the_manifest_names_encoder_and_hashes(database, encoder, source):
    manifest = json.loads((database.path / "manifest.json").read_text())
    assert manifest["encoder"] == {**encoder.identity, "preprocessing": encoder.preprocessing}
    assert manifest["sources"][0]["fingerprint"] == source.fingerprint
    assert set(manifest["files"]) == {path.name for path in database.path.iterdir()} - {"manifest.json"}
    assert all(sha256(database.path / name) == value for name, value in manifest["files"].items())
    assert str(database.path.parent) not in json.dumps(manifest)
    database.verify()


def test_a_build_is_a_function_of_its_inputs(source, encoder, database, tmp_path):
    build(source, encoder, tmp_path / "again", BuildOptions(name="another name"))
    assert Database.open(tmp_path / "again").digest == database.digest
    build(source, encoder, tmp_path / "fewer", BuildOptions(limit=299))
    assert Database.open(tmp_path / "fewer").digest != database.digest


def test_rows_are_memory_mapped_and_nothing_else_is_read_on_opening(database):
    opened = Database.open(database.path)
    assert all(isinstance(shard, np.memmap) for shard in opened.rows.shards)
    assert "_stored" not in vars(opened)
    assert pickle.loads(pickle.dumps(opened)).items([3]) == database.items([3])


def test_several_shards_and_row_groups_are_one_database(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_ROWS", 9)
    source = random_images(50)
    options = BuildOptions(dtype="float32", quality=100, thumbnail_size=16, part_size=20)
    build(source, encoder, tmp_path / "db", options)
    database = Database.open(tmp_path / "db")
    assert len(database.rows.shards) == 3 and isinstance(database.rows, ShardedRows)
    np.testing.assert_allclose(np.asarray(database.rows), encoder.encode_images(source.images), rtol=1e-6)
    assert [item["caption"] for item in database.items(range(50))] == [f"caption {i}" for i in range(50)]
    np.testing.assert_array_equal(database.thumbnails(range(50)), np.stack(source.images))


def test_broken_images_are_skipped_and_reported(encoder, tmp_path):
    done = []
    source = random_images(40, broken=(3, 17))
    report = build(source, encoder, tmp_path / "db", progress=lambda *counts: done.append(counts))
    assert report.count == 38 and report.skipped == ["3.png: broken", "17.png: broken"]
    database = Database.open(tmp_path / "db")
    assert [item["path"] for item in database.items([2, 3, 4])] == ["2.png", "4.png", "5.png"]
    assert database.skipped() == report.skipped
    assert done[-1] == (40, 40)


def test_too_many_broken_images_fail_and_leave_nothing(encoder, tmp_path):
    source = random_images(40, broken=(3, 17, 30))
    with pytest.raises(
        UserError, match=r"3 of the first 31 images of listed .* 5.0% of 40 are allowed; the first: 3.png: broken"
    ):
        build(source, encoder, tmp_path / "db")
    assert list(tmp_path.iterdir()) == []
    build(source, encoder, tmp_path / "db", max_skip=0.1)
    with pytest.raises(UserError, match="cannot be read"):
        build(random_images(2, broken=(0, 1)), encoder, tmp_path / "none", max_skip=0.5)
    with pytest.raises(UserError, match="no images of listed are left"):
        build(random_images(2, broken=(0, 1)), encoder, tmp_path / "none", max_skip=1.0)


def test_limit_and_where_select(encoder, tmp_path):
    odd = Selection(where=(("parity", "1"),))
    report = build(random_images(20), encoder, tmp_path / "db", BuildOptions(limit=4, selection=odd))
    paths = [item["path"] for item in Database.open(tmp_path / "db").items(range(4))]
    assert report.count == 4 and paths == ["1.png", "3.png", "5.png", "7.png"]
    for options in (BuildOptions(limit=0), BuildOptions(selection=Selection(where=(("parity", "2"),)))):
        with pytest.raises(UserError, match="no images"):
            build(random_images(20), encoder, tmp_path / "none", options)
    with pytest.raises(UserError, match="unknown dtype 'float61'; did you mean 'float16'"):
        BuildOptions(dtype="float61")


@pytest.mark.parametrize("spread", [1, 3, 5, 10, 11])
def test_spread_takes_rows_at_even_distances(encoder, tmp_path, spread):
    odd = Selection(where=(("parity", "1"),))
    report = build(random_images(20), encoder, tmp_path / "db", BuildOptions(spread=spread, selection=odd))
    rows = [int(item["path"].split(".")[0]) for item in Database.open(tmp_path / "db").items(range(report.count))]
    assert report.count == min(spread, 10) and all(row % 2 for row in rows)
    gaps = np.diff([-rows[0], *rows, 2 * 19 - rows[-1] + 2]) / 2  # the ends count half
    assert gaps.max() - gaps.min() <= 2
    with pytest.raises(UserError, match="limit 3 and spread 2: give one"):
        build(random_images(20), encoder, tmp_path / "none", BuildOptions(limit=3, spread=2))


def test_rows_that_overflow_are_refused(encoder, tmp_path):
    class Huge(type(encoder)):
        def encode_images(self, images):
            return super().encode_images(images) * np.float32(1e9)

    with pytest.raises(UserError, match=r"the embedding of 0.png is not finite in float16; use float32"):
        build(random_images(3), Huge(), tmp_path / "db")
    build(random_images(3), Huge(), tmp_path / "db", BuildOptions(dtype="float32"))


def test_a_folder_that_exists_or_cannot_be_written_is_refused(encoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists already"):
        build(random_images(3), encoder, tmp_path)
    with pytest.raises(UserError, match="cannot write to"):
        build(random_images(3), encoder, tmp_path / "file" / "db")


def _changed(path, place, value):
    manifest = json.loads((path / "manifest.json").read_text())
    functools.reduce(lambda inner, key: inner[key], place[:-1], manifest)[place[-1]] = value
    (path / "manifest.json").write_text(json.dumps(manifest))


WRONG = [
    (("encoder", "sha256"), None, "which encoder made the rows"),
    (("encoder",), [], "has no valid encoder"),
    (("thumbnail_size",), -1, "has no valid thumbnail_size"),
    (("count",), "3", "has no valid count"),
    (("sources", 0), None, "has sources without name, captions, rows"),
    (("sources", 0, "rows"), [], "has sources without name, captions, rows"),
    (("history",), None, "has history without action, date"),
    (("history", 0, "date"), 5, "has history without action, date"),
    (("shards", 0, "embeddings"), [], "has no shards, or some without rows"),
    (("shards", 0, "items"), {}, "has no shards, or some without rows"),
]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / ROWS).unlink(), f"{ROWS} is missing"),
        (lambda path: (path / ITEMS).unlink(), f"{ITEMS} is missing"),
        (
            lambda path: (path / ROWS).write_bytes(b"x" * 99),
            f"{ROWS} cannot be read",
        ),
        (
            lambda path: np.save(path / ROWS, np.zeros((9, 24), np.float16)),
            r"is \[9, 24\] float16",
        ),
        (
            lambda path: np.save(path / ROWS, np.zeros((300, 2), np.float16)),
            r"is \[300, 2\] float16",
        ),
        (lambda path: np.save(path / ROWS, np.zeros((300, 24))), r"is \[300, 24\] float64"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text('{"schema": 2, "name": "x"}'), "has no valid count"),
        (lambda path: (path / "manifest.json").write_text('{"schema": 99}'), "has schema 99"),
        (lambda path: _without_encoder(path / "manifest.json"), "which encoder made the rows"),
        (lambda path: (path / "manifest.json").unlink(), "is not a database"),
        (lambda path: (path / ROWS).write_bytes(b""), f"{ROWS} cannot be read"),
        *((functools.partial(_changed, place=place, value=value), message) for place, value, message in WRONG),
    ],
)
def test_a_damaged_database_is_refused_on_opening(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as error:
        Database.open(copy)
    assert "\n" not in str(error.value)


def _without_encoder(manifest):
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "encoder": {}}))


def test_rows_of_items_that_cannot_be_read_are_named(copy):
    damaged = bytearray((copy / "items-00000-of-00001.parquet").read_bytes())
    damaged[4:200] = bytes(196)
    (copy / "items-00000-of-00001.parquet").write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged database .*items-00000-of-00001.parquet cannot be read"):
        Database.open(copy).items([0])


def test_pickled_arrays_are_never_loaded(copy):
    np.save(copy / "embeddings-00000-of-00001.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        Database.open(copy)


def test_damage_inside_files_is_found_when_read_or_verified(copy, database):
    flipped = bytearray((copy / "embeddings-00000-of-00001.npy").read_bytes())
    flipped[-1] ^= 1
    (copy / "embeddings-00000-of-00001.npy").write_bytes(flipped)
    with pytest.raises(UserError, match=r"the SHA-256 of embeddings-00000-of-00001.npy is not"):
        Database.open(copy).verify()
    (copy / "items-00000-of-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"items-00000-of-00001.parquet cannot be read"):
        Database.open(copy).items([0])
    (copy / "thumbnails-00000-of-00001.array_record").write_bytes(b"no records")
    with pytest.raises(UserError, match=r"thumbnails-00000-of-00001.array_record"):
        Database.open(copy).thumbnails([0])


def test_files_of_another_database_are_found_by_their_counts(copy, source, encoder, tmp_path):
    build(source, encoder, tmp_path / "small", BuildOptions(limit=20))
    for name in ("items-00000-of-00001.parquet", "thumbnails-00000-of-00001.array_record"):
        (copy / name).write_bytes((tmp_path / "small" / name).read_bytes())
    with pytest.raises(UserError, match=r"items-00000-of-00001.parquet has 20 rows, and there are 300"):
        Database.open(copy).items([0])
    with pytest.raises(UserError, match="20 images for 300"):
        Database.open(copy).thumbnails([0])


def test_unknown_names_rows_and_encoders_are_refused(database, tmp_path):
    with pytest.raises(UserError, match="unknown database 'nowhere'"):
        Database.open("nowhere")
    with pytest.raises(UserError, match="row 300 is not in database 'zoo'; rows go from 0 to 299"):
        database.items([0, 300])
    with pytest.raises(UserError, match="row -1 is not"):
        database.embeddings([-1])
    other = {"name": "other", "sha256": "f" * 64, "width": 24}
    with pytest.raises(UserError, match=r"was made by encoder 'random' .* and this is 'other'"):
        database.check_encoder(other)
    database.check_encoder({**database.encoder, "name": "renamed"})


def test_embedded_databases_are_opened_by_name(database, tmp_path, monkeypatch):
    from rdm_jax.retrieval import database as module

    (tmp_path / "zoo").symlink_to(database.path)
    monkeypatch.setattr(module, "EMBEDDED", tmp_path)
    assert Database.names() == ["zoo"]
    assert Database.open("zoo").digest == database.digest
    with pytest.raises(UserError, match="unknown database 'zo'; did you mean 'zoo'"):
        Database.open("zo")


def test_a_zip_builds_the_database_of_its_folder(images, database, encoder, tmp_path):
    import shutil

    archive = shutil.make_archive(str(tmp_path / "zoo"), "zip", images.parent, "zoo")
    build(open_source(archive), encoder, tmp_path / "db")
    assert Database.open(tmp_path / "db").digest == database.digest


def test_threads_read_one_at_a_time(database, monkeypatch):
    """Parquet files and their readers are not safe for several threads, and evaluations read from eight."""
    stored = Database.open(database.path)._stored[0]
    read, inside, most = stored._read_group, [], []

    def slow(group):
        inside.append(group)
        most.append(len(inside))
        time.sleep(0.02)
        found = read(group)
        inside.pop()
        return found

    monkeypatch.setattr(stored, "_group", slow)
    with ThreadPoolExecutor(4) as pool:
        items = list(pool.map(stored.item, [0, 1, 0, 1]))
    assert max(most) == 1 and items[0] == items[2] != items[1]


def test_a_database_of_many_shards_raises_the_limit_of_open_files(source, encoder, tmp_path, monkeypatch):
    build(source, encoder, tmp_path / "db", BuildOptions(part_size=3))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd")) + 10
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
        assert len(Database.open(tmp_path / "db")) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
        monkeypatch.setattr(files, "allow_open", lambda count: None)
        with pytest.raises(UserError, match=r"has 100 shards, .* raise its limit, as `ulimit -n 200` does"):
            Database.open(tmp_path / "db")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("boxes", [[None, None], [[1, 2, 3, 4], [5, 6, 7, 8]]])
def test_boxes_of_a_fixed_size_are_read(tmp_path, boxes):
    """As earlier builds stored them; pyarrow before version 26, which `make oldest` installs, cannot read null ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {name: ["a", "b"] for name in ("id", "path", "caption", "sha256")}
    attributes = pa.array([[("k", "v")], []], pa.map_(pa.string(), pa.string()))
    table = pa.table({**texts, "box": pa.array(boxes, pa.list_(pa.int32(), 4)), "attributes": attributes})
    pq.write_table(table, tmp_path / "items.parquet")
    stored = StoredShard(shards.Shard(tmp_path, 2, {shards.ITEMS: "items.parquet"}, {}))
    assert [stored.item(row)["box"] for row in range(2)] == boxes
    assert [stored.item(row)["attributes"] for row in range(2)] == [{"k": "v"}, {}]


def test_boxes_are_stored_so_that_every_pyarrow_reads_them(tmp_path):
    import pyarrow.parquet as pq

    items = [{"path": name, "caption": "", "attributes": {}, "sha256": ""} for name in "ab"]
    items[1]["box"] = [1, 2, 3, 4]
    shard = shards.write_shard(tmp_path, 0, 1, shards.ShardContents(items, np.zeros((2, 3), np.float32)), "float16")
    assert str(pq.read_schema(tmp_path / ITEMS).field("box").type) == "list<element: int32>"
    assert [StoredShard(shard).item(row)["box"] for row in range(2)] == [None, [1, 2, 3, 4]]
