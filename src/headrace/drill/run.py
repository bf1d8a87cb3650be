"""`headrace drill`: requests without a pause while the model is disturbed, and what became of each."""

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from headrace.drill.base import Asked, Event, Kind, Report, Wish
from headrace.drill.client import ask, counted, row
from headrace.drill.steps import Steps
from headrace.errors import HeadraceError, UsageError, plainly
from headrace.spec.addresses import LOOPBACK
from headrace.units import show_duration

_POLL_SECONDS = 0.3


def drill(url: str, wish: Wish, say: Callable[[str], None]) -> Report:
    """Do it to the gateway at `url`, which must be on this machine. Raises HeadraceError."""
    base = url.rstrip("/").removesuffix("/v1")
    if urlsplit(base).hostname not in LOOPBACK:
        raise UsageError(f"{base} is not on this machine: a drill kills processes, and those it can see are here.")
    if row(base, wish.model)["task"] not in ("generate", None):
        raise UsageError(f"{wish.model} does not generate text: only models that do are drilled in this version.")
    if wish.swap is not None and not row(base, wish.swap)["planned"]["sleeps"]:
        raise UsageError(f"{wish.swap} never sleeps: a swap takes a model that waits its turn.", "Give it share: swap.")
    return _Drill(base, wish, say).run()


class _Drill:
    def __init__(self, url: str, wish: Wish, say: Callable[[str], None]) -> None:
        self._url, self._wish, self._say = url, wish, say
        self._report, self._lock, self._over = Report(wish.model), threading.Lock(), threading.Event()
        self._in_flight: dict[int, float] = {}
        """When each client's present request began, in monotonic seconds."""
        self._began = time.monotonic()

    def run(self) -> Report:
        before = [counted(self._url, self._wish.model, name) for name in _COUNTERS]
        clients = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(self._wish.clients)]
        for one in clients:
            one.start()
        try:
            self._disturb()
            if not self._until(self._wish.requests):
                self._report.undone.append(f"the rest of {self._wish.requests} requests: none ended within {self._patience}")
        finally:
            self._over.set()
            self._ended(clients)
            self._report.seconds = time.monotonic() - self._began
        after = [counted(self._url, self._wish.model, name) for name in _COUNTERS]
        found = [None if old is None or new is None else new - old for old, new in zip(before, after, strict=True)]
        self._report.resumed, self._report.retried = found
        return self._report

    def _disturb(self) -> None:
        """Each step after some requests in calm. One that cannot be made is told of, and the others are."""
        planned = Steps(self._url, self._wish, self._did).all()
        for number, (kind, step) in enumerate(planned):
            self._until((number + 1) * self._wish.requests // (len(planned) + 2))
            try:
                problem = step()
            except HeadraceError as error:
                problem = str(error)
            except (OSError, http.client.HTTPException) as error:  # of a connection: the gateway may be gone
                problem = f"{type(error).__name__}: {plainly(error)}"
            if problem:
                self._report.undone.append(f"{kind}: {problem}")
                self._did(kind, problem)

    def _until(self, requests: int) -> bool:
        """Wait until so many have ended, which they have; no longer than the wish's patience for the next one."""
        ended, since = len(self._report.asked), time.monotonic()
        while ended < requests and time.monotonic() - since < self._wish.patience_seconds:
            time.sleep(_POLL_SECONDS)
            if len(self._report.asked) > ended:
                ended, since = len(self._report.asked), time.monotonic()
        return ended >= requests

    def _ended(self, clients: Sequence[threading.Thread]) -> None:
        """Wait for what is in flight: what has no end in all that time was dropped."""
        until = time.monotonic() + self._wish.patience_seconds
        for one in clients:
            one.join(max(0.0, until - time.monotonic()))
        with self._lock:
            now, words = time.monotonic(), f"no end within {self._patience}"
            hanging, self._in_flight = self._in_flight, {}
            self._report.asked += [Asked(at - self._began, now - at, "dropped", words) for at in hanging.values()]

    @property
    def _patience(self) -> str:
        return show_duration(self._wish.patience_seconds)

    def _did(self, kind: Kind, what: str) -> None:
        self._report.events.append(Event(time.monotonic() - self._began, kind, what))
        self._say(f"{self._report.events[-1].at:7.1f}s  {what}")

    def _client(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            prompt, stream = f"Count to {number} and {count}.", bool((number + count) % 2)
            self._in_flight[number] = time.monotonic()
            one = ask(self._url, self._wish.model, prompt, self._wish.tokens, self._began, stream=stream)
            with self._lock:
                if self._in_flight.pop(number, None) is not None:  # else it was given up
                    self._report.asked.append(one)


_COUNTERS = ("resumed_streams_total", "retries_total")
