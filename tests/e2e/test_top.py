"""`headrace top` in a pseudo-terminal, over a real `headrace serve` in front of fake engines."""

import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.key_store import Store, Stored
from tests.e2e.conftest import Served, eventually
from tests.fake_process import fake_engine

YAML = "models: {{chat: {{url: 'http://127.0.0.1:{engine}', slots: 2}}, far: {{url: 'http://127.0.0.1:9'}}}}\n{more}"
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def engine() -> Iterator[int]:
    """The port of a fake engine that is slow enough to be seen."""
    with fake_engine("--slots", "2", "--token-seconds", "0.02") as address:
        yield int(address.rpartition(":")[2])


_ASKED_BEFORE = ("NO_COLOR", "COLUMNS", "LINES")
"""Variables that count for more than the terminal itself."""


class Top:
    """`headrace top ARGUMENTS` in a terminal of its own; `said` is everything it wrote."""

    def __init__(self, url: str, *arguments: str, width: int = 80, height: int = 24, **environment: str) -> None:
        self.ours, self.theirs = pty.openpty()
        self.size(width, height)
        self.before = termios.tcgetattr(self.theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace.cli", "top", "--url", url, *arguments],
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, start_new_session=True,
            env={**{k: v for k, v in os.environ.items() if k not in _ASKED_BEFORE}, "TERM": "xterm-256color", **environment},
        )  # fmt: skip
        self.said = ""
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while not self._over.is_set():
            if not select.select([self.ours], [], [], 0.05)[0]:
                continue
            try:
                self.said += decoder.decode(os.read(self.ours, 65536))
            except OSError:  # the terminal is gone
                return

    def size(self, width: int, height: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def frames(self) -> list[list[str]]:
        """Every picture that it drew in full, as lines without codes."""
        parts = self.said.split("\x1b[H")[1:]
        return [_CODE.sub("", part.partition("\x1b[J")[0]).split("\r\n") for part in parts if "\x1b[J" in part]

    def shows(self, pattern: str, seconds: float = 30) -> list[str]:
        """The first last picture with `pattern` in it."""

        def found() -> list[str] | None:
            frames = self.frames()
            return frames[-1] if frames and re.search(pattern, "\n".join(frames[-1])) else None

        try:
            picture: list[str] = eventually(found, pattern, seconds)
        except AssertionError:
            raise AssertionError(f"no {pattern!r} in:\n" + "\n".join((self.frames() or [[self.said]])[-1])) from None
        return picture

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def end(self) -> int:
        """Its exit code, once it ended; the terminal has to be as it was."""
        code = self.process.wait(20)
        eventually(lambda: LEAVE in self.said, "the first screen is back")
        assert self.said.count(ENTER) == self.said.count(LEAVE)
        assert "\x1b[?25h" in self.said.rpartition("\x1b[?25l")[2], "the cursor is there again"
        assert termios.tcgetattr(self.theirs) == self.before
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._over.set()
        self._reader.join(5)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def top() -> Iterator[Callable[..., Top]]:
    running: list[Top] = []

    def start(url: str, *arguments: str, **more: object) -> Top:
        running.append(Top(url, *arguments, **more))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for one in running:
        one.close()


def ask(url: str, key: str = "") -> None:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hello"}]}).encode()
    request = urllib.request.Request(url + "/v1/chat/completions", body, {"Content-Type": "application/json"})
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "headrace.cli", "top", *arguments],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip


def fits(picture: list[str], width: int, height: int) -> bool:
    return len(picture) <= height and all(len(line) <= width for line in picture)


def test_load_is_seen_as_it_comes_and_q_leaves_the_terminal_as_it_was(
    serve: Callable[..., Served], top: Callable[..., Top], engine: int
) -> None:
    served = serve(yaml=YAML.format(engine=engine, more=""))
    url = served.url
    eventually(lambda: served.status("chat")["phase"] == "ready", "the engine is found")
    seen = top(url)
    picture = seen.shows(r"chat +ready +1/1 +0/2")
    assert fits(picture, 80, 24), picture
    assert any(line.split()[:2] == ["far", "loading"] for line in picture)
    assert any("9 is not usable" in line for line in picture), "why it is not ready"
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            ask(url)

    clients = [threading.Thread(target=load) for _ in range(6)]
    for client in clients:
        client.start()
    seen.shows(r"chat +ready +1/1 +2/2 +[1-4] ")  # slots are taken, others wait
    # p50, p99 of waiting, TTFT, TPOT or nothing (these are no streams), tokens a second in and out
    seen.shows(r"chat +ready .* [\d.]+m?s +[\d.]+m?s +[\d.]+m?s +\S+ +[\d.]+ +[1-9]\d* ")
    seen.shows("█")
    stop.set()
    for client in clients:
        client.join(30)
    seen.press("q")
    assert seen.end() == 0


def test_curves_begin_with_what_was_recorded_before(serve: Callable[..., Served], top: Callable[..., Top], engine: int) -> None:
    served = serve(yaml=YAML.format(engine=engine, more=""))
    eventually(lambda: served.status("chat")["phase"] == "ready", "the engine is found", 60)
    ask(served.url)
    past = "/admin/pages/history?model=chat&span=15m"
    eventually(lambda: any(served.get(past)["columns"]["rate_out"]), "it is written down", 60)
    top(served.url).shows("█")  # nobody asks any more: its own looks see no token


