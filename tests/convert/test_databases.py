"""Foreign databases against the arrays that were written into them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdm_jax.convert import databases
from rdm_jax.convert.databases import import_database
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.indexing import make_index

WIDTH = 12
ENCODER = {"name": "some-clip", "sha256": "0" * 64, "width": WIDTH}


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(databases, "CHUNK", 7)


def _rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def _npz(path, rows, first=0, save=np.savez_compressed):
    ids = np.arange(first, first + len(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, embedding=rows, img_id=ids, patch_coords=np.stack([ids, ids + 1, ids + 2, ids + 3], axis=1))
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_compvis_file_is_converted_row_by_row(tmp_path, save):
    rows = _rows(30)
    assert import_database(_npz(tmp_path / "a.npz", rows, save=save), ENCODER, tmp_path / "out", dtype="float32") == 30
    database = Database.open(tmp_path / "out")
    np.testing.assert_array_equal(database.embeddings(range(30)), rows)
    item = database.items([8])[0]
    assert item["attributes"] == {"img_id": "8"} and item["box"] == [8, 9, 10, 11]
    assert database.encoder == ENCODER and database.name == "out"
    database.verify()
    ids, _ = make_index(database).search(rows[4:5], 1)
    assert ids.tolist() == [[4]]


def test_shards_are_read_in_their_natural_order(tmp_path):
    rows = _rows(36)
    for part in range(12):
        _npz(tmp_path / f"shards/3x{WIDTH}-part_{part}.npz", rows[3 * part : 3 * part + 3], 3 * part)
    import_database(tmp_path / "shards", ENCODER, tmp_path / "out", dtype="float32")
    np.testing.assert_array_equal(Database.open(tmp_path / "out").embeddings(range(36)), rows)


def _clip_retrieval(folder, rows, tables=True):
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for part, start in enumerate(range(0, len(rows), 10)):
        np.save(folder / f"img_emb/img_emb_{part}.npy", rows[start : start + 10].astype(np.float16))
        records = [
            {"caption": f"caption {start + i}", "url": f"here/{start + i}.jpg", "width": 64}
            for i in range(len(rows[start : start + 10]))
        ]
        if tables:
            pq.write_table(
                pa.Table.from_pylist(records), folder / f"metadata/metadata_{part}.parquet", row_group_size=4
            )
    return folder


def test_a_clip_retrieval_folder_keeps_its_captions(tmp_path):
    rows = _rows(115)
    import_database(_clip_retrieval(tmp_path / "laion", rows), ENCODER, tmp_path / "out")
    database = Database.open(tmp_path / "out")
    np.testing.assert_array_equal(database.embeddings(range(115)), rows.astype(np.float16))
    items = database.items(range(115))
    assert [item["caption"] for item in items] == [f"caption {i}" for i in range(115)]
    assert items[109]["path"] == "here/109.jpg" and items[109]["attributes"]["width"] == "64"


def test_without_metadata_rows_are_named_by_their_file(tmp_path):
    import_database(_clip_retrieval(tmp_path / "laion", _rows(12), tables=False), ENCODER, tmp_path / "out", limit=11)
    database = Database.open(tmp_path / "out")
    assert [item["path"] for item in database.items([0, 10])] == ["img_emb_0/0", "img_emb_1/0"] and len(database) == 11


@pytest.mark.parametrize("limit", [None, 6])
def test_rows_without_a_direction_are_left_out_with_their_captions(tmp_path, caplog, monkeypatch, limit):
    monkeypatch.setattr(databases, "SHARD_ROWS", 4)
    rows = _rows(14)
    rows[1, 3], rows[2], rows[4, 0], rows[12] = np.nan, 0, -np.inf, 0
    kept = [row for row in range(14) if row not in (1, 2, 4, 12)][:limit]
    assert import_database(_clip_retrieval(tmp_path / "laion", rows), ENCODER, tmp_path / "out", limit=limit) == len(
        kept
    )
    database = Database.open(tmp_path / "out")
    database.verify()
    np.testing.assert_array_equal(database.embeddings(range(len(kept))), rows[kept].astype(np.float16))
    assert [item["caption"] for item in database.items(range(len(kept)))] == [f"caption {row}" for row in kept]
    assert [len(shard) for shard in database.rows.shards] == ([4, 4, 2] if limit is None else [4, 2])
    assert sorted(path.name for path in database.path.iterdir() if path.is_dir()) == []
    lines = ["here/1.jpg: not finite", "here/2.jpg: zero", "here/4.jpg: not finite", "here/12.jpg: zero"]
    assert database.skipped() == lines[: None if limit is None else 3]
    assert "2 not finite (here/1.jpg, here/4.jpg)" in caplog.text and "zero (here/2.jpg" in caplog.text


def test_thumbnails_are_gray_without_images(tmp_path):
    import_database(_npz(tmp_path / "a.npz", _rows(3)), ENCODER, tmp_path / "out")
    database = Database.open(tmp_path / "out")
    assert not database.has_thumbnails
    thumbnails = database.thumbnails([0, 2])
    assert thumbnails.shape == (2, 64, 64, 3) and len(np.unique(thumbnails)) == 1


def _cut(folder):
    path = _npz(folder / "a.npz", _rows(100), save=np.savez)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def _short_npy(folder):
    _clip_retrieval(folder / "laion", _rows(5))
    path = folder / "laion/img_emb/img_emb_0.npy"
    path.write_bytes(path.read_bytes()[:-10])
    return folder / "laion"


def _table_of(count):
    def make(folder):
        _clip_retrieval(folder / "laion", _rows(5))
        pq.write_table(pa.table({"caption": ["x"] * count}), folder / "laion/metadata/metadata_0.parquet")
        return folder / "laion"

    return make


def _no_table(folder):
    _clip_retrieval(folder / "laion", _rows(15))
    (folder / "laion/metadata/metadata_1.parquet").unlink()
    return folder / "laion"


def _other_number(folder):
    metadata = _clip_retrieval(folder / "laion", _rows(5)) / "metadata"
    (metadata / "metadata_0.parquet").rename(metadata / "metadata_1.parquet")
    return folder / "laion"


def _one(**arrays):
    def make(folder):
        np.savez(folder / "a.npz", **arrays)
        return folder / "a.npz"

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", r"is no \.npz file, and has neither"),
        (_cut, r"a\.npz cannot be read"),
        (_short_npy, "is truncated: embedding has 5 rows by its header"),
        (_table_of(1), r"img_emb_0\.npy has 5 vectors, and metadata_0\.parquet describes 1; .*move .* away"),
        (_table_of(6), r"img_emb_0\.npy has 5 vectors, and metadata_0\.parquet describes 6"),
        (_no_table, "has 2 files of vectors and 1 of metadata"),
        (_other_number, r"img_emb_0\.npy has no metadata of its number, the next file is metadata_1\.parquet"),
        (_one(embedding=_rows(3), img_id=np.arange(2), patch_coords=np.zeros((3, 4))), "3 vectors and 2 entries"),
        (_one(embedding=_rows(8), img_id=np.arange(8), patch_coords=np.zeros((9, 4))), "8 vectors and 9 entries"),
        (_one(embedding=_rows(3), img_id=np.arange(3), patch_coords=np.zeros((3, 2))), r"\[3, 2\] .* needs \[3, 4\]"),
        (_one(embedding=_rows(3), img_id=np.arange(3), patch_coords=np.full((3, 4), np.nan)), "that are no pixels"),
        (_one(embedding=0 * _rows(2), img_id=np.arange(2), patch_coords=np.zeros((2, 4))), "no usable rows; 2 rows"),
        (_one(rows=_rows(3)), "has no array 'embedding'"),
        (_one(embedding=np.array([{}, {}], dtype=object)), "holds Python objects in 'embedding'"),
        (_one(embedding=np.asfortranarray(_rows(3))), "in column-major order"),
        (_one(embedding=np.arange(6).reshape(2, 3)), "rows of numbers"),
        (_one(embedding=_rows(3)[:, :5]), "are 5 numbers long, and the encoder's 12"),
        (_one(embedding=_rows(3)), "has no array 'img_id'"),
        (_one(embedding=_rows(3)[:0]), "holds no rows"),
        (
            _one(embedding=1e6 * _rows(2), img_id=np.arange(2), patch_coords=np.zeros((2, 4))),
            "is not finite in float16",
        ),
    ],
)
def test_invalid_sources_are_refused_and_nothing_is_written(tmp_path, make, message):
    source = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        import_database(source, ENCODER, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
