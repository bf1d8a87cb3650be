"""What a drill does to a running model. Each step says what it does as it does it, and returns why it could not, else nothing."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.drill.base import Kind, Wish
from headrace.drill.client import ask, row, want
from headrace.drill.killing import kill
from headrace.errors import HeadraceError
from headrace.report import get, post
from headrace.units import show_duration

Step = Callable[[], str]
_RELOAD, _GRADUATIONS = "/admin/reload", "/admin/graduations"
_SETTLED_SECONDS = 180.0
_POLL_SECONDS = 0.3
_ROLLED_TOKENS = 16
"""How much shorter the context of the replicas is that a roll puts in place: another replica, too little to notice."""
_RULES = {"steps": [10, 50, 100], "answers": 10, "patience_seconds": 20.0, "slower": 100.0}
"""A drill is there to see what is dropped: only errors stop a graduation, not that one engine is slower."""


class Steps:
    """The steps of a wish; `did` is told of each thing done."""

    def __init__(self, url: str, wish: Wish, did: Callable[[Kind, str], None]) -> None:
        self._url, self._wish, self._did = url, wish, did

    def all(self) -> list[tuple[Kind, Step]]:
        """In order: kills between the others."""
        wish = self._wish
        asked: tuple[tuple[Kind, Step, bool], ...] = (
            ("scale", self.scale, wish.scale),
            ("swap", self.swap, wish.swap is not None),
            ("roll", self.roll, wish.roll),
            ("reload", self.reload, wish.reload is not None),
            ("graduate", self.graduate, wish.graduate is not None),
        )
        others = [(kind, step) for kind, step, there in asked if there]
        found: list[tuple[Kind, Step]] = []
        for place in range(max(wish.kills, len(others))):
            if place < wish.kills:
                found.append(("kill", self.kill))
            found += others[place : place + 1]
        return found

    def kill(self) -> str:
        """SIGKILL to its busiest replica, then wait until it is back."""
        ready = [one for one in self._row()["replicas"] if one["pid"] and one["state"] == "ready"]
        if not ready:
            return "no replica is ready that could be killed"
        one = max(ready, key=lambda replica: replica["in_flight"])
        if problem := kill(one["pid"], self._url):
            return problem
        self._did("kill", f"killed {one['name']} (pid {one['pid']}, {one['in_flight']} in flight)")
        name, pid = one["name"], one["pid"]
        return self._settled("kill", lambda row: any(_again(other, name, pid) for other in row["replicas"]), f"{name} is back")

    def scale(self) -> str:
        """Hold one replica, then as many as the plan says."""
        if self._row()["planned"]["most"] < 2:
            return "it has one replica: nothing to scale"
        return self._held("scale", "1", lambda row: len(row["replicas"]) == 1, "held at 1 replica")

    def _held(self, kind: Kind, number: str, is_so: Callable[[dict[str, Any]], bool], what: str) -> str:
        """Ask for a number of replicas, wait, and let the plan and the load say again."""
        if (status := want(self._url, self._wish.model, number)) != 200:
            return f"asked for {number} replicas, the gateway answered {status}"
        self._did(kind, f"asked for {number} replica")
        try:
            return self._settled(kind, is_so, what)
        finally:
            want(self._url, self._wish.model, "auto")
            self._did(kind, "asked for as many replicas as planned")

    def swap(self) -> str:
        """Ask the other model: this one makes room when its turn is over, and comes back when the other's is."""
        other = str(self._wish.swap)
        prompt, tokens = "Count to 3.", self._wish.tokens
        asked: list[str] = []

        def once() -> None:
            one = ask(self._url, other, prompt, tokens, time.monotonic(), stream=False)
            asked.append(one.words or one.end)

        self._did("swap", f"asks {other}, for which {self._wish.model} has to make room")
        asking = threading.Thread(target=once, daemon=True)
        asking.start()
        try:
            gone = self._settled("swap", lambda row: not _ready(row), f"{self._wish.model} has made room")
        finally:
            asking.join(self._wish.patience_seconds)
        if not asked:
            return gone or f"{other} had no answer within {self._patience}"
        self._did("swap", f"{other} has answered: {asked[0]}")
        back = self._settled("swap", _ready, f"{self._wish.model} is back")
        return gone or back or ("" if asked == ["whole"] else f"{other} answered: {asked[0]}")

    def roll(self) -> str:
        """Every replica replaced by one with a context a little shorter, and back."""
        row = self._row()
        home, context = row["planned"]["engine"], row["context"]
        if not context or context <= _ROLLED_TOKENS * 4:
            return f"its context of {context} tokens leaves nothing to roll to"
        for tokens in (context - _ROLLED_TOKENS, context):
            if problem := self._moved("roll", {"to": home, "context": tokens}, f"rolls to a context of {tokens} tokens"):
                return problem
        return ""

    def graduate(self) -> str:
        """There, and back."""
        home = self._row()["planned"]["engine"]
        for to in (self._wish.graduate, home):
            if problem := self._moved("graduate", {"to": to}, f"graduates to {to}"):
                return problem
        return ""

    def reload(self) -> str:
        """Another version of the file, then the one that is served."""
        served = get(self._url, "/admin/status").get("served")
        if not served or not Path(served).is_file():
            return "the gateway serves no file"
        other = str(Path(str(self._wish.reload)).absolute())
        problem = self._read(other)
        return self._read(served) or problem  # whatever came of it, the served one is in force in the end

    def _read(self, file: str) -> str:
        post(self._url, _RELOAD, {"file": file})
        name = Path(file).name
        self._did("reload", f"reads {name}")
        one = self._over(lambda: dict(get(self._url, _RELOAD)["reload"]))
        if not one["over"]:
            last = f" ({one['story'][-1]['said']})" if one["story"] else ""
            return f"{name} was not in force within {self._patience}: it is {one['phase']}{last}"
        self._did("reload", f"{one['phase']}: {'; '.join(one['changes']) or one['error'] or 'nothing changes'}")
        return f"{name} was not taken: {one['error'] or one['phase']}" if one["exit_code"] else ""

    def _moved(self, kind: Kind, aim: dict[str, Any], what: str) -> str:
        post(self._url, _GRADUATIONS, {"model": self._wish.model, "rules": _RULES, **aim})
        self._did(kind, what)
        one = self._over(self._graduation)
        if not one["over"]:
            late = f"{what}: not over within {self._patience}, it stands at {one['phase']}"
            return f"{late}; {self._back(kind)}"
        self._did(kind, f"{one['phase']}: {one['reason']}")
        return "" if one["phase"] == "done" else f"{what}: {one['phase']}: {one['reason']}"

    def _back(self, kind: Kind) -> str:
        """Ask a graduation that takes too long to go back, and wait until it has."""
        try:
            post(self._url, f"{_GRADUATIONS}/abort", {"model": self._wish.model})
        except HeadraceError as error:
            return f"it was left to itself: {error}"
        self._did(kind, "asked it to go back")
        one = self._over(self._graduation)
        return f"asked to go back, and it is {one['phase']}"

    def _over(self, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What it came to; not over when the wish's patience was."""
        until = time.monotonic() + self._wish.patience_seconds
        while not (one := look())["over"] and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        return one

    @property
    def _patience(self) -> str:
        return show_duration(self._wish.patience_seconds)

    def _graduation(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = get(self._url, _GRADUATIONS)["graduations"]
        return next(one for one in rows if one["model"] == self._wish.model)

    def _settled(self, kind: Kind, is_so: Callable[[dict[str, Any]], bool], what: str) -> str:
        until = time.monotonic() + _SETTLED_SECONDS
        while not is_so(self._row()):
            if time.monotonic() > until:
                return f"not within {show_duration(_SETTLED_SECONDS)}: {what}"
            time.sleep(_POLL_SECONDS)
        self._did(kind, what)
        return ""

    def _row(self) -> dict[str, Any]:
        return row(self._url, self._wish.model)


def _ready(row: dict[str, Any]) -> bool:
    return any(one["state"] == "ready" for one in row["replicas"])


def _again(replica: dict[str, Any], name: str, pid: int) -> bool:
    return bool(replica["name"] == name and replica["state"] == "ready" and replica["pid"] not in (None, pid))
