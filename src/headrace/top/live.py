"""`headrace top`: ask a gateway once a second, show it in the terminal, leave the terminal as it was."""

import contextlib
import json
import os
import queue
import select
import shutil
import signal
import socket
import sys
import threading
import time
from typing import Any
from urllib.parse import urlencode

from headrace.errors import HeadraceError
from headrace.report import get
from headrace.top.base import Look, Watched
from headrace.top.view import data, most_top, painted, screen, text

try:
    import termios
    import tty
except ImportError:  # Windows: snapshots only
    termios = tty = None  # type: ignore[assignment]

PERIOD_SECONDS = 1.0
"""Between two looks."""
_DECISIONS_EVERY, _KEYS_EVERY = 3, 10
"""Looks from one request for decisions, and for keys, to the next: they change rarely."""
_PASTS = 8
"""Models whose history is asked for at one look."""
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
"""The other screen, without a cursor and without wrapping; and back."""
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_UP, _DOWN = (b"\x1b[A", b"\x1bOA", b"k"), (b"\x1b[B", b"\x1bOB", b"j")


class Asker:
    """Asks one gateway; each call is a look. `whole` as of Watched; with `past`, curves begin with what the gateway recorded."""

    def __init__(self, url: str, *, whole: bool = False, past: bool = False) -> None:
        self._url, self._watched = url, Watched(url, whole=whole)
        self._past = past
        self._begun: set[str] = set()
        self._looks = 0
        self._decisions: list[dict[str, Any]] = []
        self._keys: list[dict[str, Any]] | None = None
        self._decisions_at = 0.0

    def look(self) -> Look:
        """What it answers now. Raises HeadraceError."""
        try:
            return self._look()
        except (LookupError, TypeError, AttributeError) as error:
            raise HeadraceError(f"What answers at {self._url} is no gateway of this version: {error!r}.") from None

    def lasting(self) -> Look:
        """The same; while it is away, the last that was known and why."""
        try:
            return self.look()
        except HeadraceError as error:
            self._looks = 0  # whoever comes back may be another
            return self._watched.lost(time.time(), error.what)

    def _look(self) -> Look:
        status = get(self._url, "/admin/status")
        now = time.time()
        if self._looks % _DECISIONS_EVERY == 0:
            self._decisions, self._decisions_at = get(self._url, "/admin/decisions")["decisions"], now
        if self._looks % _KEYS_EVERY == 0:
            self._keys = get(self._url, "/admin/keys")["keys"]
        self._looks += 1
        if self._past:
            self._recorded([model["name"] for model in status["models"]])
        aged = [{**row, "ago_seconds": row["ago_seconds"] + now - self._decisions_at} for row in self._decisions]
        return self._watched.seen(now, status, aged, self._keys)

    def _recorded(self, models: list[str]) -> None:
        """Begin the curves of a few models. Where no history is kept they begin now."""
        for name in [name for name in models if name not in self._begun][:_PASTS]:
            self._begun.add(name)
            with contextlib.suppress(HeadraceError):
                found = get(self._url, "/admin/pages/history?" + urlencode({"model": name, "span": "15m"}))
                self._watched.before(found["until"], name, found["columns"]["at"], found["columns"]["rate_out"])


def once(url: str, *, as_json: bool) -> str:
    """One snapshot, after two looks so that rates are known. Raises HeadraceError."""
    asker = Asker(url, whole=True)
    asker.look()
    time.sleep(PERIOD_SECONDS)
    look = asker.look()
    return json.dumps(data(look)) if as_json else text(look)


def lines(url: str) -> None:
    """A JSON object in a line for each look, until Ctrl-C or nobody reads. Raises HeadraceError with no gateway at first."""
    asker = Asker(url)
    look = asker.look()
    while True:
        print(json.dumps(data(look)), flush=True)
        time.sleep(PERIOD_SECONDS)
        look = asker.lasting()


def live(url: str) -> None:
    """The view, until q or Ctrl-C. Needs a terminal. Raises HeadraceError when there is no gateway at first."""
    asker = Asker(url, past=True)
    first = asker.look()
    colour = not os.environ.get("NO_COLOR")
    with _Terminal() as terminal:
        _Session(asker, first, colour, terminal).run()


def can_live() -> bool:
    """Whether there is a terminal at both ends that can be drawn on."""
    return termios is not None and sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


class _Session:
    def __init__(self, asker: Asker, first: Look, colour: bool, terminal: "_Terminal") -> None:
        self._asker, self._look, self._colour, self._terminal = asker, first, colour, terminal
        self._top = 0
        self._looks: queue.SimpleQueue[Look] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Until q. Keys, looks, and changes of the window are answered as they come."""
        threading.Thread(target=self._ask, daemon=True, name="top-asks").start()  # may hang for as long as a request may
        try:
            while True:
                self._draw()
                keys = self._terminal.wait()
                if keys is not None and not self._pressed(keys):
                    return
                self._newest()
        finally:
            self._stopped.set()

    def _ask(self) -> None:
        while not self._stopped.wait(PERIOD_SECONDS):
            self._looks.put(self._asker.lasting())
            self._terminal.wake()

    def _newest(self) -> None:
        while not self._looks.empty():
            self._look = self._looks.get_nowait()

    def _pressed(self, keys: bytes) -> bool:
        """False when it is over; no bytes mean that the terminal is gone."""
        if not keys or b"q" in keys.lower() or b"\x04" in keys:
            return False
        self._top += sum(map(keys.count, _DOWN)) - sum(map(keys.count, _UP))
        return True

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        self._top = max(0, min(self._top, most_top(self._look, width, height)))
        made = painted(screen(self._look, width, height, self._top), colour=self._colour)
        self._terminal.write(_HOME + "\n".join(line + _REST_OF_LINE for line in made) + _REST_OF_SCREEN)


class _Terminal:
    """The terminal while it shows the view: keys as they are pressed, the other screen. As it was after every way out of `with`,
    and while the program is stopped by Ctrl-Z.
    """

    def __init__(self) -> None:
        self._keys, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)

    def __enter__(self) -> "_Terminal":
        self._before = termios.tcgetattr(self._keys)
        self._wakeup = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        handlers = {
            signal.SIGWINCH: lambda *_: None,  # it only has to interrupt the waiting
            signal.SIGTERM: _ended,
            signal.SIGHUP: _ended,
            signal.SIGTSTP: self._stopped,
        }
        self._handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._enter()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            self._leave()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._woken.close()
        self._waker.close()

    def wait(self) -> bytes | None:
        """Until something happens: the keys that were pressed, or None."""
        ready, _, _ = select.select([self._keys, self._woken], [], [])
        if self._woken in ready:
            self._woken.recv(4096)
        return os.read(self._keys, 64) if self._keys in ready else None

    def wake(self) -> None:
        """End the waiting, from another thread."""
        with contextlib.suppress(OSError):  # awake already, or over
            self._waker.send(b"w")

    def write(self, text: str) -> None:
        """To the terminal, past Python's buffer: a signal's handler may write while something is being written."""
        left = memoryview(text.encode(sys.stdout.encoding, "replace"))
        while left:
            left = left[os.write(self._out, left) :]

    def _enter(self) -> None:
        tty.setcbreak(self._keys)
        self.write(_ENTER)

    def _leave(self) -> None:
        self.write(_LEAVE)
        termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _stopped(self, number: int, frame: object) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()  # `fg`


def _ended(number: int, frame: object) -> None:
    sys.exit(128 + number)
