"""What the gateway's own code costs per request, per stream and per streamed chunk, feature by feature, without sockets.

    python benchmarks/hot_path.py [--rounds 40] [--requests 500]

One process holds client, gateway and engine; the protocols are the real ones, their transports keep what is written. Each round
asks the same small request with one set of features after the other, so that a busy machine is as busy for each; told is the
best round, in microseconds of CPU time. The kernel's and the event loop's part is missing: gateway.py measures with them.
Beside it stands how many functions, of Python and of C, the gateway's code called for it: the same number on any machine, however
busy.
"""

import argparse
import asyncio
import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_tools.inprocess import Loop, Pipe
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import headrace
from headrace.gateway.access_log import AccessLog
from headrace.gateway.accounts import Key
from headrace.gateway.gateway import Gateway, Limits
from headrace.gateway.keys import Keys
from headrace.gateway.tracing import Tracing
from headrace.gateway.wire import Client
from headrace.money import BILLION, Money, Price
from headrace.traffic import Endpoint, ModelStatus

KEY = b"sk-hr-0123456789abcdef0123456789abcdef"
DIGEST = hashlib.sha256(KEY).digest()
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    b"Authorization: Bearer " + KEY + b"\r\nContent-Length: %d\r\n\r\n%s"
)
BODY = b'{"model":"chat","messages":[{"role":"user","content":"%s"}],"max_tokens":64%s}'
TOLD = b'{"id":"c","choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(TOLD), TOLD)
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
SHORT_WORDS, LONG_WORDS = b"What is the tallest mountain of the world, and who climbed it first?", b"A word. " * 512
CHUNKS = 100
MANY = 10**9
COUNTED = 50
"""Requests whose calls are counted."""


@dataclass(frozen=True)
class Case:
    """One set of features, told as the difference to the case `than`."""

    name: str
    than: str = "bare"
    key: Key | None = None
    replicas: int = 1
    words: bytes = SHORT_WORDS
    price: Price | None = None
    shared: bool = False
    log: bool = False
    traces: bool = False
    continues: bool = False


PLAIN = Key("plain", DIGEST)
LIMITED = Key("limited", DIGEST, rpm=MANY, tpm=MANY * 1000)
PAID = Key("paid", DIGEST, budget=Money(MANY * BILLION, "USD"))
PRICE = Price(0.25, 1.25, 0.025)
CASES = (
    Case("bare"),
    Case("key", key=PLAIN),
    Case("key with rpm and tpm", key=LIMITED),
    Case("key with rpm and tpm, shared", key=LIMITED, shared=True),
    Case("key with a budget of money", key=PAID, price=PRICE),
    Case("two replicas", replicas=2),
    Case("two replicas, prompt of 4 KB", replicas=2, words=LONG_WORDS, than="prompt of 4 KB"),
    Case("prompt of 4 KB", words=LONG_WORDS),
    Case("access log", log=True),
    Case("traces", traces=True),
    Case("as benchmarks/gateway.py has it", key=LIMITED, replicas=2, continues=True),
)
STREAMS = (Case("bare"), Case("key with rpm and tpm", key=LIMITED), Case("kept to be resumed", continues=True), CASES[-1])
OURS = (str(Path(headrace.__file__).parent), "<string>")
"""Where the code is whose calls are counted; the second is what dataclasses and named tuples make."""


class Sink(Pipe):
    """Keeps what was written last."""

    last = b""

    def write(self, data: bytes) -> None:
        self.last = data


class Engines:
    """Those of `fuzz_tools` check what they are sent; these are silent until they are told to answer."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.lines: list[Sink] = []

    def connect(self, upstream: Any) -> tuple[Pipe, Any]:
        """A connection for the gateway's `upstream`."""
        pipe = _connected(self.loop, upstream)
        self.lines.append(pipe)
        return pipe, upstream

    def asked(self) -> Sink:
        """The connection that has a request."""
        return next(line for line in self.lines if line.last)


class Lends:
    """Shares limits with nobody, and has always enough."""

    answers, failures, waits = True, 0, 0

    def ask(self, account: Any, then: Callable[[], None]) -> None:
        for lease in account.leases.values():
            lease.left = 1e15
        then()


