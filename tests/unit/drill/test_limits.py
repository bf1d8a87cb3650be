"""Every wait of a drill has a limit, and the report says which was reached: against a gateway on which nothing ends."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.drill.base import Report, Wish
from headrace.drill.killing import kill
from headrace.drill.run import drill

STORY = [{"at": 0.0, "said": "chat loads"}]


class Stuck(ThreadingHTTPServer):
    """Answers at once, or never where `silent`; its reloads and graduations stay where they are, except that they go back."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, served: Path, *, silent: bool = False) -> None:
        self.served, self.silent, self.over = served, silent, threading.Event()
        self.files: list[str] = []
        self.phase = "starting"
        self.replicas: list[dict[str, Any]] = []
        self.hangs_up = False
        """Whether it drops the connection of who asks for a number of replicas."""
        super().__init__(("127.0.0.1", 0), _Answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def page(self, path: str) -> Any:
        model = {"name": "chat", "task": "generate", "replicas": self.replicas, "context": 512}
        over = self.phase == "rolled back"
        return {
            "/admin/status": {"served": str(self.served), "models": [{**model, "planned": {"engine": "llamacpp", "most": 2}}]},
            "/admin/reload": {"reload": {"over": False, "phase": "changing", "story": STORY, "changes": [], "error": ""}},
            "/admin/graduations": {"graduations": [{"model": "chat", "over": over, "phase": self.phase, "reason": "asked"}]},
        }.get(path, {"choices": []})


class _Answers(BaseHTTPRequestHandler):
    server: Stuck

    def do_GET(self) -> None:
        self._say(self.server.page(self.path))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/admin/wanted" and self.server.hangs_up:
            return
        if self.path.startswith("/v1/") and self.server.silent:
            self.server.over.wait(30)
        if self.path == "/admin/reload":
            self.server.files.append(Path(json.loads(body)["file"]).name)
        if self.path == "/admin/graduations/abort":
            self.server.phase = "rolled back"
        self._say(self.server.page(self.path))

    def _say(self, value: Any) -> None:
        stream = self.path.startswith("/v1/")
        body = b'data: {"choices": []}\n\ndata: [DONE]\n\n' if stream else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Stuck]:
    (tmp_path / "headrace.yaml").write_text("models: {}\n")
    server = Stuck(tmp_path / "headrace.yaml")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def drilled(server: Stuck, **wish: Any) -> Report:
    calm: dict[str, Any] = {"kills": 0, "scale": False, "patience_seconds": 0.4}
    return drill(server.url, Wish("chat", 6, 1, 8, **(calm | wish)), lambda said: None)


def test_a_reload_that_never_comes_true_ends_the_step_and_the_served_file_is_asked_for_again(stuck: Stuck) -> None:
    report = drilled(stuck, reload=str(stuck.served.with_name("other.yaml")))
    assert report.undone == ["reload: headrace.yaml was not in force within 400ms: it is changing (chat loads)"]
    assert stuck.files == ["other.yaml", "headrace.yaml"]
    assert "Not done, so not proven: reload: headrace.yaml was not in force" in report.summary()


def test_a_graduation_without_an_end_is_asked_to_go_back(stuck: Stuck) -> None:
    report = drilled(stuck, graduate="openvino")
    (said,) = report.undone
    assert said == (
        "graduate: graduates to openvino: not over within 400ms, it stands at starting; asked to go back, and it is rolled back"
    )


def test_requests_without_an_end_end_the_drill_and_are_dropped(stuck: Stuck) -> None:
    stuck.silent = True
    report = drilled(stuck)
    assert [(one.end, one.words) for one in report.asked] == [("dropped", "no end within 400ms")]
    assert report.undone == ["the rest of 6 requests: none ended within 400ms"]


def test_nothing_is_waited_for_where_everything_ends(stuck: Stuck) -> None:
    stuck.phase = "done"
    report = drilled(stuck)
    assert report.undone == []
    assert len(report.asked) >= 6


def test_a_gateway_that_hangs_up_costs_the_step_and_not_the_report(stuck: Stuck) -> None:
    stuck.hangs_up = True
    report = drilled(stuck, scale=True)
    assert report.undone == ["scale: RemoteDisconnected: Remote end closed connection without response"]
    assert len(report.asked) >= 6


@pytest.fixture
def sleepers() -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A child of ours, who listen as the gateway does, and a child of that."""
    argv = [sys.executable, "-c", "import subprocess as s; s.run(['sleep', '600'])"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as child:
        process = psutil.Process(child.pid)
        while not process.children():
            assert child.poll() is None
        below = process.children()[0]
        yield child, below
        child.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            below.kill()


def test_what_the_gateway_did_not_start_here_is_not_killed(
    stuck: Stuck, sleepers: tuple[subprocess.Popen[bytes], psutil.Process]
) -> None:
    """Through `ssh -L`, or of a container, its pids are those of others here; and a pid may be nobody's."""
    _, other = sleepers
    for pid, why in ((other.pid, "was not started by what listens on port"), (2**22 + 1, "is not here any more")):
        stuck.replicas = [{"name": "chat-1", "state": "ready", "pid": pid, "in_flight": 0}]
        (said,) = drilled(stuck, kills=1).undone
        assert said.startswith(f"kill: process {pid} {why}")
    assert other.is_running()


def test_what_the_gateway_started_here_is_killed(stuck: Stuck, sleepers: tuple[subprocess.Popen[bytes], psutil.Process]) -> None:
    child, _ = sleepers
    assert kill(child.pid, "http://127.0.0.1:1") != ""
    assert child.poll() is None
    assert kill(child.pid, stuck.url) == ""
    assert child.wait(10) == -signal.SIGKILL
