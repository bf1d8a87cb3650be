"""Whether a file changed, by what the system says of it."""

import os
from pathlib import Path


def stamp(path: Path) -> object:
    """Another value whenever the file is another or was written; links are followed, and a file that is not there has one too."""
    try:
        seen = os.stat(path)
    except OSError as error:
        return error.errno
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size
