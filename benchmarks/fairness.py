"""What the others notice of one key that asks for fifty times as much: a real gateway, a fake engine, ten keys.

`python benchmarks/fairness.py` runs twice for `--seconds` (25): all ten keys at one rate, together at 80 % of the engine, then
one of them at 50 times that. It prints the time to the end of answers of the other nine, less the time of service.
Arrivals are Poisson with fixed seeds. Exits with 1 when their p99 rose by more than 20 %.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gateway_tools.processes import exit_on_term

from headrace.key_store import Store, Stored

SLOTS, WORDS, WORD_SECONDS, OTHERS, LOAD, TIMES, LIMIT = 4, 20, 0.01, 9, 0.8, 50, 1.2
RATE = LOAD * SLOTS / (WORDS * WORD_SECONDS) / (OTHERS + 1)
"""Requests a second of each key."""
ENGINE, GATEWAY = 18941, 18942


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=25.0)
    asked = parser.parse_args()
    exit_on_term()
    with tempfile.TemporaryDirectory() as folder:
        keys = _prepare(Path(folder))
        flags = ["--port", str(ENGINE), "--slots", str(SLOTS), "--tokens", str(WORDS), "--token-seconds", str(WORD_SECONDS)]
        engine = subprocess.Popen(
            [sys.executable, "-m", "headrace.testing.engine", "--model", "there", *flags], stdout=subprocess.DEVNULL
        )
        command = [
            sys.executable,
            "-m",
            "headrace.cli",
            "serve",
            str(Path(folder, "headrace.yaml")),
            "--listen",
            f"127.0.0.1:{GATEWAY}",
        ]
        gateway = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            before, after = (asyncio.run(_run(keys, times, asked.seconds)) for times in (1, TIMES))
        finally:
            for process in (gateway, engine):
                process.terminate()
                process.wait(20)
    rise = _show("all at one rate", before)[1] and _show(f"one at {TIMES} times", after)[1] / _percentiles(before)[1]
    print(f"p99 of the others: {rise:.2f} times what it was; at most {LIMIT} is promised.")
    return int(rise > LIMIT)


def _prepare(folder: Path) -> dict[str, str]:
    store = Store(folder / "keys.json")
    names = ["heavy", *(f"other-{number}" for number in range(OTHERS))]
    keys = {name: store.add(Stored(name, "")) for name in names}
    model = {"url": f"http://127.0.0.1:{ENGINE}", "slots": SLOTS}
    spec = {"models": {"chat": model}, "gateway": {"keys": "file:keys.json"}}
    (folder / "headrace.yaml").write_text(json.dumps(spec))
    return keys


async def _run(keys: dict[str, str], times: int, seconds: float) -> list[float]:
    await _ready(keys["heavy"])
    took: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        for name, key in keys.items():
            rate = RATE * (times if name == "heavy" else 1)
            tasks.create_task(_client(key, rate, seconds, random.Random(name), [] if name == "heavy" else took))
    return sorted(took)


async def _ready(key: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if await _ask(key) == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("The gateway did not come up.")


async def _client(key: str, rate: float, seconds: float, chance: random.Random, took: list[float]) -> None:
    began = time.monotonic()
    due, end = began, began + seconds
    async with asyncio.TaskGroup() as tasks:
        while (due := due + chance.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.create_task(_timed(key, due, took))


async def _timed(key: str, due: float, took: list[float]) -> None:
    """Seconds it waited; a refused request counts as one that waited for as long as it may."""
    status = await _ask(key)
    took.append(max(0.0, time.monotonic() - due - WORDS * WORD_SECONDS) if status == 200 else 60.0)


async def _ask(key: str) -> int:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": WORDS}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", GATEWAY)
    writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]) if answer else 0


def _percentiles(took: list[float]) -> tuple[float, float]:
    return took[len(took) // 2], took[int(len(took) * 0.99)]


def _show(what: str, took: list[float]) -> tuple[float, float]:
    half, most = _percentiles(took)
    print(f"{what}: {len(took)} requests of the others waited {half * 1000:.0f} ms (p50), {most * 1000:.0f} ms (p99)")
    return half, most


if __name__ == "__main__":
    sys.exit(main())
