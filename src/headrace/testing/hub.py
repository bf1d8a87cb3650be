"""A small Hugging Face hub on loopback, for tests: what huggingface_hub asks, and failures on demand.

    with FakeHub() as hub:
        hub.add("org/model-GGUF", {"model-Q4_K_M.gguf": data})
        hub.cut_after = 1000  # the next download breaks after 1000 bytes
        Cache(root, endpoint=hub.url).fetch(parse("hf:org/model-GGUF"), print)

It also serves plain files (`hub.files`, by path) and redirects, so it stands in for a package index or any web server.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

_LARGE = 1000
"""Files from this size on are listed as large ones (LFS), with a sha256; the real hub decides by .gitattributes."""

_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """One repository: `files` by name at each commit, and `refs` (branches, tags) to commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    """Needs a token: anyone else gets 401."""


@dataclass(frozen=True)
class Answer:
    """What to send: `body` is sent as a whole or by the range that was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class FakeHub:
    """The server; use it as a context manager. Its attributes may be changed while it runs."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.files: dict[str, tuple[str, bytes]] = {}
        """Plain files: path to (content type, body)."""
        self.redirects: dict[str, str] = {}
        """Path to the URL that it redirects to."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """(method, path, headers in lower case) of every request, in order."""
        self.cut_after: int | None = None
        """Break the next download after so many bytes, once."""
        self.failures: list[int] = []
        """Statuses to answer the next requests with, instead of what they ask for."""
        self.ranges = True
        """Whether ranges are served; if not, the whole file is."""
        self.token = "hf_test"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, name: str, files: Mapping[str, bytes], *, branch: str = "main", gated: bool = False) -> str:
        """Put a commit with `files` at the head of a branch; returns the commit."""
        repository = self.repositories.setdefault(name, Repository())
        repository.gated = gated
        text = repr((name, sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())))
        commit = hashlib.sha1(text.encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[branch] = commit
        return commit

    def downloads(self, ending: str = "") -> int:
        """How many GETs of files there were whose path ends so."""
        return sum(
            method == "GET" and path.endswith(ending) and not path.startswith("/api/") for method, path, _ in self.requests
        )

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, target: str, headers: Mapping[str, str]) -> Answer:
        """What the hub says to a GET of `target` (a HEAD gets the same without the body)."""
        if self.failures:
            return Answer(self.failures.pop(0), {})
        path = unquote(urlsplit(target).path)
        if path in self.redirects:
            return Answer(302, {"Location": self.redirects[path]})
        if path in self.files:
            kind, body = self.files[path]
            return Answer(200, {"Content-Type": kind, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}, body)
        for pattern, reply in ((_TREE, self._tree), (_INFO, self._info), (_FILE, self._file)):
            if match := pattern.fullmatch(path):
                return self._guarded(match, headers) or reply(*match.groups())
        return _refusal(404, "EntryNotFound", "Not found")

    def _guarded(self, match: re.Match[str], headers: Mapping[str, str]) -> Answer | None:
        """Refusals as the real hub words them: unknown repositories look like private ones."""
        repository = self.repositories.get(match[1])
        if repository is None:
            return _refusal(401, "RepoNotFound", "Repository not found")
        allowed = headers.get("authorization") == f"Bearer {self.token}"
        if repository.gated and not allowed and match.re is _FILE:
            return _refusal(401, "GatedRepo", f"Access to model {match[1]} is restricted.")
        if self._commit(match[1], match[2]) is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {match[2]}")
        return None

    def _commit(self, name: str, revision: str | None) -> str | None:
        repository = self.repositories[name]
        revision = revision or "main"
        return revision if revision in repository.commits else repository.refs.get(revision)

    def _found(self, name: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        commit = self._commit(name, revision)
        assert commit is not None, "guarded"
        return commit, self.repositories[name].commits[commit]

    def _info(self, name: str, revision: str | None) -> Answer:
        commit, files = self._found(name, revision)
        siblings = [{"rfilename": path, **_described(data)} for path, data in files.items()]
        gated = "auto" if self.repositories[name].gated else False
        return _json({"id": name, "modelId": name, "sha": commit, "private": False, "gated": gated, "siblings": siblings})

    def _tree(self, name: str, revision: str) -> Answer:
        files = self._found(name, revision)[1]
        return _json([{"type": "file", "path": path, "oid": _git(data), **_described(data)} for path, data in files.items()])

    def _file(self, name: str, revision: str, path: str) -> Answer:
        commit, files = self._found(name, revision)
        if path not in files:
            return _refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        data = files[path]
        etag = hashlib.sha256(data).hexdigest() if len(data) >= _LARGE else _git(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(data) >= _LARGE:
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{etag}"'}
        return Answer(200, headers, data)


def _described(data: bytes) -> dict[str, Any]:
    small = {"size": len(data), "blobId": _git(data)}
    if len(data) < _LARGE:
        return small
    digest = hashlib.sha256(data).hexdigest()
    return small | {"lfs": {"sha256": digest, "oid": digest, "size": len(data), "pointerSize": 134}}


def _git(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def _json(value: object) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())


def _refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps({"error": message}).encode()
    return Answer(status, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}, body)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            hub.requests.append((self.command, unquote(urlsplit(self.path).path), headers))
            self._send(_ranged(hub.answer(self.path, headers), headers if hub.ranges else {}))

        do_HEAD = do_GET

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "GET":
                with suppress(ConnectionError):  # a client that does not like the headers leaves
                    self._body(answer)

        def _body(self, answer: Answer) -> None:
            cut = hub.cut_after if "ETag" in answer.headers else None
            if cut is None:
                self.wfile.write(answer.body)
                return
            hub.cut_after = None
            self.wfile.write(answer.body[:cut])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: `hub.requests` has it."""

    return Handler


def _ranged(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """`answer` by the Range and If-Range that were asked for."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
    if answer.status != 200 or not match:
        return answer
    if headers.get("if-range", answer.headers.get("ETag")) != answer.headers.get("ETag"):
        return answer
    size, start = len(answer.body), int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if start >= size:
        return Answer(416, {"Content-Range": f"bytes */{size}"})
    return Answer(206, {**answer.headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"}, answer.body[start:end])
