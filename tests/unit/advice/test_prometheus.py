"""A real Prometheus is read as it is: right signals, right silence; and what is no Prometheus is told of."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from openmetrics import BEGAN, SECONDS, Row, deployment, gateway, vllm

from headrace.advice.advise import Question, elsewhere
from headrace.advice.base import Signal
from headrace.advice.known import Setup, of_file
from headrace.advice.prometheus import Prometheus
from headrace.cli import main
from headrace.errors import HeadraceError, UsageError
from headrace.spec.load import loads
from headrace.terminal import Terminal
from headrace.weights.source import parse

Start = Callable[[list[Row]], str]
FILE = """
models:
  chat: {source: hf:org/chat, engine: vllm, slots: 8, replicas: 0..2}
  code: {source: hf:org/code, engine: vllm, slots: 8, replicas: 1..2}
kubernetes: {namespace: inference}
"""


def setup() -> Setup:
    return of_file(loads(FILE, "headrace.yaml", parse))


def advised(url: str, known: Setup | None, namespace: str | None = "inference") -> dict[str, Sequence[Signal]]:
    asked = Question(None, float(BEGAN), float(BEGAN + SECONDS))
    return dict(elsewhere(Prometheus(url, namespace), known, asked, Terminal()))


def holding(signals: Sequence[Signal]) -> list[str]:
    return [one.name for one in signals if one.holds == "holds"]


def named(signals: Sequence[Signal], name: str) -> Signal:
    return next(one for one in signals if one.name == name)


def test_a_saturated_model_beside_a_calm_one(prometheus: Start) -> None:
    rows = [
        *vllm("chat", "chat-5d-a", 12, 8, usage=0.97, reset=100), *vllm("chat", "chat-5d-b", 9, 8, usage=0.5),
        *deployment("chat", lambda place: 2, 2),
        *vllm("code", "code-7f-a", 0, 3), *deployment("code", lambda place: 1, 2),
    ]  # fmt: skip
    found = advised(prometheus(rows), setup())
    assert holding(found["chat"]) == ["throughput insufficient", "memory binds"]
    assert holding(found["code"]) == []
    assert named(found["chat"], "throughput insufficient").command.endswith("users=37")
    assert advised_numbers(found["chat"], "context wasted").startswith("vllm pages its cache")


def advised_numbers(signals: Sequence[Signal], name: str) -> str:
    return named(signals, name).numbers


def test_series_that_are_missing_are_not_zero(prometheus: Start) -> None:
    """Two replicas wait all the time, by engines that are seen in a tenth of the looks: nothing is said of the others."""
    seen = [(name, labels, lambda place, value=value: value(place) if place < 24 else None) for name, labels, value in
            (*vllm("chat", "chat-5d-a", 12, 8), *vllm("chat", "chat-5d-b", 12, 8))]  # fmt: skip
    found = advised(prometheus(seen), setup())
    assert named(found["chat"], "throughput insufficient").holds == "unknown"
    assert named(found["code"], "throughput insufficient").holds == "unknown"


def test_cold_starts_are_seen_where_the_cluster_tells_of_them(prometheus: Start) -> None:
    """Asleep but for one look in twenty, with two requests each time."""
    awake = set(range(10, 240, 20))
    pod = [(name, labels, lambda place, value=value: value(sum(one <= place for one in awake)) if place in awake else None)
           for name, labels, value in vllm("chat", "chat-5d-a", 0, 1, each=2)]  # fmt: skip
    found = advised(prometheus([*pod, *deployment("chat", lambda place: float(place in awake), 2)]), setup())
    assert named(found["chat"], "cold starts dominate").holds == "holds", named(found["chat"], "cold starts dominate")


def test_prompts_that_begin_alike_and_are_computed_again(prometheus: Start) -> None:
    rows = [*vllm("chat", "chat-5d-a", 0, 3), *vllm("chat", "chat-5d-b", 0, 3), *gateway("chat", 0, 6, repeated=0.8)]
    found = advised(prometheus(rows), setup())
    one = named(found["chat"], "prefix reuse unexploited")
    assert (one.holds, one.numbers) == ("holds", "80 % of the prompts' text was sent before, 5 % was found in a cache")


def test_without_a_file_the_series_name_the_models(prometheus: Start) -> None:
    url = prometheus([*vllm("chat", "chat-5d-a", 12, 8), *vllm("code", "code-7f-a", 0, 3)])
    found = advised(url, None)
    assert set(found) == {"chat", "code"}
    assert named(found["chat"], "throughput insufficient").holds == "unknown", "the most replicas are not known"
    assert holding(found["chat"]) == ["models behind separate addresses"]
    with pytest.raises(HeadraceError, match="no series of an engine"):
        advised(url, None, namespace="elsewhere")


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers as a class attribute says, and keeps what it was asked."""

    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")
    asked: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        status, headers, said = self.answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(said))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[tuple[str, type[Fake]]]:
    kind = type("One", (Fake,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    thread.join()
    server.server_close()


WRONG: list[tuple[int, dict[str, str], bytes, str]] = [
    (401, {}, b"", "PROMETHEUS_TOKEN"),
    (403, {}, b'{"error": "no right"}', "no right"),
    (422, {}, b'{"status": "error", "error": "query processing would load too many samples"}', "too many samples"),
    (200, {}, b"<html>Grafana</html>", "not as a Prometheus does"),
    (200, {}, b'{"status": "success", "data": {"resultType": "vector", "result": []}}', "answered: success"),
    (200, {}, b"[" * 100_000, "not as a Prometheus does"),
    (302, {"Location": "http://127.0.0.1:1/elsewhere"}, b"", "answered 302"),
    (200, {}, b'{"status": "success", "data": {"resultType": "matrix", "result": []}}', "no series of an engine"),
]


@pytest.mark.parametrize(("status", "headers", "body", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_what_is_wrong_is_told(
    fake: tuple[str, type[Fake]], status: int, headers: dict[str, str], body: bytes, said: str
) -> None:
    url, kind = fake
    kind.answer = (status, headers, body)
    with pytest.raises(HeadraceError) as error:
        elsewhere(Prometheus(url, None, "secret"), None, Question(None, 0.0, 3600.0), Terminal())
    assert said in str(error.value)
    assert "secret" not in str(error.value)
    assert {asked[1] for asked in kind.asked} == {"Bearer secret"}
    assert all(asked[0] == "/api/v1/query_range" for asked in kind.asked)


@pytest.mark.parametrize(
    ("url", "namespace"),
    [("ftp://x", None), ("http://metrics.example.org", None), ("https://a:b@x", None), ("http://127.0.0.1:1", 'x",a=~"')],
)
def test_addresses_that_are_not_asked(url: str, namespace: str | None) -> None:
    with pytest.raises(UsageError):
        Prometheus(url, namespace, "secret")


class Saturated(Fake):
    """One pod of vLLM that has more than it can do, whenever it is asked about."""

    def do_POST(self) -> None:
        fields = {
            name: values[0] for name, values in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()
        }
        start, end, step = (float(fields[name]) for name in ("start", "end", "step"))
        times = [start + step * place for place in range(int((end - start) / step) + 1)]
        labels = {"model_name": "chat", "pod": "chat-5d-a", "namespace": "inference"}
        gauges = {"vllm:num_requests_waiting": "12", "vllm:num_requests_running": "NaN"}
        rows = [
            {"metric": {"__name__": name, **labels}, "values": [[at, value] for at in times]} for name, value in gauges.items()
        ]
        said = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": rows}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


def test_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(FILE.replace("0..2", "1..1"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Saturated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        assert not main(["advise", "--prometheus", url, "--window", "1h", "own.yaml", "--json"])
        found = {one["model"]: one["signals"] for one in json.loads(capsys.readouterr().out)["models"]}
        assert not main(["advise", "chat", "own.yaml", "--prometheus", url, "--window", "1h"])
        told = capsys.readouterr().out
    finally:
        server.shutdown()
        server.server_close()
    assert [one["name"] for one in found["chat"] if one["holds"] == "holds"] == ["throughput insufficient"]
    assert {one["holds"] for one in found["code"]} <= {"unknown", "holds not"}
    assert "chat, the last 1h: 1 of 11 signals" in told
    assert "code" not in told


def test_what_belongs_to_a_prometheus_is_refused_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "chat", "--namespace", "inference"]) != 0
    assert "--prometheus" in capsys.readouterr().err
