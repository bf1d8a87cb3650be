"""How quiet this machine is before anything is measured on it: a few seconds of looking, and the same small work repeated."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from statistics import median

import psutil

from headrace.measure.statistics import percentile
from headrace.tune.stopping import Quiet

_LOOK_SECONDS = 2.0
_LOOKS = 20
_WORK_BYTES = 4 << 20
_REPEATS = 60


def quiet(cores: int) -> Quiet:
    """Blocks for about three seconds."""
    before = psutil.cpu_times()
    waiting = []
    for _ in range(_LOOKS):
        time.sleep(_LOOK_SECONDS / _LOOKS)
        waiting.append(_runnable())
    others, steal = _use(before, psutil.cpu_times(), _LOOK_SECONDS)
    known = [count for count in waiting if count is not None]
    return Quiet(cores, others, steal, max(0, round(median(known)) - cores) if known else None, _spread(cores))


def _use(before: object, after: object, seconds: float) -> tuple[float, float | None]:
    """(cores in use, share stolen) between two readings of the machine's CPU times; we slept meanwhile."""
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}  # type: ignore[attr-defined]
    idle = spent["idle"] + spent.get("iowait", 0.0)
    total = sum(value for name, value in spent.items() if not name.startswith("guest"))  # guests are in user already
    return max(0.0, total - idle) / seconds, spent["steal"] / total if "steal" in spent and total > 0 else None


def _runnable() -> int | None:
    """Tasks that run or want to, ourselves not counted: proc(5), /proc/loadavg."""
    with suppress(OSError, ValueError, IndexError):
        return max(0, int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1)
    return None


def _spread(cores: int) -> float:
    """By how much the slow (p90) of the same works on all cores took longer than the quick (p10)."""
    data = os.urandom(_WORK_BYTES)
    times = []
    with ThreadPoolExecutor(cores) as pool:
        for number in range(_REPEATS + 5):
            began = time.perf_counter()
            list(pool.map(lambda _: sha256(data).digest(), range(cores)))  # outside of the GIL
            if number >= 5:
                times.append(time.perf_counter() - began)
    times.sort()
    return percentile(times, 0.9) / percentile(times, 0.1) - 1
