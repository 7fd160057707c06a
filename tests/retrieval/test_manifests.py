"""Inconsistent manifests, and databases in object storage."""

import json
import shutil

import fsspec
import pytest

from rdm_jax.core import storage
from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import Selection
from rdm_jax.retrieval import edit
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from tests.retrieval.conftest import Listed, build, noise, same_files


@pytest.fixture(scope="module")
def small(encoder, tmp_path_factory):
    """Returns the folder of a database of 20 rows in 3 shards; tests must not change its files."""
    out = tmp_path_factory.mktemp("small") / "small"
    build(Listed(noise(20, broken=(5,))), encoder, out, BuildOptions(part_size=8), max_skip=0.1)
    return out


@pytest.fixture
def copy(small, tmp_path):
    return shutil.copytree(small, tmp_path / "copy")


def rewrite(folder, change):
    """Changes the manifest of a folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


ROWS = "embeddings-00000-of-00003.npy"


@pytest.mark.parametrize("place", ["../small/", "{outside}/", "sub/../../small/", "./../small/"])
def test_files_outside_the_folder_are_never_opened(copy, small, place):
    shutil.copytree(small, copy.parent / "small")
    name = place.format(outside=copy.parent / "small") + ROWS

    def in_files(manifest):
        manifest["files"][name] = manifest["files"].pop(ROWS)
        manifest["shards"][0]["embeddings"] = name

    def in_shards(manifest):
        manifest["shards"][0]["embeddings"] = name

    original = (copy / "manifest.json").read_text()
    for change, message in ((in_files, "which is not a file of its folder"), (in_shards, "is not among the manifest")):
        (copy / "manifest.json").write_text(original)
        rewrite(copy, change)
        with pytest.raises(UserError, match=f"damaged database .*{message}"):
            Database.open(copy)


@pytest.mark.parametrize(
    "index",
    [
        {"shards": ["../../small"], "files": {}},
        {"shards": ["/etc"], "files": {}},
        {"shards": [], "files": {"../../x": "0"}},
    ],
)
def test_an_index_outside_the_folder_is_never_opened(copy, index):
    rewrite(copy, lambda manifest: manifest.update(index=index))
    with pytest.raises(UserError, match=r"damaged database .* which is not a file of its index"):
        Database.open(copy)


@pytest.mark.parametrize("kind", ["embeddings", "items", "thumbnails", "skipped"])
def test_verifying_names_the_file_of_a_flipped_byte(copy, kind):
    Database.open(copy).verify()
    file = max(path for path in copy.iterdir() if path.name.startswith(kind))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=rf"damaged database .*: the SHA-256 of {file.name} is not the one in"):
        Database.open(copy).verify()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 5),
        ("count", "20"),
        ("width", None),
        ("dtype", []),
        ("encoder", "random"),
        ("sources", {}),
        ("shards", "all"),
        ("shards", ["all"]),
        ("shards", []),
        ("files", ["a"]),
        ("thumbnail_size", None),
    ],
)
def test_a_manifest_with_a_wrong_value_is_refused(copy, key, value):
    rewrite(copy, lambda manifest: manifest.update({key: value}))
    with pytest.raises(UserError, match=f"damaged database .*{key.rstrip('s')}") as error:
        Database.open(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("schema", [3, 99, "2", None])
def test_a_schema_of_the_future_is_named(copy, schema):
    rewrite(copy, lambda manifest: manifest.update(schema=schema))
    with pytest.raises(UserError, match=rf"has schema {schema!r}, and this version reads 2"):
        Database.open(copy)


@pytest.mark.parametrize("text", ["[]", "5", '"x"', "null", "", "{"])
def test_a_manifest_that_is_not_an_object_is_refused(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"has schema None|manifest.json cannot be read"):
        Database.open(copy)


def test_counts_that_do_not_add_up_are_refused(copy):
    rewrite(copy, lambda manifest: manifest.update(count=21))
    with pytest.raises(UserError, match="19 rows of embeddings, and the manifest has a count of 21"):
        Database.open(copy)


def test_an_empty_folder_is_not_a_database(tmp_path, encoder):
    with pytest.raises(
        UserError, match=r"is not a database: it has no manifest.json; make one with rdm database build"
    ):
        Database.open(tmp_path)
    with pytest.raises(UserError, match=r"is not a database: it has no manifest\.json"):
        build(Listed(noise(3)), encoder, tmp_path, append=True)


# Object storage.


@pytest.fixture
def bucket(tmp_path, monkeypatch, request):
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    yield f"memory://{request.node.name}"
    fsspec.filesystem("memory").rm(f"/{request.node.name}", recursive=True)


def test_a_database_in_object_storage_is_copied_once_and_again_when_it_changes(
    small, copy, bucket, tmp_path, monkeypatch
):
    storage.upload(small, f"{bucket}/small", "manifest.json")
    first = Database.open(f"{bucket}/small")
    assert same_files(first.path, small) and first.path.is_relative_to(tmp_path / "cache")
    first.verify()
    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), "get", None)
        assert Database.open(f"{bucket}/small").path == first.path
    edit.remove(Database.open(copy), Selection(where=(("artist", "artist 1"),)))
    storage.remove(f"{bucket}/small")
    storage.upload(copy, f"{bucket}/small", "manifest.json")
    second = Database.open(f"{bucket}/small")
    assert same_files(second.path, copy) and len(second) < len(first)
    second.verify()


def test_a_missing_database_is_named(bucket, small):
    storage.upload(small, f"{bucket}/small", "manifest.json")
    with pytest.raises(UserError, match=f"{bucket}/larger has no manifest.json that can be read"):
        Database.open(f"{bucket}/larger")
