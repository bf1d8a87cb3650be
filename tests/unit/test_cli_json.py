"""What commands that change a running gateway say with --json: one JSON value on standard output, whatever comes of it."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace.cli import main

MOVE = {"model": "chat", "to": "vllm", "phase": "starting", "share": 0.0, "reason": "", "story": [], "over": False}
RELOAD = {"phase": "reading", "changes": [], "story": [], "over": False}


class Gateway(BaseHTTPRequestHandler):
    """Its admin API, as far as it goes here: something begins as soon as it is asked for, and never ends."""

    def do_GET(self) -> None:
        self._answer({"graduations": [], "reload": None})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"graduations": [MOVE], "reload": RELOAD})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing beside what the command says."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


SAID = [
    # nothing has happened there yet
    ("graduate --status", []),
    ("reload --status", None),
    # begun, and left
    ("graduate chat --to vllm --yes --detach", MOVE),
    ("reload --detach", RELOAD),
    # whoever was asked said no
    ("graduate chat --to vllm", None),
    ("drill chat", None),
]


@pytest.mark.parametrize(("command", "value"), SAID, ids=[command for command, _ in SAID])
def test_json_is_all_that_is_printed(
    gateway: str, command: str, value: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Tty("n\n"))
    monkeypatch.setattr("sys.stderr", Tty())
    assert main([*command.split(), "--json", "--url", gateway]) == 0
    assert json.loads(capsys.readouterr().out) == value
