"""What the access log and traces cost: CPU time per request of one process that holds client, gateway and engine, in turns.

    python benchmarks/observing.py [--requests 3000] [--rounds 9]

Each round serves the same requests with nothing, with the log and with traces: a busy machine is as busy for each. Told is
the median over the rounds of what a request costs more than with nothing, in microseconds of CPU time of all threads, and how far
apart the rounds were.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import uvloop
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from headrace.gateway.access_log import AccessLog
from headrace.gateway.gateway import Gateway, Limits
from headrace.gateway.tracing import Tracing
from headrace.traffic import Endpoint, ModelStatus

BODY = b'{"model":"chat","messages":[{"role":"user","content":"Say hi"}]}'
ASKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
REQUEST = ASKED % (len(BODY), BODY)
TOLD = b'{"choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(TOLD), TOLD)


class Engine(asyncio.Protocol):
    """Answers every read, which is one request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)


class Discards(SpanExporter):
    """Costs nothing: what a collector takes is its own."""

    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Asks(asyncio.Protocol):
    """Sends a request as soon as the one before is answered, `left` times."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"HTTP/1.1 200"), data[:200]
        self.left -= 1
        if self.left:
            self.transport.write(REQUEST)
        else:
            self.over.set()

    async def ask(self, count: int) -> float:
        """Microseconds of CPU time for each of `count` requests."""
        self.over.clear()
        self.left = count
        began = time.process_time()
        self.transport.write(REQUEST)
        await self.over.wait()
        return (time.process_time() - began) / count * 1e6


async def measure(requests: int, rounds: int, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(Engine, str(folder / "s"))
    gateway = Gateway(Limits(8, 8.0, 1 << 20), [status := ModelStatus("chat", "generate", "ready")], {}, None)
    _, port = await gateway.listen("127.0.0.1", 0)
    gateway.update([status], [Endpoint("chat-1", "chat", f"unix:{folder / 's'}", 4, "chat")])
    _, client = await loop.create_connection(Asks, "127.0.0.1", port)
    log, tracing = AccessLog(str(folder / "log"), print), Tracing(Discards(), Resource.create({}))
    kinds = {"nothing": (None, None), "log": (log, None), "traces": (None, tracing), "both": (log, tracing)}
    await client.ask(requests)
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (gateway.log, gateway.tracing) in kinds.items():
            found[name].append(await client.ask(requests))
            gateway.finished()
    base = found["nothing"]
    print(f"nothing: {statistics.median(base):.1f} µs a request ({min(base):.1f} to {max(base):.1f})")
    for name in ("log", "traces", "both"):
        more = [one - other for one, other in zip(found[name], base, strict=True)]
        print(f"{name}: {statistics.median(more):+.1f} µs a request ({min(more):+.1f} to {max(more):+.1f})")
    log.close()
    print(f"lines lost: {log.lost}")
    tracing.close()
    gateway.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        uvloop.run(measure(asked.requests, asked.rounds, Path(folder)))


if __name__ == "__main__":
    main()