class Discards(SpanExporter):
    """Costs nothing: what a collector takes is its own."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@dataclass
class Found:
    """What something took: the CPU time of each round in microseconds, and calls."""

    rounds: list[float] = field(default_factory=list)
    calls: float = 0.0


class Served:
    """A gateway with the features of one case, and one client."""

    def __init__(self, loop: Loop, case: Case, tools: Mapping[str, Any]) -> None:
        self.engines = loop.engines = Engines(loop)  # type: ignore[assignment]
        status = ModelStatus("chat", "generate", "ready", context=32_768)
        self.gateway = Gateway(Limits(1000, 30.0, 1 << 20), [status], {}, None)  # type: ignore[arg-type]
        continues = "final_message" if case.continues else None
        places = [f"http://127.0.0.1:{n}" for n in range(1, case.replicas + 1)]
        self.gateway.update([status], [Endpoint(at, "chat", at, 64, "chat", continues=continues) for at in places])  # type: ignore[arg-type]
        if case.key is not None:
            self.gateway.keys = Keys([case.key], shared=Lends() if case.shared else None)
        self.gateway.prices = {"chat": case.price} if case.price is not None else {}
        self.gateway.log = tools["log"] if case.log else None
        self.gateway.tracing = tools["traces"] if case.traces else None
        self.client = _connected(loop, Client(self.gateway))
        self.request, self.stream = (_request(case.words, more) for more in (b"", b',"stream":true'))

    async def warm(self, loop: Loop) -> None:
        """Connect to every replica, and fill the memos."""
        for _ in range(20):
            self.client.deliver(self.request)
            await loop.quiet()
            self._answer(ANSWER)
        self.streamed(1)

    def asks(self, times: int) -> float:
        """Microseconds of CPU time for each of so many requests."""
        began = time.process_time()
        for _ in range(times):
            self.client.deliver(self.request)
            self._answer(ANSWER)
        self._tick()
        spent = time.process_time() - began
        self.gateway.finished()
        assert self.client.last.endswith(TOLD), self.client.last
        return spent / times * 1e6

    def streams(self, times: int) -> float:
        """Microseconds of CPU time for each of so many streams, of an event and their end."""
        first, last = STREAM + _chunk(EVENT), _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        began = time.process_time()
        for _ in range(times):
            self.client.deliver(self.stream)
            self._answer(first, last)
        self._tick()
        spent = time.process_time() - began
        self.gateway.finished()
        return spent / times * 1e6

    def streamed(self, times: int) -> float:
        """Microseconds of CPU time for each chunk of so many streams of `CHUNKS`, but for their first and last."""
        spent, data = 0.0, _chunk(EVENT)
        for _ in range(times):
            self.client.deliver(self.stream)
            line = self.engines.asked()
            line.last = b""
            line.deliver(STREAM + data)
            began = time.process_time()
            for _ in range(CHUNKS):
                line.deliver(data)
            spent += time.process_time() - began
            assert self.client.last == data
            line.deliver(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return spent / times / CHUNKS * 1e6

    def _answer(self, *parts: bytes) -> None:
        line = self.engines.asked()
        line.last = b""
        for data in parts:
            line.deliver(data)

    def _tick(self) -> None:
        """What a gateway does now and then is a part of the cost."""
        for model in self.gateway.models.values():
            model.stats.tick()


def calls(run: Callable[[int], float]) -> float:
    """How many functions the gateway's code calls for each of those that `run` makes so many of."""
    counted = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call") and frame.f_code.co_filename.startswith(OURS)

    sys.setprofile(count)
    try:
        run(COUNTED)
    finally:
        sys.setprofile(None)
    return counted / COUNTED


def _connected(loop: Loop, protocol: Any) -> Sink:
    pipe = Sink(loop, lambda _: None, lambda: None)
    pipe.protocol = protocol
    protocol.connection_made(pipe)
    return pipe


def _request(words: bytes, more: bytes) -> bytes:
    body = BODY % (words, more)
    return HEAD % (len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def measure(loop: Loop, rounds: int, requests: int) -> None:
    log, traces = AccessLog("/dev/null", print), Tracing(Discards(), Resource.create({}))
    tools = {"log": log, "traces": traces}
    asking, streaming = await _paths(loop, CASES, tools), await _paths(loop, STREAMS, tools)
    whole, streams, chunks = ({name: Found() for name in paths} for paths in (asking, streaming, streaming))
    for _ in range(rounds):
        for name, path in asking.items():
            whole[name].rounds.append(path.asks(requests))
        for name, path in streaming.items():
            streams[name].rounds.append(path.streams(requests))
            chunks[name].rounds.append(path.streamed(max(1, requests // CHUNKS)))
        await asyncio.sleep(0)
    for name, path in asking.items():
        whole[name].calls = calls(path.asks)
    for name, path in streaming.items():
        streams[name].calls = calls(path.streams)
        chunks[name].calls = (calls(path.streamed) - streams[name].calls) / CHUNKS
    _tell("a request", CASES, whole)
    _tell("a stream", STREAMS, streams)
    _tell("a chunk", STREAMS, chunks)
    log.close()
    traces.close()


async def _paths(loop: Loop, cases: Iterable[Case], tools: Mapping[str, Any]) -> dict[str, Served]:
    paths = {case.name: Served(loop, case, tools) for case in cases}
    for path in paths.values():
        loop.engines = path.engines  # type: ignore[assignment]
        await path.warm(loop)
    return paths


def _tell(what: str, cases: Iterable[Case], found: Mapping[str, Found]) -> None:
    best = {name: min(each.rounds) for name, each in found.items()}
    for case in cases:
        more = f"{best[case.name] - best[case.than]:+8.2f}" if case.name != case.than else " " * 8
        print(f"{what:10} {case.name:34} {best[case.name]:8.2f} µs {more} {found[case.name].calls:8.1f} calls")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, default=500, help="in each round, of each set of features")
    asked = parser.parse_args()
    loop = Loop()
    loop.run_until_complete(measure(loop, asked.rounds, asked.requests))


if __name__ == "__main__":
    main()
