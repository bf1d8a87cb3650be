"""Where a running Headrace waits for the next one: a Unix socket in a folder of its user, found by the gateway's address."""

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from headrace.handover.line import HandoverError


def path_for(host: str, port: int) -> Path:
    """Where the Headrace that listens at the address waits, in a folder that only its user can enter. Raises HandoverError."""
    folder = Path(tempfile.gettempdir(), f"headrace-handover-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        seen = folder.lstat()  # anybody may have made it, or a link of that name
    except OSError as error:
        raise HandoverError(f"{folder} cannot be made: {error.strerror}.") from None
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or stat.S_IMODE(seen.st_mode) & 0o077:
        raise HandoverError(f"{folder} is not a folder of this user that nobody else can enter.", "Remove it.")
    return folder / f"{host.replace('/', '_')}-{port}.sock"


class Place:
    """The Unix socket at a path, in the place of what a Headrace before left there."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path
        draft = path.with_name(f".{os.getpid()}")
        try:
            draft.unlink(missing_ok=True)
            self.socket.bind(os.fspath(draft))
            self.socket.listen(4)
            self.socket.setblocking(False)
            self._file = draft.stat().st_ino
            draft.rename(path)
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        """The path goes with it, unless another Headrace's is there by now."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._file:
                self._path.unlink()
