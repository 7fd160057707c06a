"""Databases changed of the rows of others, compared with the same operations on numpy arrays."""

import dataclasses
import errno
import itertools
import json
import os
import shutil

import numpy as np
import pytest

from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import EVERYTHING, Selection
from rdm_jax.retrieval import edit
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.manifest import ManifestDraft, write_manifest
from rdm_jax.retrieval.shards import ShardContents, write_shard
from tests.retrieval.conftest import (
    Listed,
    RandomEncoder,
    colored,
    kept_without_duplicates,
    noise,
    numbers_of,
    same_files,
)

OPTIONS = BuildOptions(part_size=16, thumbnail_size=12, quality=100)


def build(folder, numbers, name, options=OPTIONS):
    """Builds a database of flat images whose colors encode their numbers."""
    build_database(BuildJob.of(Listed(colored(numbers), name), RandomEncoder(), options), folder / name)
    return Database.open(folder / name)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Returns a database of 40 rows in 3 shards; tests must not change its files."""
    return build(tmp_path_factory.mktemp("first"), range(40), "first")


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """Returns a database of 20 rows in 2 shards; tests must not change its files."""
    return build(tmp_path_factory.mktemp("second"), range(100, 120), "second")


@pytest.fixture
def copy(first, tmp_path):
    """Returns a copy that a test may change."""
    return Database.open(shutil.copytree(first.path, tmp_path / "copy"))


def contents(database):
    """Returns the rows, items and thumbnails of a database, without row numbers."""
    ids = range(len(database))
    items = [{key: value for key, value in item.items() if key != "row"} for item in database.items(ids)]
    return np.asarray(database.rows, np.float32), items, numbers_of(database.thumbnails(ids))


def assert_rows(database, pieces):
    """Checks that a database holds the rows, items and thumbnails of (database, rows) in their order."""
    expected = [contents(piece) for piece, _ in pieces]
    selected = [list(rows) for _, rows in pieces]
    rows, items, numbers = contents(database)
    np.testing.assert_array_equal(rows, np.concatenate([e[0][c] for e, c in zip(expected, selected, strict=True)]))
    assert items == [e[1][i] for e, c in zip(expected, selected, strict=True) for i in c]
    assert numbers == [e[2][i] for e, c in zip(expected, selected, strict=True) for i in c]
    assert database.manifest["count"] == len(rows)
    database.verify()


# Merging.


def test_a_merge_has_the_rows_of_all_databases_in_order(first, second, tmp_path):
    assert edit.merge([second, first], tmp_path / "both") == 60
    both = Database.open(tmp_path / "both")
    assert_rows(both, [(second, range(20)), (first, range(40))])
    assert both.name == "both" and [source["name"] for source in both.manifest["sources"]] == ["second", "first"]
    assert [event["action"] for event in both.manifest["history"]] == ["build", "build", "merge"]
    assert both.manifest["history"][-1]["databases"] == ["second", "first"]


def test_complete_shards_are_linked_and_not_copied(first, second, tmp_path):
    edit.merge([first, second], tmp_path / "both")
    both = Database.open(tmp_path / "both")
    for linked, shard in zip(both.shards, [*first.shards, *second.shards], strict=True):
        for kind in shard.names:
            assert os.path.samefile(both.path / linked.names[kind], shard.folder / shard.names[kind])


def test_files_are_copied_if_they_cannot_be_linked(first, second, tmp_path, monkeypatch):
    edit.merge([first, second], tmp_path / "linked")

    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    edit.merge([first, second], tmp_path / "copied", name="linked")
    assert same_files(tmp_path / "copied", tmp_path / "linked")


def test_the_rows_of_a_merge_are_in_the_proportion_of_the_weights(first, second, tmp_path):
    sizes = {one.name: len(one) for one in (first, second)}
    count = edit.merge([first, second], tmp_path / "both", weights=[1.0, 2.0])
    parts = [min(sizes[first.name], sizes[second.name] // 2), 0]
    parts[1] = 2 * parts[0]
    assert count == sum(parts)
    both = Database.open(tmp_path / "both")
    places = np.linspace(0, len(first), parts[0], endpoint=False).astype(int)
    np.testing.assert_array_equal(both.rows[: parts[0]], first.rows[:][places])
    assert both.manifest["history"][-1]["weights"] == [1.0, 2.0]
    with pytest.raises(UserError, match="each must be a number above 0"):
        edit.merge([first, second], tmp_path / "none", weights=[1.0, 0.0])
    assert not (tmp_path / "none").exists()


def test_the_rows_of_a_merge_are_float32_if_any_are(first, tmp_path):
    other = build(tmp_path, range(200, 220), "other", dataclasses.replace(OPTIONS, dtype="float32"))
    for order in ([first, other], [other, first]):
        out = tmp_path / "-".join(one.name for one in order)
        edit.merge(order, out)
        assert Database.open(out).rows.dtype == np.float32
        assert_rows(Database.open(out), [(one, range(len(one))) for one in order])


def without_images(folder, count, encoder):
    """Writes a database of rows that came without their images."""
    rows = np.random.default_rng(3).normal(size=(count, 24)).astype(np.float32)
    items = [{"path": f"{i}", "caption": f"row {i}", "attributes": {}, "sha256": ""} for i in range(count)]
    folder.mkdir()
    shard = write_shard(folder, 0, 1, ShardContents(items, rows), "float16")
    described = {"name": folder.name, "width": 24, "dtype": "float16", "encoder": encoder, "thumbnail_size": 12}
    draft = ManifestDraft({**described, "licence": "", "sources": []}, {"action": "import"})
    write_manifest(folder, [shard], draft)
    return Database.open(folder)


def test_a_database_without_images_is_merged_with_one_with_images(first, tmp_path):
    bare = without_images(tmp_path / "bare", 5, first.encoder)
    edit.merge([bare, first], tmp_path / "both")
    both = Database.open(tmp_path / "both")
    thumbnails = both.thumbnails([4, 5, 44, 0])
    assert (thumbnails[[0, 3]] == 200).all() and numbers_of(thumbnails[1:3]) == [0, 39]
    assert both.items([4])[0]["caption"] == "row 4" and both.items([5])[0]["caption"] == "first no. 0"
    assert both.has_thumbnails and not bare.has_thumbnails
    edit.subset(both, tmp_path / "some", Selection(exclude=(("caption", "row 1"), ("artist", "artist 2"))))
    some = Database.open(tmp_path / "some")
    assert numbers_of(some.thumbnails(range(4, len(some)))) == [i for i in range(40) if i % 5 != 2]
    both.verify()


@pytest.mark.parametrize("threshold", [0.9, 0.999, 1.0])
def test_near_duplicates_across_databases_are_omitted(tmp_path, threshold):
    encoder, images = RandomEncoder(), noise(60)
    generator = np.random.default_rng(1)
    for i in range(30, 60):
        images[i] = np.clip(images[i - 30].astype(int) + generator.integers(0, 1 + i // 4), 0, 255).astype(np.uint8)
    options = dataclasses.replace(OPTIONS, dtype="float32")
    for name, part in (("a", images[:25]), ("b", images[25:])):
        build_database(BuildJob.of(Listed(part, name), encoder, options), tmp_path / name)
    databases = [Database.open(tmp_path / name) for name in ("a", "b")]
    rows = encoder.encode_images(images)
    kept = kept_without_duplicates(rows, min(threshold, 1 - 1e-6))
    assert edit.merge(databases, tmp_path / "both", duplicates=threshold) == len(kept) < 60
    np.testing.assert_array_equal(np.asarray(Database.open(tmp_path / "both").rows), rows[kept])


def test_databases_of_different_encoders_are_not_merged(first, tmp_path):
    build_database(BuildJob.of(Listed(colored(range(3))), RandomEncoder("other", 1), OPTIONS), tmp_path / "other")
    with pytest.raises(UserError, match=r"was made by encoder 'other' .* and this is 'random'"):
        edit.merge([first, Database.open(tmp_path / "other")], tmp_path / "both")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_an_existing_folder_is_refused_before_any_work(first, second, tmp_path, monkeypatch):
    monkeypatch.setattr(edit, "distinct_rows", None)
    with pytest.raises(UserError, match="exists already"):
        edit.merge([first, second], tmp_path, duplicates=0.9)
    with pytest.raises(UserError, match="exists already"):
        edit.subset(first, tmp_path, duplicates=0.9)


# Choosing.


@pytest.mark.parametrize(
    ("selection", "admits"),
    [
        (EVERYTHING, lambda i: True),
        (Selection(where=(("artist", "artist 3"),)), lambda i: i % 5 == 3),
        (Selection(where=(("artist", "artist 3"), ("path", "first/013.png"))), lambda i: i == 13),
        (Selection(exclude=(("artist", "artist 3"), ("artist", "artist 4"))), lambda i: i % 5 < 3),
        (Selection((("artist", "artist 3"),), (("caption", "first no. 8"),)), lambda i: i % 5 == 3 and i != 8),
        (Selection(where=(("path", "first/"),)), lambda i: True),
        (Selection(exclude=(("style", "ink"),)), lambda i: True),
        (Selection(exclude=(("path", "first/01"), ("path", "second/"))), lambda i: True),
    ],
)
@pytest.mark.parametrize("limit", [None, 3])
def test_a_subset_has_the_rows_that_a_selection_admits(first, tmp_path, selection, admits, limit):
    expected = [i for i in range(40) if admits(i)][:limit]
    assert edit.subset(first, tmp_path / "some", selection, limit=limit) == len(expected)
    some = Database.open(tmp_path / "some")
    assert_rows(some, [(first, expected)])
    event = some.manifest["history"][-1]
    assert event["action"] == "subset" and event["selection"] == selection.record() and event["limit"] == limit
    assert np.flatnonzero(first.mask(selection))[:limit].tolist() == expected


def test_a_subset_of_nothing_is_refused(first, tmp_path):
    with pytest.raises(UserError, match="no row is left; check the selection"):
        edit.subset(first, tmp_path / "some", Selection(where=(("artist", "nobody"),)))
    assert list(tmp_path.iterdir()) == []


def test_near_duplicates_are_searched_only_among_the_selected_rows(tmp_path):
    encoder = RandomEncoder()
    images = noise(10)
    images[6], images[7] = images[0], images[2]
    build_database(BuildJob.of(Listed(images), encoder, OPTIONS), tmp_path / "db")
    without_first = Selection(exclude=(("path", "listed/000.png"),))
    edit.subset(Database.open(tmp_path / "db"), tmp_path / "some", without_first, duplicates=0.97)
    some = Database.open(tmp_path / "some")
    paths = [int(item["path"][-7:-4]) for item in some.items(range(len(some)))]
    assert paths == [1, 2, 3, 4, 5, 6, 8, 9]


def test_ids_do_not_change(first, second, tmp_path):
    edit.merge([first, second], tmp_path / "both")
    edit.subset(Database.open(tmp_path / "both"), tmp_path / "some", Selection(exclude=(("artist", "artist 0"),)))
    some = Database.open(tmp_path / "some")
    before = {item["caption"]: item["id"] for one in (first, second) for item in one.items(range(len(one)))}
    assert all(before[item["caption"]] == item["id"] for item in some.items(range(len(some))))
    assert len(set(before.values())) == 60


# Removing.


def bytes_of(folder):
    """Returns all bytes of a folder's files, tables and records unpacked."""
    import pyarrow.parquet as pq

    raw = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    tables = [json.dumps(pq.read_table(path).to_pylist()).encode() for path in sorted(folder.rglob("*.parquet"))]
    return raw + b"".join(tables)


