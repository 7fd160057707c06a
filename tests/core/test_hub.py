"""hf:// addresses, by the real huggingface_hub over a stand-in server on loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdm_jax.core import hub
from rdm_jax.core.errors import UserError
from tests.helpers.hub_client import connect, new_process
from tests.helpers.hub_server import Hub, serving

KIND = hub.Kind("thing", "model", "index.json", lambda content: content["files"])
DATA = {"a.safetensors": bytes(range(256)) * 4000, "sub/b.json": b"{}", "c.npy": b"c" * 1000}


def repository(files: dict[str, bytes] = DATA, **more: bytes) -> dict[str, bytes]:
    """Returns the files of a repository with a manifest, and others that the manifest does not name."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {
        **files,
        "index.json": json.dumps({"files": hashes}).encode(),
        "README.md": b"---\nlicense: mit\n---\n",
        **more,
    }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as running:
        connect(monkeypatch, running, tmp_path)
        yield running
        new_process()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error(address: str = "hf://me/thing", kind: hub.Kind = KIND) -> str:
    """Returns the one line of the error."""
    new_process()
    with pytest.raises(UserError) as raised:
        hub.downloaded(address, kind)
    line = str(raised.value)
    assert "\n" not in line
    return line


def test_only_the_files_of_the_manifest_are_downloaded(server: Hub, tmp_path: Path):
    server.add("models", "me/thing", repository(**{"weights.bin": b"a pickle that nothing needs"}))
    folder = hub.downloaded("hf://me/thing", KIND)
    assert contents(folder) == {**DATA, "index.json": repository()["index.json"]}
    assert folder.is_relative_to(tmp_path / "huggingface")
    assert sorted(name for name, _ in server.downloads()) == ["a.safetensors", "c.npy", "index.json", "sub/b.json"]


def test_a_second_process_downloads_nothing_and_sees_a_new_revision(server: Hub):
    server.add("models", "me/thing", repository())
    first = hub.downloaded("hf://me/thing", KIND)
    new_process()
    server.requests.clear()
    assert hub.downloaded("hf://me/thing", KIND) == first and not server.downloads()
    server.requests.clear()
    assert hub.downloaded("hf://me/thing", KIND) == first and not server.requests  # within one process
    server.add("models", "me/thing", repository({**DATA, "c.npy": b"new"}))
    new_process()
    second = hub.downloaded("hf://me/thing", KIND)
    assert second != first and (second / "c.npy").read_bytes() == b"new" and contents(first)["c.npy"] == DATA["c.npy"]
    assert sorted(name for name, _ in server.downloads()) == ["c.npy", "index.json"]


def test_a_revision_is_a_branch_a_tag_or_a_commit(server: Hub):
    old = server.add("models", "me/thing", repository({"c.npy": b"old"}))
    server.add("models", "me/thing", repository({"c.npy": b"new"}))
    server.add("models", "me/thing", repository({"c.npy": b"other"}), revision="v1.0")
    values = {"": b"new", f"@{old}": b"old", "@main": b"new", "@v1.0": b"other"}
    for suffix, value in values.items():
        assert (hub.downloaded(f"hf://me/thing{suffix}", KIND) / "c.npy").read_bytes() == value
    new_process()
    server.requests.clear()
    hub.downloaded(f"hf://me/thing@{old}", KIND)
    assert not server.requests  # a commit never changes


def test_a_broken_connection_resumes_where_it_broke(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 2**16)  # what is resumed is complete chunks
    server.add("models", "me/thing", repository())
    server.breaks["a.safetensors"] = [300_000, 100_000]
    folder = hub.downloaded("hf://me/thing", KIND)
    assert (folder / "a.safetensors").read_bytes() == DATA["a.safetensors"]
    ranges = [span for name, span in server.downloads() if name == "a.safetensors"]
    starts = [int(span.removeprefix("bytes=").rstrip("-")) for span in ranges[1:]]
    assert ranges[0] == "" and len(starts) == 2 and 0 < starts[0] <= 300_000 < len(DATA["a.safetensors"])
    assert starts[0] <= starts[1] <= 400_000


def test_a_download_that_was_given_up_keeps_the_complete_files(server: Hub, monkeypatch: pytest.MonkeyPatch):
    server.add("models", "me/thing", repository())
    server.breaks["c.npy"] = [10] + [0] * 20
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    assert "hf://me/thing: the transfer broke off (" in error() and "run the same command again" in error()
    server.breaks.clear()
    server.requests.clear()
    new_process()
    folder = hub.downloaded("hf://me/thing", KIND)
    assert contents(folder).keys() == {*DATA, "index.json"}
    assert [name for name, _ in server.downloads()] == ["c.npy"]


@pytest.mark.parametrize("name", ["a.safetensors", "index.json"])
def test_a_wrong_hash_is_refused_and_its_copy_is_removed(server: Hub, name: str):
    server.add("models", "me/thing", repository())
    wrong = bytearray(repository()[name])
    wrong[-3] ^= 1
    server.replaced[name] = bytes(wrong)
    expected = {
        "a.safetensors": "the SHA-256 of a.safetensors is not the one in its index.json",
        "index.json": "index.json is not what the Hub lists",
    }
    for _ in range(2):
        assert error().startswith(f"hf://me/thing: {expected[name]}; the copy is removed. Run the same command again")
    server.replaced.clear()
    new_process()
    assert contents(hub.downloaded("hf://me/thing", KIND))[name] == repository()[name]


