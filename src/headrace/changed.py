"""Whether files are to be read again, by what the system says of them; and whether what is wrong with them is news."""

import os
from pathlib import Path


class Followed:
    """Files that are read again when they changed, and as long as they could not be read."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen: object = None
        self._read: object = None
        self._told: object = None

    def changed(self) -> bool:
        """Whether they are others than those that were `read` last."""
        self._seen = [_stamp(path) for path in self._paths]  # before they are read: what changes meanwhile is read next time
        return self._seen != self._read

    def read(self) -> None:
        """They were, and need not be again, whatever is in them. Not so where the system refused: it may not the next time."""
        self._read, self._told = self._seen, None

    def is_news(self, wrong: str, *, unread: bool) -> bool:
        """They were wrong, or the system refused to read them (`unread`); whether that was not told of them yet."""
        told, self._told = self._told, (self._seen, wrong)
        is_news = told != self._told
        if not unread:
            self.read()
        return is_news


def _stamp(path: Path) -> object:
    """Another value whenever the file is another or was written; links are followed, and a file that is not there has one too."""
    try:
        seen = os.stat(path)
    except OSError as error:
        return error.errno
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size