def test_removed_rows_are_nowhere_in_the_folder(copy, first, tmp_path):
    before = copy.digest
    gone = [3, 8]
    captions = [f"first no. {i}" for i in gone]
    rows = np.asarray(first.rows.shards[0])[gone]
    thumbnails = [first.shard_contents(0)[1][i] for i in gone]
    secrets = [*(json.dumps(caption).encode() for caption in captions), *(row.tobytes() for row in rows), *thumbnails]
    assert all(secret in bytes_of(copy.path) for secret in secrets)
    selection = Selection(exclude=tuple(("caption", caption) for caption in captions))
    assert edit.remove(copy, selection) == 2
    changed = Database.open(copy.path)
    assert_rows(changed, [(first, [i for i in range(40) if i not in gone])])
    kept = [path for path in changed.path.iterdir() if path.name != "manifest.json"]
    assert not any(secret in bytes_of(changed.path) for secret in secrets[2:])
    assert not any(json.dumps(item).encode() in bytes_of(changed.path) for item in first.items(gone))
    assert not any(secret in path.read_bytes() for secret in secrets for path in kept)
    assert changed.digest != before and [path.name for path in tmp_path.iterdir()] == ["copy"]
    event = changed.manifest["history"][-1]
    assert event["action"] == "remove" and event["rows"] == 2 and event["selection"] == selection.record()


