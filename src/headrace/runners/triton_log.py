"""What tritonserver's log says, line by line: models loaded or not, open doors, and the cause when it ends.

The formats are those of 2.51.0: `E1127 02:17:28.754277 10748 model_lifecycle.cc:642] "failed to load 'bad' version 1: …"`.
"""

import re

_LINE = re.compile(r'^([IWEF])\d{4} [\d:.]+ \d+ [\w.]+:\d+\] "?(.*?)"?$')
_LOADED = re.compile(r"^successfully loaded '(.+)'$")
_BROKEN = re.compile(r"^failed to load '(.+)' version -?\d+: (.*)$")
_UNKNOWN = re.compile(r"^failed to load model '(.+)': (.*)$")
_UNREADABLE = re.compile(r"^Poll failed for model directory '(.+)': (.*)$")
_OPEN = "Started Metrics Service at "  # the last door; that of HTTP is said to be open some 30 ms before it is
_KIND = re.compile(r"^(?:Internal|Invalid argument|Not found|Unavailable|Unknown|Unsupported)(?: -|:) ")

_NOISE = (
    "Unable to allocate pinned system memory",
    "CUDA memory pool disabled",
    "CudaDriverHelper has not been initialized.",
)
"""Said on every machine without a GPU."""


class Log:
    """What was understood so far. `loaded` and `broken` (with the cause) are names of models; `open`: it serves."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.broken: dict[str, str] = {}
        self.open = False
        self.cause = ""
        """The last error, in one line."""

    def hear(self, line: str) -> bool:
        """Whether a reader of the log would miss the line."""
        found = _LINE.match(line)
        if found is None:
            self._plain(line)
            return not line.startswith(("+--", "|")) and bool(line.strip())
        level, message = found[1], found[2]
        if loaded := _LOADED.match(message):
            self.loaded.append(loaded[1])
            self.broken.pop(loaded[1], None)
        for pattern in (_BROKEN, _UNKNOWN, _UNREADABLE):
            if broken := pattern.match(message):
                self.broken[broken[1].rstrip("/").rpartition("/")[2]] = one_line(broken[2])
        self.open |= message.startswith(_OPEN)
        if level in "EF" and not message.startswith(_NOISE):
            self.cause = one_line(message)
        return bool(message) and not message.startswith(_NOISE)

    def _plain(self, line: str) -> None:
        if line.startswith("error: "):  # `error: creating server: Internal - failed to load all models`
            self.cause = one_line(line.removeprefix("error: "))


def one_line(message: str) -> str:
    r"""A message of Triton's without the kind of error, the traceback and the line ends, which it writes as `\n`.

    >>> one_line("Internal: RuntimeError: weights missing\\n\\nAt:\\n  /repo/m/1/model.py(3): initialize\\n")
    'RuntimeError: weights missing'
    """
    text = message.replace("\\n", "\n").partition("\n\nAt:\n")[0]
    return " ".join(_KIND.sub("", text).split())
