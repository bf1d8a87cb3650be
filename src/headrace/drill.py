"""`headrace drill`: requests without a pause while replicas are killed, scaled and graduate; and what became of each."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from headrace.errors import UsageError
from headrace.report import get, post
from headrace.units import show_duration

End = Literal["whole", "told", "dropped"]
"""A complete answer; a clear error, as a status or as the last event of a stream; neither."""
_SECONDS = 300.0
_SETTLED_SECONDS = 120.0
_POLL_SECONDS = 0.3
_MOST_TOLD = 10


@dataclass(frozen=True, slots=True)
class Wish:
    """What to do: `requests` at least, from `clients` at once; kill so often, hold other numbers, graduate there and back."""

    model: str
    requests: int = 200
    clients: int = 4
    tokens: int = 32
    kills: int = 2
    scale: bool = True
    graduate: str | None = None


@dataclass(slots=True)
class Report:
    """How requests ended, and what was done meanwhile, in sentences with the seconds since the beginning."""

    ends: Counter[End] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    """Of those that are not whole."""
    done: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> str:
        """For people: what was done was said as it was done."""
        line = (
            f"{sum(self.ends.values())} requests in {show_duration(self.seconds)}: {self.ends['whole']} whole, "
            f"{self.ends['told']} ended in a clear error, {self.ends['dropped']} dropped."
        )
        return "\n".join([line, *(f"  {count} x {words}" for words, count in self.words.most_common(_MOST_TOLD))])

    def data(self) -> str:
        """For machines."""
        done = [{"at_seconds": round(at, 3), "did": said} for at, said in self.done]
        ends = {end: self.ends[end] for end in ("whole", "told", "dropped")}
        return json.dumps({"ends": ends, "words": self.words, "done": done, "seconds": round(self.seconds, 3)}, indent=2)


def drill(url: str, wish: Wish, say: Callable[[str], None]) -> Report:
    """Do it to the gateway at `url`, which must be on this machine. Raises HeadraceError."""
    base = url.rstrip("/").removesuffix("/v1")
    if urlsplit(base).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise UsageError(f"{base} is not on this machine: a drill kills processes, and those it can see are here.")
    row = _row(base, wish.model)
    if row["task"] not in ("generate", None):
        raise UsageError(f"{wish.model} does not generate text: only models that do are drilled in this version.")
    return _Drill(base, wish, say).run()


class _Drill:
    def __init__(self, url: str, wish: Wish, say: Callable[[str], None]) -> None:
        self._url, self._wish, self._say = url, wish, say
        self._report, self._lock, self._over = Report(), threading.Lock(), threading.Event()
        self._began = time.monotonic()

    def run(self) -> Report:
        clients = [threading.Thread(target=self._client, args=(number,)) for number in range(self._wish.clients)]
        for one in clients:
            one.start()
        try:
            for disturb in self._disturbances():
                disturb()
            while sum(self._report.ends.values()) < self._wish.requests:
                time.sleep(_POLL_SECONDS)
        finally:
            self._over.set()
            for one in clients:
                one.join()
            self._report.seconds = time.monotonic() - self._began
        return self._report

    def _disturbances(self) -> Iterator[Callable[[], None]]:
        """Each after some requests in calm."""
        steps: list[Callable[[], None]] = [self._kill] * self._wish.kills
        if self._wish.scale:
            steps.append(self._scale)
        if self._wish.graduate:
            steps += [self._graduate]
        for number, one in enumerate(steps):
            self._until(number * self._wish.requests // (len(steps) + 1))
            yield one

    def _until(self, requests: int) -> None:
        while sum(self._report.ends.values()) < requests:
            time.sleep(_POLL_SECONDS)

    def _did(self, what: str) -> None:
        self._report.done.append((time.monotonic() - self._began, what))
        self._say(f"{self._report.done[-1][0]:7.1f}s  {what}")

    # ---- what is done to it

    def _kill(self) -> None:
        """SIGKILL to one of its replicas, then wait until it is back."""
        ready = [one for one in _row(self._url, self._wish.model)["replicas"] if one["pid"] and one["state"] == "ready"]
        if not ready:
            return self._did("no replica is ready that could be killed")
        os.kill(ready[0]["pid"], signal.SIGKILL)
        self._did(f"killed {ready[0]['name']} (pid {ready[0]['pid']}, {ready[0]['in_flight']} in flight)")
        name, pid = ready[0]["name"], ready[0]["pid"]
        self._settle(lambda row: any(_again(one, name, pid) for one in row["replicas"]), f"{name} is back")

    def _scale(self) -> None:
        """Hold one replica, then as many as the plan says."""
        if _row(self._url, self._wish.model)["planned"]["most"] < 2:
            return self._did("it has one replica: nothing to scale")
        if self._want("1"):
            self._settle(lambda row: len(row["replicas"]) == 1, "held at 1")
            self._want("auto")

    def _want(self, want: str) -> bool:
        connection = _connected(self._url)
        fields = urlencode({"model": self._wish.model, "want": want})
        connection.request("POST", "/admin/wanted", fields, _authorized("application/x-www-form-urlencoded"))
        answer = connection.getresponse()
        answer.read()
        connection.close()
        asked = "as many replicas as planned" if want == "auto" else f"{want} replica"
        self._did(f"asked for {asked}" + ("" if answer.status == 200 else f": refused with {answer.status}"))
        return answer.status == 200

    def _graduate(self) -> None:
        """There, and back."""
        home = _row(self._url, self._wish.model)["planned"]["engine"]
        for to in (self._wish.graduate, home):
            rules = {"steps": [10, 50, 100], "answers": 10, "patience_seconds": 20.0, "slower": 100.0}
            post(self._url, "/admin/graduations", {"model": self._wish.model, "to": to, "rules": rules})
            self._did(f"graduates to {to}")
            while not (one := self._graduation())["over"]:
                time.sleep(_POLL_SECONDS)
            self._did(f"{one['phase']}: {one['reason']}")
            if one["phase"] != "done":
                return

    def _graduation(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = get(self._url, "/admin/graduations")["graduations"]
        return next(one for one in rows if one["model"] == self._wish.model)

    def _settle(self, is_so: Callable[[dict[str, Any]], bool], what: str) -> None:
        until = time.monotonic() + _SETTLED_SECONDS
        while not is_so(_row(self._url, self._wish.model)):
            if time.monotonic() > until:
                return self._did(f"not within {show_duration(_SETTLED_SECONDS)}: {what}")
            time.sleep(_POLL_SECONDS)
        self._did(what)

    # ---- requests

    def _client(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            end, words = _asked(self._url, self._wish, f"Count to {number} and {count}.", stream=bool((number + count) % 2))
            with self._lock:
                self._report.ends[end] += 1
                if words:
                    self._report.words[f"{end}: {words}"] += 1


def _row(url: str, model: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = get(url, "/admin/status")["models"]
    for row in rows:
        if model == row["name"]:
            return row
    raise UsageError(f'The gateway has no model "{model}".', f"It has: {', '.join(row['name'] for row in rows)}.")


def _again(replica: dict[str, Any], name: str, pid: int) -> bool:
    return bool(replica["name"] == name and replica["state"] == "ready" and replica["pid"] not in (None, pid))


def _connected(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_SECONDS)


def _authorized(kind: str) -> dict[str, str]:
    key = os.environ.get("HEADRACE_KEY", "")
    return {"Content-Type": kind} | ({"Authorization": f"Bearer {key}"} if key else {})


def _asked(url: str, wish: Wish, prompt: str, *, stream: bool) -> tuple[End, str]:
    """How a request ended, and in which words when that was not well."""
    messages = [{"role": "user", "content": prompt}]
    body = json.dumps({"model": wish.model, "messages": messages, "max_tokens": wish.tokens, "stream": stream})
    connection = _connected(url)
    try:
        connection.request("POST", "/v1/chat/completions", body, _authorized("application/json"))
        answer = connection.getresponse()
        return ended(answer.status, _read(answer), stream=stream)
    except (OSError, http.client.HTTPException) as error:
        return "dropped", f"{type(error).__name__}: {error}"[:120]
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read()
    except http.client.IncompleteRead as cut:  # how a stream ends after its error event
        return cut.partial


def ended(status: int, body: bytes, *, stream: bool) -> tuple[End, str]:
    """What an answer comes to, by all of its bytes."""
    if status == 200 and stream and b'data: {"error"' in body and b"data: [DONE]" not in body:
        return "told", f"a stream's last event: {_message(body.rpartition(b'data: ')[2])}"
    if status == 200:
        whole = b"data: [DONE]" in body if stream else b'"choices"' in body and body.rstrip().endswith(b"}")
        return ("whole", "") if whole else ("dropped", f"cut after {len(body)} bytes")
    message = _message(body)
    return ("told", f"{status}: {message}") if message else ("dropped", f"{status} without a word")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])[:120]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