def test_shards_without_removed_rows_are_unchanged(copy, first):
    inodes = {path.name: path.stat().st_ino for path in copy.path.iterdir()}
    edit.remove(copy, Selection(exclude=(("path", "first/020.png"),)))
    changed = Database.open(copy.path)
    rewritten = [
        changed.path.joinpath(name).stat().st_ino != inodes[name] for name in sorted(changed.manifest["files"])
    ]
    assert sorted(changed.manifest["files"]) == sorted(first.manifest["files"])
    assert rewritten == [False, True, False] * 3  # embeddings, items, thumbnails of three shards each


def test_a_shard_without_remaining_rows_is_removed(copy, first):
    edit.remove(copy, Selection(exclude=tuple(("path", f"first/{i:03d}.png") for i in range(16, 32))))
    changed = Database.open(copy.path)
    assert len(changed.shards) == 2 and len(list(changed.path.iterdir())) == 7
    assert_rows(changed, [(first, [*range(16), *range(32, 40)])])


def test_rows_that_any_line_of_a_list_or_all_terms_match_are_removed(copy, first):
    selection = Selection(where=(("artist", "artist 1"), ("path", "first/011.png")), exclude=(("artist", "artist 2"),))
    assert edit.remove(copy, selection) == 9
    assert_rows(Database.open(copy.path), [(first, [i for i in range(40) if i % 5 != 2 and i != 11])])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(where=(("artist", "nobody"),)), "no row of database 'first' fits; nothing is removed"),
        (EVERYTHING, "no row of database 'first' fits"),
        (Selection(where=(("path", "first/"),)), "every row of database 'first' fits; delete the folder"),
    ],
)
def test_removing_nothing_or_everything_is_refused(copy, first, selection, message):
    with pytest.raises(UserError, match=message):
        edit.remove(copy, selection)
    assert same_files(copy.path, first.path)


