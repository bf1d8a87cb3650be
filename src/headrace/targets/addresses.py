"""Where replicas listen: Unix sockets in a folder that only we can enter, or free loopback ports."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from headrace.errors import ReplicaError

LONGEST_SOCKET_PATH = 103
"""Bytes, without the final zero: 107 on Linux (unix(7)), 103 on macOS."""

SHORT_PLACE = Path("/tmp")
_LONGEST_NAME = 40
_PORT_TRIES = 100
_PREFIX = "headrace-"
_LOCK = "lock"


class Addresses:
    """The sockets of one target, in a folder of its own (mode 0700) under `run_dir`, or where paths in it would be too long for a
    socket in the system's temporary folder, or in /tmp. Folders that a killed Headrace left in any of them are removed. Raises
    ReplicaError when none of them will do.
    """

    def __init__(self, run_dir: Path) -> None:
        places = dict.fromkeys((run_dir, Path(tempfile.gettempdir()), SHORT_PLACE))  # TMPDIR may be long, and run_dir be that
        for place in places:
            _sweep(place)
        self._folder = _private_folder(places)
        self._lock = _locked(self._folder)

    def socket(self, replica: str) -> Path:
        """The path of a replica's socket; nothing is there."""
        path = self._folder / f"{short_name(replica)}.sock"
        path.unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Remove the folder and what is in it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def short_name(replica: str) -> str:
    """`replica` as a file name of at most 40 characters, different for different replicas."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", replica)
    if readable == replica and len(readable) <= _LONGEST_NAME:
        return readable
    digest = hashlib.blake2s(replica.encode(), digest_size=4).hexdigest()
    return f"{readable[-(_LONGEST_NAME - 9) :]}-{digest}"


def free_port(count: int = 1) -> int:
    """A loopback port that was free a moment ago, with `count - 1` free ones after it. Whoever loses the race for it fails to
    start and is given another. Raises OSError when there are none.
    """
    for _ in range(_PORT_TRIES):
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError, OverflowError):  # or there are none after it
            first = _bound(probes, 0)
            for offset in range(1, count):
                _bound(probes, first + offset)
            return first
    raise OSError(errno.EADDRINUSE, f"no {count} free ports in a row")


def _bound(probes: contextlib.ExitStack, port: int) -> int:
    probe = probes.enter_context(socket.socket())
    probe.bind(("127.0.0.1", port))
    return int(probe.getsockname()[1])


def _private_folder(places: Iterable[Path]) -> Path:
    """In the first of the places that is short enough and can be written."""
    for place in places:
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            if len(os.fsencode(folder)) + len("/.sock") + _LONGEST_NAME <= LONGEST_SOCKET_PATH:
                return folder
            folder.rmdir()
    where = ", ".join(map(str, places))
    raise ReplicaError(
        f"Engines listen on sockets in a folder with a short path, and none of {where} will do.", "Set TMPDIR to one."
    )


def _locked(folder: Path) -> BinaryIO:
    """A file that says by its lock that the folder is in use. It gets its name when it is locked: `_sweep` never finds it
    without. A process id would not do: they are used again, and another container's are not ours.
    """
    new = folder / f"{_LOCK}.new"
    file = new.open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    new.rename(folder / _LOCK)
    return file


def _sweep(place: Path) -> None:
    for lock in place.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            # Anybody may put a pipe there, or a link: neither may hold us up or lead us away.
            with open(os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
                if os.fstat(file.fileno()).st_uid != os.getuid():
                    continue
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, or not ours
            continue