def test_another_size_of_the_window_is_drawn_at_once(serve: Callable[..., Served], top: Callable[..., Top], engine: int) -> None:
    seen = top(serve(yaml=YAML.format(engine=engine, more="")).url)
    seen.shows("chat")
    seen.size(40, 8)
    os.killpg(seen.process.pid, signal.SIGWINCH)  # the kernel does it where the terminal is the controlling one
    eventually(lambda: fits(seen.frames()[-1], 40, 8), "it is small")
    seen.size(160, 50)
    os.killpg(seen.process.pid, signal.SIGWINCH)
    seen.shows("tokens out a second")
    eventually(lambda: any(len(line) > 80 for line in seen.frames()[-1]), "it is wide")
    os.killpg(seen.process.pid, signal.SIGINT)  # what Ctrl-C does
    assert seen.end() == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_it_leaves_the_terminal_as_it_was(
    serve: Callable[..., Served], top: Callable[..., Top], engine: int, number: signal.Signals
) -> None:
    seen = top(serve(yaml=YAML.format(engine=engine, more="")).url)
    seen.shows("chat")
    os.kill(seen.process.pid, number)
    assert seen.end() == 128 + number


def test_while_it_is_stopped_by_ctrl_z_the_terminal_is_as_it_was(
    serve: Callable[..., Served], top: Callable[..., Top], engine: int
) -> None:
    seen = top(serve(yaml=YAML.format(engine=engine, more="")).url)
    seen.shows("chat")
    stat = Path(f"/proc/{seen.process.pid}/stat")
    os.kill(seen.process.pid, signal.SIGTSTP)
    eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
    assert termios.tcgetattr(seen.theirs) == seen.before
    eventually(lambda: seen.said.count(LEAVE) == 1, "the first screen is back")
    os.kill(seen.process.pid, signal.SIGCONT)
    eventually(lambda: seen.said.count(ENTER) == 2, "it goes on")
    seen.shows("chat")
    seen.press("q")
    assert seen.end() == 0


def test_a_gateway_that_goes_and_comes_back_is_told(
    serve: Callable[..., Served], top: Callable[..., Top], engine: int, tmp_path: Path
) -> None:
    served = serve(yaml=YAML.format(engine=engine, more=""))
    seen = top(served.url)
    seen.shows("headrace top .*chat|chat")
    port = served.url.rpartition(":")[2]
    served.close()
    picture = seen.shows("Lost for .* trying on: No gateway answers")
    assert any(line.startswith("chat") for line in picture), "what was known last"
    again = Served(["headrace.yaml", "--listen", f"127.0.0.1:{port}"], tmp_path)
    try:
        seen.shows("headrace top +http")
        seen.press("q")
        assert seen.end() == 0
    finally:
        again.close()


def test_what_keys_use_is_shown_to_administrators_and_others_are_told_what_is_missing(
    serve: Callable[..., Served], top: Callable[..., Top], engine: int, tmp_path: Path
) -> None:
    store = Store(tmp_path / "keys.json")
    admin, team = store.add(Stored("ops", "", admin=True)), store.add(Stored("team", ""))
    served = serve(yaml=YAML.format(engine=engine, more="gateway: {keys: 'file:keys.json'}\n"))
    served.url  # noqa: B018  # it serves
    served.wait_for("chat is ready")
    ask(served.url, team)
    seen = top(served.url, HEADRACE_KEY=admin)
    seen.shows(r"KEY +NOW +REQUESTS(?s:.*)team +0 +1 ")
    seen.press("q")
    assert seen.end() == 0
    refused = command("--url", served.url, HEADRACE_KEY=team)
    assert refused.returncode == 70
    assert "headrace key add --admin" in refused.stderr


def test_colour_is_left_out_where_it_is_not_wanted(serve: Callable[..., Served], top: Callable[..., Top], engine: int) -> None:
    url = serve(yaml=YAML.format(engine=engine, more="")).url
    coloured, plain = top(url), top(url, NO_COLOR="1")
    coloured.shows("chat")
    plain.shows("chat")
    assert re.search(r"\x1b\[[0-9;]+m", coloured.said)
    assert not re.search(r"\x1b\[[0-9;]*m", plain.said)


def test_without_a_terminal_it_is_one_snapshot_as_text(serve: Callable[..., Served], engine: int) -> None:
    served = serve(yaml=YAML.format(engine=engine, more=""))
    served.url  # noqa: B018  # it serves
    served.wait_for("chat is ready")
    ask(served.url)
    told = command("--url", served.url)
    assert told.returncode == 0, told.stderr
    assert "\x1b" not in told.stdout
    assert "MODEL" in told.stdout
    assert "far is loading: " in told.stdout
    one = json.loads(command("--url", served.url, "--once", "--json").stdout)
    chat, far = one["models"]
    assert (chat["state"], chat["replicas_ready"], far["state"]) == ("ready", 1, "loading")
    assert chat["wait_p50_seconds"] is not None
    assert one["error"] is None


def test_json_is_a_line_for_each_look_and_goes_on_while_the_gateway_is_away(serve: Callable[..., Served], engine: int) -> None:
    served = serve(yaml=YAML.format(engine=engine, more=""))
    arguments = [sys.executable, "-m", "headrace.cli", "top", "--json", "--url", served.url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert json.loads(process.stdout.readline())["error"] is None
            served.close()
            until = time.monotonic() + 30
            while json.loads(process.stdout.readline())["error"] is None:
                assert time.monotonic() < until
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_no_gateway_at_first_is_an_error_and_no_view() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = command("--url", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert told.returncode == 69
    assert "No gateway answers at" in told.stderr