def test_removing_rows_removes_the_index(copy):
    (copy.path / "index").mkdir()
    (copy.path / "index" / "scann").write_text("all rows")
    index = {"kind": "scann", "digest": copy.digest, "shards": [], "files": {}, "parameters": {}}
    files.write_json(copy.path / "manifest.json", {**copy.manifest, "index": index})
    edit.remove(Database.open(copy.path), Selection(where=(("artist", "artist 1"),)))
    assert not (copy.path / "index").exists() and "index" not in Database.open(copy.path).manifest


def test_a_removal_that_is_stopped_between_its_renames_is_recovered(copy, first, monkeypatch):
    class Killed(BaseException):
        pass

    rename = type(copy.path).rename
    count = itertools.count()

    def killed(self, target):
        if next(count) == 1:  # the old folder has been put aside
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(copy.path), "rename", killed)
        edit.remove(copy, Selection(where=(("artist", "artist 1"),)))
    assert not copy.path.exists()
    assert same_files(Database.open(copy.path).path, first.path)


def test_a_reader_between_the_renames_does_not_disturb_the_removal(copy, monkeypatch):
    rename, opened = type(copy.path).rename, []

    def interrupted(self, target):
        result = rename(self, target)
        if target.name.endswith(".replaced"):
            opened.append(len(Database.open(copy.path)))
            monkeypatch.setattr(type(copy.path), "rename", rename)
        return result

    monkeypatch.setattr(type(copy.path), "rename", interrupted)
    edit.remove(copy, Selection(where=(("artist", "artist 1"),)))
    assert opened == [40] and len(Database.open(copy.path)) == 32
    assert [path.name for path in copy.path.parent.iterdir()] == ["copy"]


def test_the_next_removal_cleans_up_after_a_stopped_one(copy, tmp_path):
    selection = Selection(where=(("artist", "artist 1"),))
    shutil.copytree(copy.path, tmp_path / ".copy.replaced")
    shutil.copytree(copy.path, tmp_path / ".copy.x1y2.new")
    edit.remove(copy, selection)
    shutil.copytree(copy.path, tmp_path / ".copy.replaced")
    with pytest.raises(UserError, match="nothing is removed"):
        edit.remove(Database.open(copy.path), selection)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_database_behind_a_link_is_replaced_in_place(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy.path)
    edit.remove(Database.open(tmp_path / "link"), Selection(where=(("artist", "artist 1"),)))
    assert (tmp_path / "link").is_symlink() and len(Database.open(tmp_path / "link")) == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "link"]


def test_a_second_writer_and_a_stale_reader_are_refused(copy, first, tmp_path):
    message = r"another process is writing to .*copy; wait for it, or stop it first"
    with files.locked(tmp_path / ".copy.lock", copy.path), pytest.raises(UserError, match=message):
        edit.remove(copy, Selection(where=(("artist", "artist 1"),)))
    stale = Database.open(copy.path)
    edit.remove(copy, Selection(where=(("artist", "artist 1"),)))
    with pytest.raises(UserError, match="was changed by another process meanwhile; run the same command again"):
        edit.remove(stale, Selection(where=(("artist", "artist 2"),)))
    assert len(Database.open(copy.path)) == 32


@pytest.mark.parametrize("call", ["link", "replace"])
def test_a_full_disk_leaves_the_database_unchanged(copy, first, monkeypatch, call):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device; make room there"):
        patch.setattr(os, call, full)
        patch.setattr(shutil, "copyfile", full)
        edit.remove(copy, Selection(exclude=(("path", "first/020.png"),)))
    assert same_files(copy.path, first.path) and [path.name for path in copy.path.parent.iterdir()] == ["copy"]
