"""What this process may use, read from small fake /proc and /sys trees."""

from pathlib import Path

import pytest

from headrace.facts.hardware import Machine
from headrace.facts.probe import busy_cores, machine

GIB = 2**30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": MEMINFO} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def read(root: Path, files: dict[str, str], cpus: int = 8) -> Machine:
    return machine(tree(root, files), cpus=range(cpus), sample_seconds=0)


V2 = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/cgroup.controllers": "cpu memory"}
V1 = {"proc/self/cgroup": "4:memory:/a\n2:cpu,cpuacct:/a/b\n0::/\n"}
CPU1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "cores", "quota"),
    [
        ({}, 8, False),  # no cgroups at all
        (V2, 8, False),  # a cgroup without limits
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 8, False),  # "max" is no limit
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "250000 100000"}, 2, True),  # 2.5 CPUs are two whole ones
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "50000 100000"}, 1, True),  # half a CPU still runs one thread
        (V2 | {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 1"}, 3, True),  # above us
        (V2 | {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4, True),  # a container sees its own group as the root
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "1600000 100000"}, 8, False),  # wider than the affinity: no limit for us
        (V2 | {"sys/fs/cgroup/a/b/cpu.max": "nonsense"}, 8, False),  # unreadable is unknown, not zero
        (V1 | {f"{CPU1}/a/b/cpu.cfs_quota_us": "-1", f"{CPU1}/a/b/cpu.cfs_period_us": "100000"}, 8, False),  # none
        (V1 | {f"{CPU1}/a/cpu.cfs_quota_us": "150000", f"{CPU1}/a/cpu.cfs_period_us": "100000"}, 1, True),
        (V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 2, True),
    ],
)
def test_cores_are_what_affinity_and_quota_leave(files: dict[str, str], cores: int, quota: bool, tmp_path: Path) -> None:
    found = read(tmp_path, files)
    assert (found.cores, found.quota) == (cores, quota)


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        ({}, 16 * GIB, 8 * GIB),  # what the kernel says could be had, not what lies idle
        (V2 | {"sys/fs/cgroup/a/b/memory.max": "max"}, 16 * GIB, 8 * GIB),
        (V2 | {"sys/fs/cgroup/a/b/memory.max": str(4 * GIB)}, 4 * GIB, 4 * GIB),  # use unknown: at most the limit
        (V2 | {"sys/fs/cgroup/a/memory.max": str(4 * GIB), "sys/fs/cgroup/a/memory.current": str(GIB)}, 4 * GIB, 3 * GIB),
        (
            V2
            | {
                "sys/fs/cgroup/a/b/memory.max": str(4 * GIB),
                "sys/fs/cgroup/a/b/memory.current": str(4 * GIB),
                "sys/fs/cgroup/a/b/memory.stat": f"anon 5\ninactive_file {3 * GIB}\n",
            },
            4 * GIB,
            3 * GIB,
        ),  # page cache of a download is given back
        (
            V1
            | {
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(2 * GIB),
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": str(GIB),
                "sys/fs/cgroup/memory/a/memory.stat": f"total_inactive_file {GIB // 2}\n",
            },
            2 * GIB,
            3 * GIB // 2,
        ),
        (V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 16 * GIB, 8 * GIB),  # v1's "none"
        (
            V2 | {"sys/fs/cgroup/memory.max": str(GIB), "sys/fs/cgroup/memory.current": str(2 * GIB)},
            GIB,
            0,
        ),  # over its limit for a moment: nothing is free, never less
    ],
)
def test_memory_is_the_machines_or_the_cgroups(files: dict[str, str], total: int, free: int, tmp_path: Path) -> None:
    found = read(tmp_path, files)
    assert (found.memory_bytes, found.memory_free_bytes) == (total, free)


BEFORE = "cpu  0 0 0 0\ncpu0 100 0 50 800 50 0 0 0 0 0\ncpu1 10 0 0 90 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0\nintr 1\n"
AFTER = "cpu  0 0 0 0\ncpu0 110 0 50 800 50 0 0 0 0 0\ncpu1 10 0 0 95 0 0 0 5 0 0\ncpu2 0 0 0 0 0 0 0 0\nintr 2\n"


@pytest.mark.parametrize(
    ("cpus", "busy"),
    [
        ((0,), 1.0),  # ten ticks, all of them work
        ((1,), 0.5),  # half of it stolen by other virtual machines: not ours to use
        ((0, 1), 1.5),  # the sum over the CPUs that we may use
        ((2,), None),  # no time passed there: unknown, not idle
        ((7,), None),  # not listed
        ((), None),
    ],
)
def test_busy_cores_are_counted_between_two_readings(cpus: tuple[int, ...], busy: float | None) -> None:
    assert busy_cores(BEFORE, AFTER, cpus) == busy


def test_a_clock_that_goes_back_is_unknown() -> None:
    assert busy_cores(AFTER, BEFORE, (0,)) is None


def test_without_proc_stat_busy_is_unknown(tmp_path: Path) -> None:
    assert machine(tree(tmp_path, {}), cpus=(0,)).busy_cores is None


def test_a_still_picture_of_the_machine_says_nothing_of_its_load(tmp_path: Path) -> None:
    assert machine(tree(tmp_path, {"proc/stat": BEFORE}), cpus=(0,), sample_seconds=0.001).busy_cores is None


def test_without_meminfo_the_system_is_asked_another_way(tmp_path: Path) -> None:
    assert machine(tmp_path, cpus=(0,), sample_seconds=0).memory_bytes > 0


def test_this_machine_is_read_without_waiting() -> None:
    here = machine(sample_seconds=0)
    assert here.cores >= 1
    assert 0 < here.memory_free_bytes <= here.memory_bytes
    assert here.busy_cores is None
