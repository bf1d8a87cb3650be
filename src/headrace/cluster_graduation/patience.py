"""What about a move has been so for too long: its new side is no good, or a side that goes need not be waited for."""

from dataclasses import dataclass, field

from headrace.control.graduation import Phase, Rules
from headrace.control.graduation import Standing as Stage
from headrace.targets.kubernetes.gateways import News
from headrace.targets.kubernetes.standing import Standing
from headrace.units import show_duration

FORWARD: tuple[Phase, ...] = ("starting", "comparing", "shifting", "locking")
"""The phases in which the new side is on trial."""
PAUSE_SECONDS = 1.0
"""Between two looks."""
TAKEN_SECONDS = 300.0
"""Until every gateway has taken a changed file: the kubelet brings it within about a minute, and asks again when that failed."""
FAILING_SECONDS = 60.0
"""With what does not pass by itself, while it starts."""
SILENT_SECONDS = 90.0
"""Without an answer of a gateway."""
RESTS_SECONDS = 2.0
"""Without a request: what gateways say is a second old."""


@dataclass(slots=True)
class Since:
    """How long something has been so without a break."""

    began: float | None = None

    def seconds(self, so: bool, now: float) -> float:
        if not so:
            self.began = None
        elif self.began is None:
            self.began = now
        return 0.0 if self.began is None else now - self.began


@dataclass(slots=True)
class Patience:
    """With the new side while it is on trial."""

    _untaken: Since = field(default_factory=Since)
    _silent: Since = field(default_factory=Since)
    _failing: Since = field(default_factory=Since)
    _short: Since = field(default_factory=Since)
    _restarts: int | None = None

    def entered(self) -> None:
        """Another phase, or another step."""
        self._untaken, self._short = Since(), Since()

    def over(self, stage: Stage, rules: Rules, new: Standing, news: News, now: float, *, taken: bool, short: bool) -> str:
        """Why the new side is no good, or cannot be judged; empty while it may be. `taken`: every gateway does what it was told,
        `short`: fewer replicas are ready than its share takes.
        """
        if stage.phase not in FORWARD:
            return ""
        if self._silent.seconds(bool(news.silent), now) >= SILENT_SECONDS:
            return f"nobody can say how it does: {news.silent}"
        patience = FAILING_SECONDS if stage.phase == "starting" else 2 * PAUSE_SECONDS
        if self._failing.seconds(new.state in ("failing", "absent"), now) >= patience:
            return new.line
        if self._untaken.seconds(not taken, now) >= TAKEN_SECONDS:
            return f"not every gateway took the changed file within {show_duration(TAKEN_SECONDS)}"
        if stage.phase == "starting":
            late = now - stage.since >= rules.start_seconds - PAUSE_SECONDS
            return f"it was not ready after {show_duration(rules.start_seconds)}: {new.line}" if late else ""
        restarts = sum(each.restarts for each in new.replicas)
        self._restarts = restarts if self._restarts is None else self._restarts
        if restarts > self._restarts:
            return f"a pod of it was restarted: {new.line}"
        if self._short.seconds(short, now) >= rules.start_seconds:
            return f"not enough of it is ready after {show_duration(rules.start_seconds)}: {new.line}"
        return ""


@dataclass(slots=True)
class Leaving:
    """A side that gets nothing new has `drain` seconds to answer what it has, before its pods are told to end.

    A Deployment's pods do that by themselves. KAITO's do not: it takes away the node below them first.
    """

    drain: float
    _asked: Since = field(default_factory=Since)
    _left: Since = field(default_factory=Since)
    _rests: Since = field(default_factory=Since)

    def over(self, called: str, news: News, now: float) -> bool:
        """Whether its pods may go."""
        left = news.left(called)
        rests = self._rests.seconds(left and not news.runs(called), now) >= RESTS_SECONDS
        late = self._left.seconds(left, now) >= self.drain
        # Gateways that cannot be asked, or that never take what they are told.
        lost = self._asked.seconds(True, now) >= max(TAKEN_SECONDS, self.drain)
        return rests or late or lost
