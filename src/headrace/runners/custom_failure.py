"""What goes wrong with a user's code, as clients are told it: a status and one sentence; the traceback is for the log."""

import sys
import traceback

from headrace.runners.openai import Refused

_LONGEST_MESSAGE = 500


class Failure(Refused):
    """An answer that is an error. `final`: calling again with fewer inputs would change nothing."""

    def __init__(self, status: int, message: str, code: str, *, final: bool = False, param: str | None = None) -> None:
        super().__init__(status, message, code, param, "server_error" if status >= 500 else "invalid_request_error")
        self.final = final


def raised(where: str, error: BaseException) -> Failure:
    """What clients are told of an exception of the user's: its type and message.

    The status is 500, unless the exception has a `status` from 400 to 499, by which code says that the input is at fault.
    """
    status = getattr(error, "status", None)
    message = f"{where} raised {said(error)}"
    if isinstance(status, int) and 400 <= status < 500:
        return Failure(status, message, "bad_input")
    return Failure(500, message, "model_error")


def said(error: BaseException) -> str:
    """An exception in one line: `ValueError: negative amount`."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # the user's __str__
        text = ""
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + "…"


def log(error: BaseException) -> None:
    """The traceback on stderr, from the user's own first frame on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    print("".join(traceback.format_exception(type(error), error, frames)), file=sys.stderr, end="", flush=True)


def _ours(file: str) -> bool:
    return file.startswith(("<frozen importlib", _FOLDER))


_FOLDER = __file__.removesuffix("custom_failure.py")
