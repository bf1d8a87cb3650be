"""What gateways cost: CPU per request and per streamed chunk, added latency, memory per open stream, side by side.

`python benchmarks/gateway.py` measures Headrace with everything on, Headrace without keys, and the other gateways that are
installed; README.md tells how and how to read it. Exits with 1 when any answer was not whole.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from gateway_tools import tables
from gateway_tools.load import PHASES, Sample, Tools, measured, tools
from gateway_tools.picture import picture
from gateway_tools.processes import FIRST, Failed, exit_on_term, go_first
from gateway_tools.targets import TARGETS, find, started, version

LIFE_SECONDS = 3600
"""After which the engines end, whatever happens."""


def main() -> int:
    """Measure and print; returns the exit code."""
    asked = _arguments()
    if asked.first:
        os.environ[FIRST] = "1"
        go_first()
    exit_on_term()
    programs = _programs(asked)
    if not programs:
        print("None of the targets is installed.", file=sys.stderr)
        return 1
    versions = [version(TARGETS[name], program) for name, program in programs.items()]
    before = tables.machine(versions)
    try:
        with _folder(asked.work) as folder, tools(folder, _cores()[1], LIFE_SECONDS) as ready:
            samples = list(_samples(asked, programs, ready))
    except (Failed, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if asked.json:
        content = {"machine": before, "samples": [asdict(sample) for sample in samples]}
        Path(asked.json).write_text(json.dumps(content, indent=1) + "\n")
    if asked.picture:
        Path(asked.picture).write_text(picture(samples, list(programs), _note(before, asked)))
    print(_report(samples, list(programs), before, asked))
    return _verdict(samples)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=_phases(), formatter_class=_Formatter)
    parser.add_argument("--targets", type=_names(TARGETS), default=list(TARGETS), help=f"of {','.join(TARGETS)} (default all)")
    parser.add_argument("--phases", type=_names(PHASES), default=list(PHASES), help="of those below (default all)")
    parser.add_argument("--reps", type=int, default=3, help="repetitions, each with the targets in another order (default 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured in each run of a phase (default 1)")
    parser.add_argument("--path", default="", help="more folders to find the targets in, separated by colons")
    parser.add_argument("--work", type=Path, help="folder for programs, configurations and logs (default: a temporary one)")
    parser.add_argument("--first", action="store_true", help="before everything else on the machine (root only)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--picture", metavar="FILE", help="draw the CPU of all there, as SVG")
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    return parser.parse_args()


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves the list of phases as it is."""


def _phases() -> str:
    return "phases:\n" + "\n".join(f"  {phase.name:10}{phase.what}" for phase in PHASES.values())


def _names(known):
    def names(text: str) -> list[str]:
        found = [name for name in text.split(",") if name != "direct"]  # measured beside the others in any case
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return found

    return names


def _programs(asked: argparse.Namespace) -> dict[str, Path]:
    """The asked targets that are installed."""
    found = {name: find(TARGETS[name].argv[0], asked.path) for name in asked.targets}
    for name, program in found.items():
        if program is None:
            print(f"{name} is left out: it is not installed (no {TARGETS[name].argv[0]} in PATH or --path).", file=sys.stderr)
    return {name: program for name, program in found.items() if program}


def _cores() -> tuple[int | None, int | None]:
    """The core for the gateway and the one for load and engines; no pinning with a single core."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
            yield Path(folder)


def _samples(asked: argparse.Namespace, programs: dict[str, Path], ready: Tools) -> Iterator[Sample]:
    for repetition in range(asked.reps):
        for name in random.sample(list(programs), len(programs)):
            with started(TARGETS[name], programs[name], ready.engines, _cores()[0], ready.folder) as (pid, port):
                able = TARGETS[name].phases or asked.phases
                for phase in PHASES.values():
                    if phase.name in asked.phases and phase.name in able:
                        sample = measured(ready, name, pid, port, phase, asked.seconds * TARGETS[name].slow)
                        print(f"{repetition + 1}/{asked.reps} {_line(sample)}", file=sys.stderr, flush=True)
                        yield sample


def _line(sample: Sample) -> str:
    start = f"{sample.target:12} {sample.phase:9}"
    if sample.open_bytes and sample.idle_bytes:
        memory = f"{sample.idle_bytes / 1e6:.1f} → {sample.open_bytes / 1e6:.1f} MB, {sample.streams} streams open"
        return f"{start} {memory}, bad {sample.bad}"
    return f"{start} {sample.cpu:6.1f} µs CPU per {PHASES[sample.phase].unit}, {sample.rate:,.0f}/s, bad {sample.bad}"


def _report(samples: Sequence[Sample], targets: Sequence[str], before: str, asked: argparse.Namespace) -> str:
    kinds = (tables.cpu_table, tables.core_table, tables.latency_table, tables.memory_table)
    found = [rows for rows in (kind(samples, targets) for kind in kinds) if len(rows) > 1]
    return "\n\n".join([_note(before, asked), *(tables.table(rows, markdown=asked.markdown) for rows in found)])


def _note(before: str, asked: argparse.Namespace) -> str:
    note = f"Medians of {asked.reps} runs of {asked.seconds:g} s (range in brackets). {before}"
    return note + (f", {os.getloadavg()[0]:.1f} at the end." if _cores()[0] is not None else "; one core: nothing was pinned.")


def _verdict(samples: Sequence[Sample]) -> int:
    spoiled = [sample for sample in samples if sample.bad]
    for sample in spoiled:
        print(f"BAD: {sample.bad} answers of {sample.target} in {sample.phase} were not whole.", file=sys.stderr)
    return 1 if spoiled else 0


if __name__ == "__main__":
    sys.exit(main())
