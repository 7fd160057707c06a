"""A stand-in for the Hugging Face Hub on loopback: what huggingface_hub requests, with faults on request."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rdm_jax.core.hub import git_hashes

LARGE = (".safetensors", ".npy", ".array_record", ".parquet", ".bin", ".ckpt", ".pt")
TOKEN = "hf_stand_in"

Files = dict[str, bytes]


@dataclasses.dataclass
class Repository:
    """The commits of a repository, and what its branches and tags name."""

    commits: dict[str, Files] = dataclasses.field(default_factory=dict)
    refs: dict[str, str] = dataclasses.field(default_factory=dict)
    messages: list[str] = dataclasses.field(default_factory=list)
    private: bool = False

    def commit(self, files: Mapping[str, bytes], revision: str = "main", message: str = "") -> str:
        """Adds a commit with these files, and returns its hash."""
        content = json.dumps([len(self.commits), {name: git_hashes(data)[0] for name, data in files.items()}])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha], self.refs[revision] = dict(files), sha
        self.messages.append(message)
        return sha

    def files(self, revision: str) -> Files | None:
        """Returns the files of a revision, None if there is none."""
        return self.commits.get(self.refs.get(revision, revision))


@dataclasses.dataclass
class Hub:
    """The state of the server.

    Attributes:
      url: of the server.
      repositories: by (type, name).
      requests: (method, path, range) of all requests.
      breaks: {file: numbers of bytes after which its next downloads break off}.
      replaced: {file: bytes that are sent in place of its own}.
    """

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = dataclasses.field(default_factory=dict)
    requests: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    breaks: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    replaced: dict[str, bytes] = dataclasses.field(default_factory=dict)
    objects: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def add(self, kind: str, name: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Adds a commit to a repository, and returns its hash."""
        return self.repositories.setdefault((kind, name), Repository()).commit(files, revision)

    def downloads(self) -> list[tuple[str, str]]:
        """Returns (file, range) of all downloads."""
        got = [(path, wanted) for method, path, wanted in self.requests if method == "GET" and "/resolve/" in path]
        return [(path.partition("/resolve/")[2].partition("/")[2], wanted) for path, wanted in got]


def folder_files(folder: Path) -> Files:
    """Returns the files of a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serves an empty Hub on a free port of loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        """Answers about a file."""
        self._answer()

    def do_GET(self) -> None:
        """Answers about repositories, and sends files."""
        self._answer()

    def do_POST(self) -> None:
        """Takes commits."""
        self._answer()

    def do_PUT(self) -> None:
        """Takes a large file."""
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        body = self._body()
        # Large files are put to signed addresses, without a token.
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        for method, pattern, act in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return act(self, body, **match.groupdict())
        return self._json({"error": f"no route for {self.command} {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _files(self, kind: str, name: str, revision: str | None) -> tuple[Repository, str, Files] | None:
        """Returns a repository, the hash of a revision and its files, or answers that there is none."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            self._json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        files = repository.files(revision or "main")
        if files is None:
            self._json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            return None
        return repository, repository.refs.get(revision or "main", revision or ""), files

    def _info(self, body: bytes, kind: str, name: str, revision: str | None = None) -> None:
        found = self._files(kind, name, revision)
        if found:
            siblings = [{"rfilename": path} for path in found[2]]
            self._json({"id": name, "sha": found[1], "private": found[0].private, "siblings": siblings})

    def _tree(self, body: bytes, kind: str, name: str, revision: str) -> None:
        found = self._files(kind, name, revision)
        if found:
            self._json([_entry(path, data) for path, data in found[2].items()])

    def _resolve(self, body: bytes, name: str, revision: str, file: str, kind: str | None = None) -> None:
        found = self._files((kind or "models"), name, revision)
        if not found:
            return
        _, sha, files = found
        if file not in files:
            return self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        data = self.hub.replaced.get(file, files[file])
        start = int(re.sub(r"\D", "", self.headers.get("Range", "") or "0"))
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", sha)
        entry = _entry(file, files[file])
        self.send_header("ETag", f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        breaks = self.hub.breaks.get(file)
        if breaks:
            self.wfile.write(data[start : start + breaks.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(data[start:])

    def _create(self, body: bytes) -> None:
        wanted = json.loads(body)
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        prefix = "" if kind == "models" else f"{kind}/"
        if (kind, name) in self.hub.repositories:
            return self._json({"url": f"{self.hub.url}/{prefix}{name}", "error": "exists"}, 409)
        self.hub.repositories[kind, name] = Repository(private=wanted.get("visibility") == "private")
        self.hub.repositories[kind, name].commit({".gitattributes": b""})
        self._json({"url": f"{self.hub.url}/{prefix}{name}", "name": name})

    def _branch(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repository = self.hub.repositories[kind, name]
        if revision in repository.refs:
            return self._json({"error": "Reference already exists"}, 409)
        repository.refs[revision] = repository.refs["main"]
        self._json({})

    def _preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        found = self._files(kind, name, revision)
        if found:
            wanted = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular"} for f in wanted
            ]
            self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def _batch(self, body: bytes, name: str, kind: str | None = None) -> None:
        objects = json.loads(body)["objects"]
        actions = [{"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}} for one in objects]
        answers = [{**one, "actions": action} for one, action in zip(objects, actions, strict=True)]
        new = [
            one if one["oid"] not in self.hub.objects else {"oid": one["oid"], "size": one["size"]} for one in answers
        ]
        self._json({"transfer": "basic", "objects": new})

    def _put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._json({})

    def _commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        found = self._files(kind, name, revision)
        if not found:
            return
        repository, _, files = found
        files, message = dict(files), ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, revision, message)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})

    def _yaml(self, body: bytes) -> None:
        valid = json.loads(body)["content"].startswith("---\n")
        errors = [] if valid else [{"message": "empty or missing yaml metadata in repo card"}]
        self._json({"errors": errors, "warnings": []}, 200 if valid else 400)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """Returns a file as the Hub lists it."""
    plain, pointer = git_hashes(data)
    entry = {"type": "file", "path": path, "size": len(data), "oid": plain}
    if path.endswith(LARGE):
        lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        entry |= {"oid": pointer, "lfs": lfs}
    return entry


_PLACE = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>.+)"
_ROUTES = (
    (("GET",), _PLACE, _Handler._info),
    (("GET",), rf"{_PLACE}/revision/{_REVISION}", _Handler._info),
    (("GET",), rf"{_PLACE}/tree/(?P<revision>[^/]+)", _Handler._tree),
    (("POST",), rf"{_PLACE}/preupload/{_REVISION}", _Handler._preupload),
    (("POST",), rf"{_PLACE}/commit/{_REVISION}", _Handler._commit),
    (("POST",), rf"{_PLACE}/branch/{_REVISION}", _Handler._branch),
    (("POST",), r"/api/repos/create", _Handler._create),
    (("POST",), r"/api/validate-yaml", _Handler._yaml),
    (("POST",), r"(?:/(?P<kind>datasets))?/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler._batch),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler._put),
    (
        ("GET", "HEAD"),
        r"(?:/(?P<kind>datasets))?/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
        _Handler._resolve,
    ),
)
