"""What a tune leaves in the cache: trials as JSON lines, a lock against a second one, and what it stopped and has to restore."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.control.journal import written
from headrace.control.wishes import AUTO
from headrace.errors import HeadraceError
from headrace.tune.base import Trial
from headrace.tune.record import line, trials


class BusyError(HeadraceError):
    """Another tune runs on this machine."""

    exit_code = 75


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the machine's one place for a tune; raises BusyError when it is taken. The kernel frees it however we end."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(folder / "running", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HeadraceError(f"{folder} cannot be written: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            who = os.read(file, 32).decode("ascii", "replace").strip()
            raise BusyError(
                f"Another headrace tune runs here (pid {who}): two would measure each other.", "Wait for it."
            ) from None
        with suppress(OSError):  # a full disk: the lock holds without the number
            os.ftruncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        yield
    finally:
        os.close(file)


class Trials:
    """The trials of one question (model, mix, machine, versions), kept as they come; `say` tells once when they cannot be."""

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self.file, self._say = file, say
        self._kept = True

    def read(self) -> list[Trial]:
        """Those of earlier runs."""
        try:
            return list(trials(self.file.read_bytes()))
        except OSError:
            return []

    def forget(self) -> None:
        """Begin anew."""
        self.file.unlink(missing_ok=True)

    def add(self, trial: Trial) -> None:
        """Keep one. A full disk does not end a tune: it is said, and the search goes on."""
        if not self._kept:
            return
        try:
            with self.file.open("ab") as stream:
                stream.write(line(trial))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._kept = False
            self._say(f"{self.file} cannot be written ({error.strerror}): this tune goes on, and cannot be resumed.")


@dataclass(frozen=True, slots=True)
class Left:
    """A model that was stopped, the gateway, and the wish that stood before. `reason` is what the gateway said once it was
    stopped, with who asked for that; empty until then.
    """

    url: str
    model: str
    wish: str = AUTO
    reason: str = ""


class Stopped:
    """Which model was stopped for a tune, at which gateway: on the disk before it is stopped, gone once it is restored."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "stopped.json"

    @property
    def place(self) -> Path:
        """Where that is kept."""
        return self._file

    def write(self, left: Left) -> None:
        """Raises HeadraceError: what could not be restored is not stopped."""
        try:
            written(self._file, json.dumps(asdict(left)).encode())
        except OSError as error:
            raise HeadraceError(f"{self._file} cannot be written ({error.strerror}): nothing is stopped.") from None

    def read(self) -> Left | None:
        """What was left stopped."""
        try:
            value = json.loads(self._file.read_bytes())
            return Left(str(value["url"]), str(value["model"]), str(value.get("wish", AUTO)), str(value.get("reason", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def clear(self) -> None:
        """It is restored."""
        self._file.unlink(missing_ok=True)
