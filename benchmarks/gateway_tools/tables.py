"""What samples say, as tables: medians with their range, ratios, and the machine they hold for."""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from gateway_tools.load import PHASES, Sample

Row = Sequence[str]


def table(rows: Sequence[Row], *, markdown: bool) -> str:
    """Rows of cells under the first row as their head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cpu_table(samples: Sequence[Sample], targets: Sequence[str]) -> list[Row]:
    """CPU of each gateway in every phase, and what Headrace needs of what the others need."""
    others = [target for target in targets if target != "headrace"] if "headrace" in targets else []
    rows: list[Row] = [["CPU, µs", "per", *targets, *(f"headrace / {other}" for other in others)]]
    for phase in PHASES.values():
        found = {target: _values(samples, target, phase.name, "cpu") for target in targets}
        if any(found.values()):
            cells = [_cell(found[target]) for target in targets]
            ratios = [_ratio(found["headrace"], found[other]) for other in others]
            rows.append([phase.name, phase.unit, *cells, *ratios])
    return rows


def core_table(samples: Sequence[Sample], targets: Sequence[str]) -> list[Row]:
    """What one core would do each second at that CPU: load of others distorts it less than what was really done."""
    rows: list[Row] = [["a second and core", "of", *targets]]
    for phase in PHASES.values():
        found = {target: _values(samples, target, phase.name, "cpu") for target in targets}
        if any(found.values()):
            rates = [f"{1e6 / median(values):,.0f}" if values else "–" for values in found.values()]
            rows.append([phase.name, f"{phase.unit}s", *rates])
    return rows


def latency_table(samples: Sequence[Sample], targets: Sequence[str]) -> list[Row]:
    """Latency of the engine itself, and what each gateway adds to it, p50 / p99."""
    rows: list[Row] = [["latency, µs, p50 / p99", "direct", *(f"{target} adds" for target in targets)]]
    for phase in PHASES.values():
        own = [sample for sample in samples if sample.phase == phase.name and sample.direct_p50 is not None]
        if own:
            direct = f"{_median(own, 'direct_p50'):.0f} / {_median(own, 'direct_p99'):.0f}"
            rows.append([phase.name, direct, *(_added([s for s in own if s.target == target]) for target in targets)])
    return rows


def memory_table(samples: Sequence[Sample], targets: Sequence[str]) -> list[Row]:
    """Memory of each gateway without and with open streams."""
    held = {target: [s for s in samples if s.target == target and s.idle_bytes is not None and s.streams] for target in targets}
    if not any(held.values()):
        return [[]]
    streams = max(sample.streams or 0 for own in held.values() for sample in own)
    rows: list[Row] = [["memory (PSS)", *targets]]
    rows.append(["idle, MB", *(_cell([_idle(s) / 1e6 for s in held[target]]) for target in targets)])
    rows.append([f"{streams:,} open streams, MB", *(_cell([_open(s) / 1e6 for s in held[target]]) for target in targets)])
    each = {target: [(_open(s) - _idle(s)) / 1e3 / (s.streams or 1) for s in held[target]] for target in targets}
    rows.append(["per open stream, KB", *(_cell(each[target]) for target in targets)])
    return rows


def machine(versions: Iterable[str]) -> str:
    """What the figures hold for."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    facts = [f"{_processor()}, {cores} usable cores", f"Linux {platform.release()}", f"Python {platform.python_version()}"]
    return "; ".join([*facts, *versions, f"load average {load:.1f}"])


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _values(samples: Iterable[Sample], target: str, phase: str, what: str) -> list[float]:
    own = (getattr(sample, what) for sample in samples if (sample.target, sample.phase) == (target, phase))
    return [value for value in own if value is not None]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
    return f"{median(values):.1f}{spread}"


def _ratio(values: Sequence[float], others: Sequence[float]) -> str:
    return f"{median(values) / median(others):.2f}" if values and others else "–"


def _median(samples: Iterable[Sample], what: str) -> float:
    return median(getattr(sample, what) for sample in samples)


def _added(samples: Sequence[Sample]) -> str:
    if not samples:
        return "–"
    p50 = median((s.p50 or 0) - (s.direct_p50 or 0) for s in samples)
    p99 = median((s.p99 or 0) - (s.direct_p99 or 0) for s in samples)
    return f"{p50:.0f} / {p99:.0f}"


def _idle(sample: Sample) -> int:
    return sample.idle_bytes or 0


def _open(sample: Sample) -> int:
    return sample.open_bytes or 0