def test_missing_repositories_revisions_and_files_are_named(server: Hub):
    server.add("models", "me/thing", repository())
    assert error("hf://me/think") == (
        "the Hub has no model repository me/think for you; check the name, or log in by `hf auth login` if it "
        "is private"
    )
    assert error("hf://me/thing@v7").startswith("hf://me/thing has no revision 'v7'; check it, or omit it")
    server.add("models", "me/part", {name: data for name, data in repository().items() if name != "c.npy"})
    assert error("hf://me/part") == "hf://me/part lacks c.npy, which its index.json names; ask whoever shared it"
    server.add("models", "me/empty", {"README.md": b"# Nothing"})
    assert error("hf://me/empty").startswith("hf://me/empty holds no thing of rdm_jax (index.json with the hashes")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "sub/model.PT"])
@pytest.mark.parametrize("manifest", ["missing", "of another program", "names it", "lacks its file"])
def test_a_pickle_is_refused_and_never_downloaded(server: Hub, name: str, manifest: str):
    other = {key: data for key, data in repository().items() if key != "c.npy"}
    files = {
        "missing": {"README.md": b""},
        "of another program": {"index.json": b'{"model_type": "clip"}'},
        "names it": repository({name: b"a pickle"}),
        "lacks its file": other,
    }[manifest]
    server.add("models", "me/pickled", {**files, name: b"a pickle"})
    assert error("hf://me/pickled") == (
        f"hf://me/pickled holds {name} in place of a thing, and pickles are never loaded; download it and convert it "
        "by `rdm convert`"
    )
    assert {one for one, _ in server.downloads()} <= {"index.json"}


def test_what_was_downloaded_works_offline(server: Hub, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    server.add("models", "me/thing", repository())
    server.add("models", "me/other", repository())
    folder = hub.downloaded("hf://me/thing", KIND)
    new_process()
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        server.requests.clear()
        assert hub.downloaded("hf://me/thing", KIND) == folder and hub.downloaded("hf://me/thing@main", KIND) == folder
        assert "the cache has no complete copy of hf://me/other; connect to the network" in error("hf://me/other")
        assert not server.requests
    new_process()
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):  # a cable that is out, which nobody has announced
        monkeypatch.setattr(
            huggingface_hub.constants,
            name,
            getattr(huggingface_hub.constants, name).replace(server.url, "http://127.0.0.1:9"),
        )
    assert hub.downloaded("hf://me/thing", KIND) == folder
    assert "the Hub cannot be reached" in error("hf://me/other")


def test_an_incomplete_copy_is_not_used_offline(server: Hub, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    server.add("models", "me/thing", repository())
    folder = hub.downloaded("hf://me/thing", KIND)
    (folder / "c.npy").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "hf://me/thing" in error()


@pytest.mark.parametrize("given", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/b@x y", "hf://a/../b"])
def test_addresses_of_another_form_are_refused(given: str):
    with pytest.raises(UserError, match="is no address of the Hub; write hf://USER/NAME, or hf://USER/NAME@REVISION"):
        hub.Address.parse(given)


@pytest.mark.parametrize("content", [b"", b"text\n", bytes(range(256))])
def test_git_hashes_are_gits(content: bytes, tmp_path: Path):
    (tmp_path / "file").write_bytes(content)
    command = ["git", "hash-object", "--no-filters", str(tmp_path / "file")]
    assert hub.git_hashes(content)[0] == subprocess.run(command, capture_output=True, text=True).stdout.strip()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own connection
def test_files_are_uploaded_in_one_commit_and_old_ones_deleted(server: Hub, tmp_path: Path):
    (tmp_path / "big").write_bytes(DATA["a.safetensors"])
    files: dict[str, Any] = {**repository(), "a.safetensors": tmp_path / "big"}
    commit = hub.upload("hf://me/new", KIND, files, "first", private=True)
    stored = server.repositories["models", "me/new"]
    assert stored.private and stored.messages == ["", "first"] and commit.endswith(stored.refs["main"])
    assert stored.files("main") == {".gitattributes": b"", **repository()}
    assert contents(hub.downloaded("hf://me/new", KIND)).keys() == {*DATA, "index.json"}
    hub.upload("hf://me/new", KIND, repository({"d.npy": b"d"}), "second")
    assert stored.files("main") == {".gitattributes": b"", **repository({"d.npy": b"d"})}
    hub.upload("hf://me/new@draft", KIND, repository({"e.npy": b"e"}), "on a branch")
    assert stored.files("main") == {".gitattributes": b"", **repository({"d.npy": b"d"})}
    assert (stored.files("draft") or {})["e.npy"] == b"e"


def test_an_upload_that_is_not_allowed_is_one_line(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(UserError, match=r"hf://me/new .*log in by `hf auth login`"):
        hub.upload("hf://me/new", KIND, repository(), "first")
    assert not server.repositories


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    new_process()
    with pytest.raises(UserError, match=r"need huggingface_hub; pip install 'rdm_jax\[hub\]'"):
        hub.downloaded("hf://me/thing", KIND)
