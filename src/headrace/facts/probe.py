"""/proc, cgroups and drivers → Machine: what this process may use, measured once."""

import os
import pathlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import psutil

from headrace.facts import gpus
from headrace.facts.hardware import Machine

LONGEST_SAMPLE_SECONDS = 0.1


def machine(
    root: str | pathlib.Path = "/",
    *,
    cpus: Collection[int] | None = None,
    sample_seconds: float = LONGEST_SAMPLE_SECONDS,
) -> Machine:
    """This machine. `root` holds `proc` and `sys`; `cpus` are the CPUs this process may run on (default: its affinity).

    Blocks for `sample_seconds`, at most 0.1, to see how busy the CPUs are; with 0 it does not and that is unknown. Where there is
    an nvidia-smi, it blocks for that as well.
    """
    tree = pathlib.Path(root)
    mine = frozenset(_affinity() if cpus is None else cpus)
    quota = min(_cpu_quotas(tree), default=None)
    total, free = _memory(tree)
    devices = gpus.found(root)
    return Machine(
        cores=max(1, min(len(mine), len(mine) if quota is None else int(quota))),
        memory_bytes=total,
        memory_free_bytes=max(0, min(free, total)),
        busy_cores=_sampled(tree, mine, sample_seconds),
        quota=quota is not None and quota < len(mine),
        gpus=tuple(card.gpu for card in devices.cards),
        cards=devices.cards,
        remarks=devices.remarks,
    )


def busy_cores(before: str, after: str, cpus: Collection[int]) -> float | None:
    """CPUs among `cpus` that were in use between two readings of /proc/stat; None when they do not tell."""
    first, second = _times(before), _times(after)
    shares = []
    for cpu in cpus:
        if cpu not in first or cpu not in second:
            return None
        busy, total = (new - old for new, old in zip(second[cpu], first[cpu], strict=True))
        if total <= 0:
            return None
        shares.append(min(max(busy / total, 0.0), 1.0))
    return sum(shares) if shares else None


def _affinity() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(psutil.cpu_count() or 1)  # macOS has no affinity


def _sampled(tree: pathlib.Path, cpus: Collection[int], seconds: float) -> float | None:
    before = _text(tree / "proc/stat")
    if before is None or seconds <= 0:
        return None
    time.sleep(min(seconds, LONGEST_SAMPLE_SECONDS))
    after = _text(tree / "proc/stat")
    return None if after is None else busy_cores(before, after, cpus)


def _times(stat: str) -> dict[int, tuple[int, int]]:
    """(busy, total) ticks by CPU. proc(5): user nice system idle iowait irq softirq steal; steal is others' use too."""
    times = {}
    for line in stat.splitlines():
        name, *ticks = line.split() or [""]
        if name.startswith("cpu") and name[3:].isdigit() and len(ticks) >= 5:
            spent = [int(tick) for tick in ticks[:8]]
            times[int(name[3:])] = (sum(spent) - spent[3] - spent[4], sum(spent))
    return times


def _memory(tree: pathlib.Path) -> tuple[int, int]:
    """(total, free) in bytes: the machine's, or the cgroup's where that is less."""
    total, free = _machine_memory(tree)
    for limit, used in _memory_limits(tree):
        if limit < total:
            total = limit
        if used is not None:
            free = min(free, limit - used)
    return total, free


def _machine_memory(tree: pathlib.Path) -> tuple[int, int]:
    values = _table(tree / "proc/meminfo")
    if "MemTotal" in values and "MemAvailable" in values:
        return values["MemTotal"] * 1024, values["MemAvailable"] * 1024
    memory = psutil.virtual_memory()  # macOS
    return int(memory.total), int(memory.available)


@dataclass(frozen=True, slots=True)
class _Files:
    """What one version of cgroups calls the files read here."""

    controllers: str
    limit: str
    used: str
    reclaimable: str


_V1 = _Files("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("", "memory.max", "memory.current", "inactive_file")


def _memory_limits(tree: pathlib.Path) -> Iterator[tuple[int, int | None]]:
    """(limit, used) of every cgroup above this process that has a limit."""
    for files in (_V1, _V2):
        for group in _groups(tree, files.controllers):
            limit = _number(_text(group / files.limit))
            if limit is not None and limit < 2**60:  # cgroup v1 writes "no limit" as 2**63 less a page
                yield limit, _used(group, files)


def _used(group: pathlib.Path, files: _Files) -> int | None:
    """Bytes in use without the page cache that the kernel gives back under pressure, as Kubernetes counts it."""
    used = _number(_text(group / files.used))
    return None if used is None else max(0, used - _table(group / "memory.stat").get(files.reclaimable, 0))


def _cpu_quotas(tree: pathlib.Path) -> Iterator[float]:
    """CPUs allowed by every cgroup above this process that has a quota."""
    for group in _groups(tree, "cpu"):
        quota, period = _number(_text(group / "cpu.cfs_quota_us")), _number(_text(group / "cpu.cfs_period_us"))
        if quota and period and quota > 0:
            yield quota / period
    for group in _groups(tree, ""):
        quota, period = (*map(_number, (_text(group / "cpu.max") or "").split()), None, None)[:2]
        if quota and period:
            yield quota / period


def _groups(tree: pathlib.Path, controller: str) -> list[pathlib.Path]:
    """The folders of this process's cgroup and those above it; "" is the one hierarchy of cgroup v2.

    In a container the path may be the host's, which is not mounted there: the folders that exist are used.
    """
    mount = tree / "sys/fs/cgroup"
    for line in (_text(tree / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controller in controllers.split(","):
            base = next((mount / name for name in (controllers, controller) if (mount / name).is_dir()), mount)
            inner = pathlib.PurePosixPath(path.lstrip("/"))
            return [folder for folder in (base / inner, *(base / up for up in inner.parents)) if folder.is_dir()]
    return []


def _table(path: pathlib.Path) -> dict[str, int]:
    """`name value` lines, as in memory.stat and meminfo."""
    pairs = (line.replace(":", " ").split() for line in (_text(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) >= 2 and pair[1].isdigit()}


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text else None
    except ValueError:  # "max": no limit
        return None


def _text(path: pathlib.Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
