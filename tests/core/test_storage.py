"""Folders in object storage, in fsspec's memory file system."""

import io
import json
import zipfile

import fsspec
import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import locate
from rdm_jax.core import paths, storage
from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source

MEMORY = fsspec.filesystem("memory")


@pytest.fixture
def bucket(request, tmp_path, monkeypatch):
    """Returns the address of an empty folder; local copies go below the test's own folder."""
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    name = f"/{request.node.name}"
    yield f"memory:/{name}"
    if MEMORY.exists(name):
        MEMORY.rm(name, recursive=True)


@pytest.fixture
def folder(tmp_path):
    """Returns a folder with a manifest and two files."""
    made = tmp_path / "made"
    (made / "sub").mkdir(parents=True)
    (made / "manifest.json").write_text(json.dumps({"version": 1}))
    (made / "rows.npy").write_bytes(bytes(range(256)))
    (made / "sub" / "more").write_text("more")
    return made


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_uploaded_is_staged_the_same(bucket, folder, tmp_path):
    storage.upload(folder, f"{bucket}/db", "manifest.json")
    for address in (f"{bucket}/db", f"{bucket}/db/"):
        staged = storage.staged(address, "manifest.json")
        assert contents(staged) == contents(folder) and staged.is_relative_to(tmp_path / "cache")
    with pytest.raises(UserError, match="exists already; choose another place or remove it first"):
        storage.upload(folder, f"{bucket}/db", "manifest.json")


def test_a_second_opening_copies_nothing_and_a_changed_manifest_copies_again(bucket, folder, monkeypatch):
    storage.upload(folder, f"{bucket}/db", "manifest.json")
    first = storage.staged(f"{bucket}/db", "manifest.json")
    with monkeypatch.context() as patch:
        patch.setattr(type(MEMORY), "get", None)
        assert storage.staged(f"{bucket}/db", "manifest.json") == first
    storage.write(f"{bucket}/db/manifest.json", b'{"version": 2}')
    storage.write(f"{bucket}/db/rows.npy", b"other rows")
    second = storage.staged(f"{bucket}/db", "manifest.json")
    assert second != first and (second / "rows.npy").read_bytes() == b"other rows"
    assert contents(first) == contents(folder)


def test_a_copy_that_breaks_off_leaves_nothing_and_is_made_again(bucket, folder, tmp_path, monkeypatch):
    storage.upload(folder, f"{bucket}/db", "manifest.json")
    get_file, requests = type(MEMORY).get_file, []

    def broken(self, *given, **options):
        requests.append(given)
        if len(requests) == 2:
            raise OSError("connection lost")
        return get_file(self, *given, **options)

    monkeypatch.setattr(type(MEMORY), "get_file", broken)
    with pytest.raises(UserError, match=r"cannot copy memory://.* connection lost"):
        storage.staged(f"{bucket}/db", "manifest.json")
    assert not any((tmp_path / "cache" / "staged").iterdir())
    assert contents(storage.staged(f"{bucket}/db", "manifest.json")) == contents(folder)


def test_the_manifest_comes_last(bucket, folder, monkeypatch):
    order, put = [], storage.put
    monkeypatch.setattr(storage, "put", lambda file, address: (order.append(file.name), put(file, address)))
    storage.upload(folder, f"{bucket}/db", "manifest.json")
    assert sorted(order) == ["manifest.json", "more", "rows.npy"] and order[-1] == "manifest.json"


def test_nothing_there_and_unknown_kinds_of_storage_are_refused(bucket):
    with pytest.raises(UserError, match=r"has no manifest.json that can be read .*; check the address"):
        storage.staged(f"{bucket}/nothing", "manifest.json")
    with pytest.raises(UserError, match="cannot open nowhere://x"):
        storage.staged("nowhere://x", "manifest.json")
    assert paths.is_remote("gs://a/b") and not paths.is_remote("/a/b") and not paths.is_remote("a:0.7")


def test_small_files_are_written_read_named_and_removed(bucket):
    assert storage.names(f"{bucket}/notes") == []
    storage.write(f"{bucket}/notes/b.json", b"b")
    storage.write(f"{bucket}/notes/a.json", b"a")
    assert storage.names(f"{bucket}/notes") == ["a.json", "b.json"] and storage.read(f"{bucket}/notes/b.json") == b"b"
    storage.remove(f"{bucket}/notes")
    assert storage.names(f"{bucket}/notes") == []


def test_a_file_or_a_folder_is_fetched_under_its_own_name_and_again_when_it_changed(bucket, folder, tmp_path):
    for file in ("rows.npy", "sub/more"):
        storage.write(f"{bucket}/set/{file}", (folder / file).read_bytes())
    copy = storage.fetched(f"{bucket}/set/")
    assert copy.name == "set" and (copy / "sub" / "more").read_text() == "more" and len(contents(copy)) == 2
    assert storage.fetched(f"{bucket}/set/") == copy
    one = storage.fetched(f"{bucket}/set/rows.npy")
    assert one.name == "rows.npy" and one.read_bytes() == bytes(range(256)) == storage.read(f"{bucket}/set/rows.npy")
    storage.write(f"{bucket}/set/rows.npy", b"other")
    assert storage.fetched(f"{bucket}/set/rows.npy").read_bytes() == b"other" and one.read_bytes() == bytes(range(256))
    with pytest.raises(UserError, match=r"nothing is at .*nowhere; check the address"):
        storage.fetched(f"{bucket}/nowhere")


def test_images_and_bundles_are_opened_by_their_address(bucket, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer, "png")
    storage.write(f"{bucket}/images/red/1.png", buffer.getvalue())
    source = open_source(f"{bucket}/images")
    assert source.name == "images" and len(source) == 1 and source[0].caption == "red"
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        archive.writestr("red/1.png", buffer.getvalue())
    storage.put(tmp_path / "zipped.zip", f"{bucket}/zipped.zip")
    np.testing.assert_array_equal(open_source(f"{bucket}/zipped.zip")[0].image, source[0].image)
    storage.write(f"{bucket}/model/config.json", b"{}")
    assert (locate(f"{bucket}/model") / "config.json").read_text() == "{}"
