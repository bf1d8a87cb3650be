"""A model that is stopped for a tune is given back however the tune ends."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from urllib.parse import parse_qs

import pytest

from headrace.control.loop import Loop
from headrace.control.wishes import Wish
from headrace.errors import HeadraceError, UsageError
from headrace.serve import View
from headrace.tune import instead
from headrace.tune.instead import restore, running, served, stopped, taken_bytes
from headrace.tune.store import Left, Stopped


class Gateway:
    """The paths that a tune asks, with one model. What is asked for is heard after the next look at the status, and told as the
    reason after one more.
    """

    def __init__(self) -> None:
        self.wish, self.by = "auto", ""
        self.wants: list[str] = []
        self.allowed = {"auto", "1", "2", "asleep", "stopped"}
        self.at_zero = False
        """It follows the load, and there is none."""
        self._unheard: list[str] = []
        self.tell()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(200, {"models": [gateway.row()]})
                gateway.tell()
                if gateway._unheard:
                    gateway.wish, gateway.by = gateway._unheard.pop(), "tune"

            def do_POST(self) -> None:
                fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                assert (self.path, fields["model"]) == ("/admin/wanted", ["chat"])
                if not gateway.allowed.issuperset(fields["want"]):
                    self._reply(400, {"error": {"message": "not now", "source": "gateway"}})
                else:
                    gateway.wants += fields["want"]
                    gateway._unheard += fields["want"]
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

    def wishes(self, wish: str, by: str) -> None:
        """An administrator wishes it, and it is so."""
        self.wish, self.by = wish, by
        self.tell()

    def tell(self) -> None:
        self.phase, self.reason = ("failed", f"stopped by {self.by}") if self.wish == "stopped" else ("ready", "it answers")

    def row(self) -> dict[str, object]:
        replicas = [] if self.wish in ("stopped", "asleep") or self.at_zero else [{"memory_bytes": 500}]
        return {"name": "chat", "wish": self.wish, "phase": self.phase, "reason": self.reason, "replicas": replicas}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(instead, "_POLL_SECONDS", 0.0)
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
            assert gateway.wish == "stopped"
            assert kept.read() == Left(gateway.url, "chat", "auto", "stopped by tune")
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
    Stopped(tmp_path).write(Left(gateway.url, "chat"))
    gateway.wishes("stopped", "tune")
    told: list[str] = []
    restore(Stopped(tmp_path), told.append)
    assert gateway.wants == ["auto"]
    assert gateway.wish == "auto", "a tune that follows does not find it stopped"
    assert "chat runs again" in told[0]
    restore(Stopped(tmp_path), told.append)
    assert len(told) == 1


def test_a_gateway_that_is_gone_needs_nothing_given_back_and_that_is_said(gateway: Gateway, tmp_path: Path) -> None:
    kept, told = Stopped(tmp_path), list[str]()
    kept.write(Left(gateway.url, "chat"))
    gateway.close()
    restore(kept, told.append)
    assert "No gateway answers" in told[0]
    assert kept.read() is None
    assert running(gateway.url, "chat") is None


def test_a_gateway_that_refuses_is_asked_again_by_the_next(gateway: Gateway, tmp_path: Path) -> None:
    kept, told = Stopped(tmp_path), list[str]()
    kept.write(Left(gateway.url, "chat", "2"))
    gateway.allowed = set()
    restore(kept, told.append)
    assert "not now" in told[0]
    assert kept.read() is not None


def test_what_does_not_run_cannot_be_stopped(gateway: Gateway, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"no gateway at .* serves other"),
        stopped(gateway.url, "other", Stopped(tmp_path), print),
    ):
        pass


def test_what_is_served_tells_wishes_as_they_are_asked_for() -> None:
    view = View()
    assert view.wants == {}
    view.loop = cast("Loop", SimpleNamespace(wishes={"chat": Wish("chat", "2", "boss")}))
    assert view.wants == {"chat": "2"}


def test_what_an_administrator_has_stopped_stays_so(gateway: Gateway, tmp_path: Path) -> None:
    gateway.wishes("stopped", "boss")
    told: list[str] = []
    with stopped(gateway.url, "chat", Stopped(tmp_path), told.append):
        assert "is stopped already" in told[0]
    assert (gateway.wants, gateway.wish) == ([], "stopped")


def test_a_model_at_zero_is_stopped_as_well_or_a_request_would_start_it(gateway: Gateway, tmp_path: Path) -> None:
    gateway.at_zero = True
    with stopped(gateway.url, "chat", Stopped(tmp_path), lambda said: None):
        assert gateway.wish == "stopped"
    assert gateway.wants == ["stopped", "auto"]


@pytest.mark.parametrize(("wish", "words"), [("2", "is held at 2 again"), ("asleep", "may be woken again")])
def test_what_an_administrator_had_wished_is_given_back(gateway: Gateway, tmp_path: Path, wish: str, words: str) -> None:
    gateway.wishes(wish, "boss")
    told: list[str] = []
    with stopped(gateway.url, "chat", Stopped(tmp_path), told.append):
        pass
    assert gateway.wants == ["stopped", wish]
    assert words in told[-1]


@pytest.mark.parametrize("wish", ["stopped", "1", "asleep"])
def test_what_another_administrator_wishes_meanwhile_stays(gateway: Gateway, tmp_path: Path, wish: str) -> None:
    gateway.wishes("2", "boss")
    told: list[str] = []
    with stopped(gateway.url, "chat", Stopped(tmp_path), told.append):
        gateway.wishes(wish, "boss")
    assert (gateway.wants, gateway.wish, gateway.by) == (["stopped"], wish, "boss")
    assert f"what is asked of it by now stays ({wish})" in told[-1]
    assert Stopped(tmp_path).read() is None


def test_a_wish_that_the_file_does_not_allow_any_more_is_forgotten(gateway: Gateway, tmp_path: Path) -> None:
    gateway.wishes("2", "boss")
    with stopped(gateway.url, "chat", Stopped(tmp_path), lambda said: None):
        gateway.allowed = {"auto", "stopped"}
    assert gateway.wants == ["stopped", "auto"]


def test_what_the_gateway_refuses_to_stop_is_not_given_back(gateway: Gateway, tmp_path: Path) -> None:
    gateway.allowed = {"auto"}
    with pytest.raises(HeadraceError, match="not now"), stopped(gateway.url, "chat", Stopped(tmp_path), print):
        pass
    assert gateway.wants == []
    assert Stopped(tmp_path).read() is None
