"""`headrace why` where no gateway runs: it names what a start would stop at, before anything is started."""

import http.server
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.cli import main

CODE = "class Echo:\n    def predict(self, batch):\n        return batch\n"
FILE = """
models:
  echo: {source: file:./echo.py, engine: custom}
aliases: {copy: echo}
gateway: {listen: "127.0.0.1:PORT"}
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> Path:
    """An own folder with a file that could be served, an own cache, and no gateway at the usual place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    Path("echo.py").write_text(CODE)
    write()
    monkeypatch.setattr("headrace.cli.url.GATEWAY", "http://127.0.0.1:1")
    return tmp_path


def write(text: str = FILE, port: int = 1) -> None:
    Path("headrace.yaml").write_text(text.replace("PORT", str(port)))


def asked(capsys: pytest.CaptureFixture[str], model: str = "echo", *more: str) -> tuple[int, str]:
    code = main(["why", model, *more])
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.mark.usefixtures("folder")
def test_where_nothing_stands_in_the_way_it_says_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    said = "echo is not served: nobody started it. Nothing stands in its way. Run: headrace serve headrace.yaml\n"
    assert asked(capsys) == (69, said)
    assert asked(capsys, "copy") == (69, said), "by an alias too"


ONE = "  echo: {source: file:./echo.py, engine: custom}"
BROKEN: list[tuple[str, str, int, str]] = [
    ("wrong key", ONE.replace("engine", "engin"), 78, r"headrace.yaml:2:\d+: models.echo.engin: is not a key here. Did you mean"),
    ("weights missing", '  echo: {source: "file:./none.gguf"}', 69, r"would stop: models.echo: \S+/none.gguf does not exist"),
    ("engine missing", '  echo: {source: "file:./echo.py", engine: triton}', 69, "would stop: .*triton"),
    ("key missing", '  echo: {url: "http://127.0.0.1:9", key: env:NOT_SET}', 69, "the environment has no NOT_SET. Set it"),
    ("memory short", f"{ONE}\nmachine: {{memory: 1MB}}", 69, r"would stop: .*MiB needed, 977 KiB free"),
    ("for elsewhere", f"{ONE}\nmachine: 2 x A100-80GB", 69, "would stop: machine: 2 x A100-80GB is to be planned for"),
    ("wrong name", ONE.replace("echo:", "ecko:", 1), 64, 'has no model "echo". Did you mean ecko?'),
]  # fmt: skip


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("model", "code", "said"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_it_names_what_a_start_would_stop_at(model: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(f"models:\n{model}\ngateway: {{listen: 127.0.0.1:1}}\n")
    found = asked(capsys)
    assert found[0] == code, found
    assert re.search(said, found[1], re.DOTALL), found


@pytest.mark.usefixtures("folder")
def test_weights_that_are_elsewhere_stand_in_nobodys_way(capsys: pytest.CaptureFixture[str]) -> None:
    write('models: {echo: {source: "hf:org/unknown", engine: llamacpp}}\ngateway: {listen: 127.0.0.1:1}\n')
    pytest.importorskip("xllamacpp")
    _, said = asked(capsys)
    assert "Its weights (hf:org/unknown) are not here yet: a start fetches them, and so does headrace pull headrace.yaml." in said
    assert said.endswith("Run: headrace serve headrace.yaml\n")


class Other(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def other() -> Iterator[int]:
    """Another program's port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("folder")
def test_a_port_that_another_program_has_is_named_with_it(other: int, capsys: pytest.CaptureFixture[str]) -> None:
    write(port=other)
    code, said = asked(capsys)
    assert code == 69
    assert f"would stop: port {other} of 127.0.0.1 is taken" in said
    assert "gateway.listen in the file, or headrace serve --listen HOST:PORT" in said


def test_what_is_no_gateway_is_not_taken_for_one(
    other: int, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no file here
    code, said = asked(capsys, "echo", "--url", f"http://127.0.0.1:{other}")
    assert code == 69
    assert f"What answers at http://127.0.0.1:{other} is no gateway of Headrace: 404" in said
