"""Build the two C programs, and put a load on a gateway while its CPU time and memory are read."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway_tools.processes import Failed, cpu_seconds, memory_bytes, running

HERE = Path(__file__).parent
HOLD_SECONDS = 20.0


@dataclass(frozen=True)
class Phase:
    """One kind of load."""

    name: str
    what: str
    connections: int
    warm_up: float
    """Seconds before anything is counted."""
    unit: Literal["request", "chunk", "stream"] = "request"
    events: int = 0
    """Of each stream; 0 asks for JSON."""
    interval: int = 0
    """Microseconds between events; 0 is as fast as they go."""
    sdk: bool = False
    beside: bool = False
    """Measure the engine itself just before, so that the latency the gateway adds is known."""

    def options(self, seconds: float) -> list[str]:
        """For `load`, with a window of so many seconds."""
        options = ["-c", self.connections, "-w", self.warm_up, "-d", seconds, "-n", self.events, "-i", self.interval]
        return [*map(str, options), *(["-s"] if self.sdk else []), *(["-o"] if self.unit == "stream" else [])]


PHASES = {
    phase.name: phase
    for phase in (
        Phase("hold", "2,000 streams open at once, a chunk each 250 ms", 2000, 5.0, "stream", events=28, interval=250_000),
        Phase("c1", "1 connection, JSON answers", 1, 0.2, beside=True),
        Phase("c32", "32 connections, JSON answers", 32, 0.3, beside=True),
        Phase("c256", "256 connections, JSON answers", 256, 0.5, beside=True),
        Phase("c2000", "2,000 connections, JSON answers", 2000, 2.0, beside=True),
        Phase("sdk32", "32 connections, the 17 headers of OpenAI's client", 32, 0.3, sdk=True),
        Phase("burst", "64 streams of 200 chunks, as fast as they go", 64, 0.3, "chunk", events=200),
        Phase("paced512", "512 streams, a chunk each 20 ms", 512, 1.0, "chunk", events=200, interval=20_000),
    )
}
"""In the order they are run: memory is read first, of a process that has done nothing yet."""


@dataclass(frozen=True)
class Sample:
    """What one run of a phase gave. Times in microseconds; None where a phase does not tell."""

    target: str
    phase: str
    bad: int
    """Answers that were not whole; anything but 0 spoils the sample."""
    cpu: float | None = None
    """Of the gateway, per request or chunk."""
    rate: float | None = None
    """Requests or chunks per second."""
    p50: float | None = None
    p99: float | None = None
    gap_p99: float | None = None
    """Between reads of a paced stream."""
    direct_p50: float | None = None
    direct_p99: float | None = None
    idle_bytes: int | None = None
    open_bytes: int | None = None
    """Memory with `streams` open."""
    streams: int | None = None


@dataclass(frozen=True)
class Tools:
    """The built programs, and the core that they share."""

    folder: Path
    core: int | None
    engines: tuple[int, int]
    """Ports."""

    def lines(self, port: int, phase: Phase, seconds: float) -> Iterator[dict[str, Any]]:
        """What `load` says, as it says it. Raises Failed."""
        argv = [self.folder / "load", "-p", str(port), *phase.options(seconds)]
        with running(argv, core=self.core, output=subprocess.PIPE, errors=None) as load:
            assert load.stdout
            yield from map(json.loads, load.stdout)
            if load.wait():
                raise Failed(f"the load on {phase.name} ended with {load.returncode}")


@contextmanager
def tools(folder: Path, core: int | None, seconds: int) -> Iterator[Tools]:
    """Two engines that run, for at most so many seconds, and the load generator. Raises Failed when there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Failed("A C compiler is needed (cc or gcc). On Debian: apt install gcc libc6-dev")
    for name in ("engine", "load"):
        subprocess.run([compiler, "-O2", "-o", folder / name, HERE / f"{name}.c"], check=True, timeout=120)
    engine = [folder / "engine", str(seconds)]
    with (
        running(engine, core=core, output=subprocess.PIPE, errors=None) as one,
        running(engine, core=core, output=subprocess.PIPE, errors=None) as other,
    ):
        ports = [int(process.stdout.readline() or 0) for process in (one, other) if process.stdout]
        if not all(ports):
            raise Failed("a mock engine did not start")
        yield Tools(folder, core, (ports[0], ports[1]))


def measured(tools: Tools, target: str, pid: int, port: int, phase: Phase, seconds: float) -> Sample:
    """One run of `phase` through the gateway `pid` that listens on `port`."""
    if phase.unit == "stream":
        return _held(tools, target, pid, port, phase)
    direct = measured_directly(tools, phase, seconds) if phase.beside else None
    lines = tools.lines(port, phase, seconds)
    next(lines)
    before = cpu_seconds(pid)
    counted = next(lines)
    used = cpu_seconds(pid) - before
    times = _last(lines)
    units = counted["chunks"] if phase.unit == "chunk" else counted["answers"]
    if not units:
        raise Failed(f"nothing came through {target} in {phase.name}; bad: {times['bad']}")
    return Sample(
        target,
        phase.name,
        times["bad"],
        cpu=used / units * 1e6,
        rate=units / counted["seconds"],
        p50=times.get("latency_p50"),
        p99=times.get("latency_p99"),
        gap_p99=times.get("gap_p99"),
        direct_p50=direct.p50 if direct else None,
        direct_p99=direct.p99 if direct else None,
    )


def measured_directly(tools: Tools, phase: Phase, seconds: float) -> Sample:
    """One run of `phase` on an engine, nothing between."""
    _, counted, times = tools.lines(tools.engines[0], phase, seconds)
    rate = counted["answers"] / counted["seconds"]
    return Sample("direct", phase.name, times["bad"], rate=rate, p50=times["latency_p50"], p99=times["latency_p99"])


def _held(tools: Tools, target: str, pid: int, port: int, phase: Phase) -> Sample:
    idle = memory_bytes(pid)
    lines = tools.lines(port, phase, HOLD_SECONDS)
    streams = next(lines)["open"]
    opened = memory_bytes(pid)
    return Sample(target, phase.name, _last(lines)["bad"], idle_bytes=idle, open_bytes=opened, streams=streams)


def _last(lines: Iterator[dict[str, Any]]) -> dict[str, Any]:
    *_, last = lines
    return last
