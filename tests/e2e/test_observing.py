"""A real `headrace serve` as an operator sees it: its access log, rotated; who stopped a model; what is left when it stops."""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .conftest import Served, eventually

ANSWER = {"choices": [{"message": {"role": "assistant", "content": "Hi"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
KEY = "0123456789abcdef0123"


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._say({"data": [{"id": "there"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(ANSWER)

    def _say(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[str]:
    """The address of a server that runs already."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asked(served: Served, path: str, body: bytes | None = None) -> Any:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(served.url + path, body, headers), timeout=20) as answer:
        return json.load(answer)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_an_operator_finds_every_request_and_who_stopped_a_model(
    serve: Callable[..., Served], engine: str, tmp_path: Path
) -> None:
    yaml = f"models: {{remote: {{url: {engine}}}}}\ngateway: {{log: access.jsonl, keys: env:KEYS}}\n"
    cache, log = tmp_path / "cache", tmp_path / "access.jsonl"
    served = serve(yaml=yaml, environment={"KEYS": f"admin={KEY}", "HEADRACE_CACHE": str(cache)})
    chat = json.dumps({"model": "remote", "messages": [{"role": "user", "content": "a secret"}]}).encode()
    assert asked(served, "/v1/chat/completions", chat)["choices"]
    entry = eventually(lambda: [one for one in lines(log) if one["model"]], "the request is in the log beside the file")[0]
    assert (entry["key"], entry["replica"], entry["end"], entry["tokens_out"]) == ("admin", "remote-1", "done", 2)

    os.rename(log, tmp_path / "access.jsonl.1")
    served.process.send_signal(signal.SIGUSR1)
    eventually(log.exists, "asked to, it begins a new file")

    asked(served, "/admin/wanted", b"model=remote&want=stopped")
    sentence = "remote: stopped by admin until it is started again"
    eventually(lambda: sentence in str(asked(served, "/admin/decisions")), "the decision names the key")
    (act,) = eventually(lambda: lines(cache / "audit.jsonl"), "the act is on record")
    assert (act["by"], act["action"], act["what"]["model"], act["outcome"]) == ("admin", "stop", "remote", "accepted")

    served.process.send_signal(signal.SIGTERM)
    assert served.end() == 0
    assert [one["path"] for one in lines(log)].count("/admin/wanted") == 1, "what was not written yet is, at the end"
    for file in (log, tmp_path / "access.jsonl.1", cache / "audit.jsonl"):
        assert file.stat().st_mode & 0o077 == 0
        assert "a secret" not in file.read_text()
        assert KEY not in file.read_text()
