"""How much memory process trees take."""

from collections.abc import Iterable

import psutil


def resident(pids: Iterable[int]) -> dict[int, int]:
    """Resident bytes of each process with all its descendants; processes that are gone are left out."""
    found = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found[pid] = sum(_resident(each) for each in (process, *process.children(recursive=True)))
        except (psutil.Error, OSError):  # gone, or no descriptor left to look with
            continue
    return found


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # a child that ended since it was listed
        return 0
