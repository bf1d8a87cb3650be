"""A model that is stopped for a tune is given back however the tune ends."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from headrace.errors import HeadraceError, UsageError
from headrace.tune.instead import restore, running, served, stopped, taken_bytes
from headrace.tune.store import Stopped


class Gateway:
    """The three paths that a tune asks, with one model."""

    def __init__(self) -> None:
        self.wants: list[str] = []
        self.refuses = False
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                replicas = [] if gateway.wants[-1:] == ["stopped"] else [{"memory_bytes": 500}]
                self._reply(200, {"models": [{"name": "chat", "replicas": replicas}]})

            def do_POST(self) -> None:
                fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                assert (self.path, fields["model"]) == ("/admin/wanted", ["chat"])
                if gateway.refuses:
                    self._reply(400, {"error": {"message": "not now", "source": "gateway"}})
                else:
                    gateway.wants += fields["want"]
                    self._reply(200, {})

            def _reply(self, status: int, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.close()


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, HeadraceError])
def test_it_is_given_back_however_the_tune_ends(gateway: Gateway, tmp_path: Path, end: type[BaseException] | None) -> None:
    kept = Stopped(tmp_path)
    assert taken_bytes(served(gateway.url)) == {"chat": 500}

    def tune() -> None:
        with stopped(gateway.url, "chat", kept, lambda said: None):
            assert gateway.wants == ["stopped"]
            assert kept.read() == (gateway.url, "chat")
            if end is not None:
                raise end("x")

    if end is None:
        tune()
    else:
        with pytest.raises(end):
            tune()
    assert gateway.wants == ["stopped", "auto"]
    assert kept.read() is None


def test_what_a_killed_tune_had_stopped_is_given_back_by_the_next(gateway: Gateway, tmp_path: Path) -> None:
    Stopped(tmp_path).write(gateway.url, "chat")
    told: list[str] = []
    restore(Stopped(tmp_path), told.append)
    assert gateway.wants == ["auto"]
    assert "chat runs again" in told[0]
    restore(Stopped(tmp_path), told.append)
    assert len(told) == 1


def test_a_gateway_that_is_gone_needs_nothing_given_back_and_that_is_said(gateway: Gateway, tmp_path: Path) -> None:
    kept, told = Stopped(tmp_path), list[str]()
    kept.write(gateway.url, "chat")
    gateway.close()
    restore(kept, told.append)
    assert "No gateway answers" in told[0]
    assert kept.read() is None
    assert running(gateway.url, "chat") is None


def test_a_gateway_that_refuses_is_asked_again_by_the_next(gateway: Gateway, tmp_path: Path) -> None:
    kept, told = Stopped(tmp_path), list[str]()
    kept.write(gateway.url, "chat")
    gateway.refuses = True
    restore(kept, told.append)
    assert "not now" in told[0]
    assert kept.read() is not None


def test_what_does_not_run_cannot_be_stopped(gateway: Gateway, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"no gateway at .* serves other"),
        stopped(gateway.url, "other", Stopped(tmp_path), print),
    ):
        pass
    gateway.wants.append("stopped")  # by an administrator: it stays so
    with stopped(gateway.url, "chat", Stopped(tmp_path), lambda said: None):
        pass
    assert gateway.wants == ["stopped"]
