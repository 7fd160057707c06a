"""Repositories of the Hugging Face Hub, hf://USER/NAME[@REVISION], by huggingface_hub: downloaded, checked, uploaded.

Of a repository only the files are downloaded that its manifest names with their SHA-256, into the library's own cache,
and they are compared with it there. A repository that was downloaded before needs no network. Pickles are never
downloaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rdm_jax.core import files, storage, text
from rdm_jax.core.errors import UserError, first_line, some

_LOG = logging.getLogger(__name__)

SCHEME = "hf://"
FORM = "hf://USER/NAME, or hf://USER/NAME@REVISION for a branch, a tag or a commit"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
_ADDRESS = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@([^\s@:]+))?/?")
_AGAIN = "run the same command again, which keeps the files that are complete"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a repository holds.

    Attributes:
      noun: the name of it in messages.
      repository: the Hub's type, "model" or "dataset".
      manifest: the file that names the others.
      hashes: from the manifest's content to {path: SHA-256} of the files that are needed; raises LookupError, TypeError
        or AttributeError where that is no manifest of this kind.
    """

    noun: str
    repository: str
    manifest: str
    hashes: Callable[[Any], Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Address:
    """A repository, and a revision of it.

    Attributes:
      repository: such as "user/name".
      revision: a branch, a tag or a commit; None for the newest one.
    """

    repository: str
    revision: str | None

    @staticmethod
    def parse(given: str) -> Address:
        """Returns the parts of an address; raises UserError if it is none."""
        match = _ADDRESS.fullmatch(given)
        if match is None:
            raise UserError(f"{given} is no address of the Hub; write {FORM}")
        return Address(match[1], match[2])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_address(place: str | Path) -> bool:
    """Returns whether a place is a repository of the Hub."""
    return str(place).startswith(SCHEME)


@functools.cache
def downloaded(given: str, kind: Kind) -> Path:
    """Returns the local folder of a repository, complete and checked; within a process each address is resolved once.

    Args:
      given: the address.
      kind: what the repository must hold.

    Raises:
      UserError: it is no address, no such repository or revision exists, it is no such kind, its files differ from
        their hashes, the Hub cannot be reached and the cache lacks a file, or huggingface_hub is missing.
    """
    address = Address.parse(given)
    folder, listed = _manifest(address, kind)
    expected = _expected(address, kind, folder / kind.manifest, listed)
    checked = storage.cache_folder() / "hub" / files.sha256_json([kind.repository, address.repository, folder.name])
    if checked.is_file() and all((folder / name).is_file() for name in expected):
        return folder
    _LOG.info("downloading %s: %d files", address, len(expected))
    with _answers(address, kind):
        _snapshot(address.repository, folder.name, kind, sorted(expected))
    for name, digest in expected.items():
        if files.sha256(folder / name) != digest:
            raise _damaged(address, folder / name, f"the SHA-256 of {name} is not the one in its {kind.manifest}")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        checked.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(checked, str(address).encode())
    return folder


def upload(given: str, kind: Kind, contents: Mapping[str, Path | bytes], message: str, private: bool = False) -> str:
    """Uploads files to a repository in one commit, and returns the commit's address.

    The repository, and a branch of the address, are created where they are missing. Files of an earlier push that the
    new one lacks are deleted in the same commit; other files stay.

    Args:
      given: the address of the repository.
      kind: what the files are.
      contents: {path: file or its bytes}, the manifest among them.
      message: of the commit.
      private: whether a new repository is visible to its owner alone.

    Raises:
      UserError: it is no address, the Hub cannot be reached or refuses, or huggingface_hub is missing.
    """
    library, address = _library(), Address.parse(given)
    api, place = library.HfApi(library_name="rdm_jax"), {"repo_id": address.repository, "repo_type": kind.repository}
    with _answers(address, kind):
        api.create_repo(**place, private=private, exist_ok=True)
        if address.revision:
            api.create_branch(**place, branch=address.revision, exist_ok=True)
        present = api.list_repo_files(**place, revision=address.revision)
        stale = [name for name in _earlier(library, place, address.revision, kind, present) if name not in contents]
        operations = [library.CommitOperationAdd(name, _readable(content)) for name, content in contents.items()]
        operations += [library.CommitOperationDelete(name) for name in stale]
        commit = api.create_commit(**place, operations=operations, commit_message=message, revision=address.revision)
    return str(commit.commit_url)


def _library() -> Any:
    try:
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise UserError(f"{SCHEME} addresses need huggingface_hub; pip install 'rdm_jax[hub]'") from error
    return huggingface_hub


def _manifest(address: Address, kind: Kind) -> tuple[Path, Mapping[str, str]]:
    """Returns the folder of a repository with its manifest alone, and {path: git's hash} of all of its files.

    The library resolves the revision: at the Hub or, where that cannot be reached, in its cache.
    """
    library = _library()
    with _answers(address, kind):
        folder = _snapshot(address.repository, address.revision, kind, [kind.manifest], quiet=True)
        where = {"repo_type": kind.repository, "revision": folder.name}
        listed = library.get_cached_repo_tree(address.repository, **where)
    return folder, {one.path: one.blob_id for one in listed}


def _snapshot(repository: str, revision: str | None, kind: Kind, names: Sequence[str], quiet: bool = False) -> Path:
    """Returns the folder of a revision in the library's cache, with these files of it that exist."""
    library = _library()
    shown = {"tqdm_class": _silent(library)} if quiet else {}
    place = {"repo_type": kind.repository, "revision": revision, "library_name": "rdm_jax"}
    return Path(library.snapshot_download(repository, **place, allow_patterns=list(names), **shown))


def _silent(library: Any) -> type:
    """Returns the library's progress bar, which shows nothing."""
    bar: Any = library.utils.tqdm
    return type("Silent", (bar,), {"__init__": lambda self, *a, **k: bar.__init__(self, *a, **{**k, "disable": True})})


def _expected(address: Address, kind: Kind, manifest: Path, listed: Mapping[str, str]) -> Mapping[str, str]:
    """Returns {path: SHA-256} of the files of a repository that are needed.

    Args:
      address: of the repository.
      kind: of it.
      manifest: its local copy, which may not exist.
      listed: {path: git's hash} of all files of the repository.

    Raises:
      UserError: the manifest is missing, damaged or of another kind, or it names a file that is missing, or a pickle.
    """
    if kind.manifest not in listed or not manifest.is_file():
        raise _no_manifest(address, kind, listed)
    if listed[kind.manifest] not in git_hashes(manifest.read_bytes()):
        raise _damaged(address, manifest, f"{kind.manifest} is not what the Hub lists")
    try:
        expected = dict(kind.hashes(text.read_json(manifest)))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _no_manifest(address, kind, listed) from error
    missing = [name for name in expected if name not in listed]
    if missing or any(_is_pickle(name) for name in expected):
        if any(map(_is_pickle, listed)):
            raise _no_manifest(address, kind, listed)
        raise UserError(f"{address} lacks {some(missing)}, which its {kind.manifest} names; ask whoever shared it")
    return expected


def _no_manifest(address: Address, kind: Kind, listed: Mapping[str, str]) -> UserError:
    pickles = [name for name in listed if _is_pickle(name)]
    if pickles:
        return UserError(
            f"{address} holds {some(pickles, 3)} in place of a {kind.noun}, and pickles are never loaded; download it "
            "and convert it by `rdm convert`"
        )
    return UserError(
        f"{address} holds no {kind.noun} of rdm_jax ({kind.manifest} with the hashes of its files); check the address, "
        "or convert the weights of another program by `rdm convert`"
    )


def _damaged(address: Address, copy: Path, reason: str) -> UserError:
    """Removes a copy from the library's cache, and returns the error."""
    blob = Path(os.path.realpath(copy))
    for path in (copy, blob):
        path.unlink(missing_ok=True)
    return UserError(
        f"{address}: {reason}; the copy is removed. Run the same command again, and ask whoever shared it if it fails"
    )


def git_hashes(content: bytes) -> tuple[str, str]:
    """Returns the hashes by which git lists a file: of its content, and of the pointer to it in large file storage."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
    stored = (pointer % (hashlib.sha256(content).hexdigest(), len(content))).encode()
    first, second = (hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for data in (content, stored))
    return first, second


def _is_pickle(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICKLES


def _readable(content: Path | bytes) -> str | bytes:
    return content if isinstance(content, bytes) else str(content.resolve())


def _earlier(
    library: Any, place: Mapping[str, str], revision: str | None, kind: Kind, present: Sequence[str]
) -> Sequence[str]:
    """Returns the files of an earlier push that are still in a repository, by its manifest there."""
    if kind.manifest not in present:
        return []
    file = library.hf_hub_download(**place, filename=kind.manifest, revision=revision)
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
        return [name for name in kind.hashes(text.read_json(Path(file))) if name in present]
    return []


@contextlib.contextmanager
def _answers(address: Address, kind: Kind) -> Iterator[None]:
    """Raises UserError, with what to do, for the errors of the Hub, of the connection and of the library's cache."""
    errors = _library().errors
    try:
        yield
    except (UserError, MemoryError):
        raise
    except errors.GatedRepoError as error:
        raise UserError(f"{address} is gated: ask for access on its page, and log in by `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"the Hub has no {kind.repository} repository {address.repository} for you; check the name, or log "
            "in by `hf auth login` if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{SCHEME}{address.repository} has no revision {address.revision!r}; check it, or omit it"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"the Hub cannot be reached, and the cache has no complete copy of {address}; connect to the network and "
            f"{_AGAIN}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise UserError(
            f"the Hub refuses {address} ({first_line(error)}); log in by `hf auth login`, or wait"
        ) from error
    except Exception as error:  # the libraries for connections, locks and disks have errors of their own
        raise UserError(f"{address}: the transfer broke off ({first_line(error)}); {_AGAIN}") from error
