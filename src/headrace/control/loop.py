"""The control loop: observe, decide, apply, and tell the gateway; the one writer, level-triggered."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Protocol

from headrace.control.autoscale import Outcome, Verdict, at, autoscaled, expected_start, soonest
from headrace.control.status import endpoints, statuses
from headrace.control.turns import Rules
from headrace.control.wishes import Wish, asleep, current, held
from headrace.plan.plan import Plan
from headrace.targets.base import Change, Replica, Target
from headrace.targets.changes import Adapts, changes, never
from headrace.traffic import Endpoint, Finished, Load, ModelStatus, Split

LOOK_SECONDS = 1.0
"""How long the loop waits when nothing happens; a replica's change of state, or who asks for a model that sleeps, shortens it."""
PAUSE_SECONDS = 0.01
"""Least time between two looks, however many ask for one."""
BLOCKED_SECONDS = 0.1
"""How long it waits while a model waits for room in memory."""
MOST_DECISIONS = 1000
"""Decisions that are kept to be asked for."""

log = logging.getLogger("headrace")


class Front(Protocol):
    """The gateway, as control sees it."""

    def update(self, statuses: Sequence[ModelStatus], endpoints: Sequence[Endpoint]) -> None:
        """What may be used now."""

    def loads(self) -> Mapping[str, Load]:
        """What was counted."""

    def finished(self) -> Sequence[Finished]:
        """The requests that are over since it was asked last."""

    def when_needed(self, look: Callable[[], None]) -> None:
        """Call `look` when somebody asks for a model that sleeps, or a replica has answered all that it had to."""


class Recorder(Protocol):
    """Where what happened is kept. It never blocks and never raises."""

    def record(
        self,
        requests: Sequence[Finished],
        verdicts: Sequence[Verdict],
        loads: Mapping[str, Load],
        replicas: Sequence[Replica],
        now: float,
    ) -> None:
        """Keep these; `now` is the monotonic time of `loads`."""

    def note(self, model: str, before: int, after: int, move: str, reason: str, now: float) -> None:
        """Keep a decision that no policy made."""


class Mover(Protocol):
    """What brings models from one engine to another while they serve (graduate.py)."""

    def planned(self, plan: Plan) -> Plan:
        """The plan with what is on its way."""

    def split(self, model: str) -> Split | None:
        """How the traffic of a model is split now."""

    def seen(self, replicas: Sequence[Replica]) -> None:
        """These are the replicas that the gateway is told of next."""

    def look(self, replicas: Sequence[Replica], loads: Mapping[str, Load], finished: Sequence[Finished], now: float) -> None:
        """What happened since the last look; `now` is the monotonic time of `loads`."""


class Nothing:
    """A Recorder that keeps nothing."""

    def record(
        self,
        requests: Sequence[Finished],
        verdicts: Sequence[Verdict],
        loads: Mapping[str, Load],
        replicas: Sequence[Replica],
        now: float,
    ) -> None:
        return

    def note(self, model: str, before: int, after: int, move: str, reason: str, now: float) -> None:
        return


class Loop:
    """Keeps `plan` true on `target`. `plan` may be replaced at any time; the next round makes the new one true.

    `heard` is called with the models' statuses after each look, for whoever tells the user. `starts` says how many seconds a
    start of each model takes, `wakes` waking one that sleeps in place; they may change. `drain_seconds` bounds how long a replica
    that goes may answer what it has.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        front: Front,
        heard: Callable[[Sequence[ModelStatus]], None],
        drain_seconds: float = 30.0,
        *,
        starts: Mapping[str, float] | None = None,
        wakes: Mapping[str, float] | None = None,
        rules: Rules | None = None,
        recorder: Recorder | None = None,
        mover: Mover | None = None,
        adapts: Adapts = never,
    ) -> None:
        self.plan = plan
        self.replicas: tuple[Replica, ...] = ()
        """What was observed last."""
        self.decisions: deque[tuple[float, str, str]] = deque(maxlen=MOST_DECISIONS)
        """(monotonic seconds, model, sentence) of what changed a number of replicas, the newest last."""
        self.scaled: dict[tuple[str, str], int] = {}
        """Changes of the number of replicas so far, by model and move (wake, up, down, sleep, evicted)."""
        self.outcome = Outcome()
        """What was decided last."""
        self.wishes: dict[str, Wish] = {}
        """What administrators asked for and what stands of it, by model."""
        self._asked: deque[Wish] = deque(maxlen=MOST_DECISIONS)
        self._target = target
        self._front = front
        self._heard = heard
        self._drain_seconds = drain_seconds
        self._cold = {} if starts is None else starts
        self._wakes = {} if wakes is None else wakes
        self._rules, self._recorder, self._mover = rules, recorder or Nothing(), mover
        self._adapts = adapts
        self._needed = asyncio.Event()
        front.when_needed(self._needed.set)

    async def run(self) -> None:
        """Look, change, look again, until cancelled."""
        while True:
            await self.round()
            await self._until_something()

    async def round(self) -> None:
        """Observe everything, apply the difference to the plan, tell the gateway."""
        self._needed.clear()
        self.replicas = await self._target.observe()
        self._tell()
        now, loads = monotonic(), self._front.loads()
        reasons, wishes = self.outcome.reasons, self.wishes
        self._hear(loads, now)
        finished = self._front.finished()
        splits = self._splits()
        if self._mover is not None:
            self._mover.look(self.replicas, loads, finished, now)
        self._decide(loads, finished, now)
        wanted = at(self.held, self.outcome.counts)
        todo = changes(wanted, self.replicas, _all(loads, self.replicas), now, self._drain_seconds, self._adapts, self._rests)
        for change in todo:
            log.info("%s", _sentence(change))
        if todo:
            await self._target.apply(todo)
            self.replicas = await self._target.observe()
        if todo or reasons != self.outcome.reasons or wishes != self.wishes or splits != self._splits():
            self._tell()

    def replan(self, plan: Plan, drain_seconds: float, rules: Rules | None, why: Mapping[str, str]) -> None:
        """Make another plan true from now on, whose models the gateway has already; `why` is a sentence for each that changes."""
        self._drain_seconds, self._rules = drain_seconds, rules
        before = {model.name: len(model.replicas) for model in self.plan.models}
        after = {model.name: len(model.replicas) for model in plan.models}
        self.plan = plan
        self._front.when_needed(self._needed.set)
        now = monotonic()
        for model, sentence in why.items():
            self._say(now, model, "reload", f"{model}: {sentence}")
            self._recorder.note(model, before.get(model, 0), after.get(model, 0), "reload", sentence, now)
        self._needed.set()

    def noted(self, model: str, move: str, sentence: str) -> None:
        """Say and keep a decision on a model that was made elsewhere, and that changes no number of replicas."""
        now, there = monotonic(), sum(replica.model == model for replica in self.replicas)
        log.info("%s of %s: %s", move, model, sentence)
        self.decisions.append((now, model, f"{move} of {model}: {sentence}"))
        self._recorder.note(model, there, there, move, sentence, now)

    def look_now(self) -> None:
        """Look again at once."""
        self._needed.set()

    def wish(self, wish: Wish) -> None:
        """An administrator asks for another number of replicas: heard with the next look, which is at once."""
        self._asked.append(wish)
        self._needed.set()

    def logs(self, replica: str, lines: int) -> list[str]:
        """The last lines that a replica wrote."""
        return self._target.logs(replica, lines)

    @property
    def held(self) -> Plan:
        """The plan with what administrators asked for and what is on its way to another engine."""
        plan = held(self.plan, self.wishes)
        return plan if self._mover is None else self._mover.planned(plan)

    @property
    def _starts(self) -> Mapping[str, float]:
        """Seconds until another replica of a model answers."""
        return soonest(self.plan, self.replicas, self._cold, self._wakes)

    def _rests(self, replica: Replica) -> int | None:
        """The level at which a replica that is not wanted may sleep in place: not where it runs what is not planned any more."""
        planned = any(replica.placement in model.replicas for model in self.held.models if model.name == replica.model)
        return self.outcome.sleeps.get(replica.model) if planned else None

    def _splits(self) -> dict[str, Split]:
        if self._mover is None:
            return {}
        found = ((model.name, self._mover.split(model.name)) for model in self.plan.models)
        return {name: split for name, split in found if split is not None}

    def _hear(self, loads: Mapping[str, Load], now: float) -> None:
        """Take up what administrators asked for since the last look; forget what does not stand any more."""
        wishes = dict(self.wishes)
        while self._asked:
            wish = self._asked.popleft()
            wishes[wish.model] = wish
            there = sum(replica.model == wish.model for replica in self.replicas)
            self._say(now, wish.model, "by_hand", f"{wish.model}: {wish.words}")
            self._recorder.note(wish.model, there, int(wish.want) if wish.want.isdigit() else there, "by_hand", wish.words, now)
        asked = [name for name in wishes if wishes[name] != self.wishes.get(name)]
        known = {name: replace(self.outcome.known[name], asked_at=float("-inf")) for name in asked if name in self.outcome.known}
        self.outcome = replace(self.outcome, known={**self.outcome.known, **known})  # the policy is asked at once
        self.wishes = current(wishes, self.plan, loads)

    def _decide(self, loads: Mapping[str, Load], finished: Sequence[Finished], now: float) -> None:
        before = self.outcome
        self.outcome = autoscaled(self.held, self.replicas, loads, now, before.known, self._starts, self._rules)
        if resting := asleep(self.wishes):
            self.outcome = replace(self.outcome, counts={**self.outcome.counts, **resting})
        for verdict in self.outcome.verdicts:
            if verdict.changed:
                self._say(now, verdict.model, verdict.decision.move, str(verdict))
        for model in self.outcome.evicted:
            self._say(now, model, "evicted", f"{model}: {self.outcome.reasons[model]}")
        for model in set(self.outcome.blocked) - set(before.blocked):
            self._say(now, model, "blocked", f"{model} waits its turn: {self.outcome.reasons[model]}")
        self._recorder.record(finished, self.outcome.verdicts, loads, self.replicas, now)

    def _say(self, now: float, model: str, move: str, sentence: str) -> None:
        log.info("%s", sentence)
        self.decisions.append((now, model, sentence))
        self.scaled[model, move] = self.scaled.get((model, move), 0) + 1

    async def _until_something(self) -> None:
        """Until a replica changed or somebody needs a look; a little later in any case."""
        await asyncio.sleep(PAUSE_SECONDS)
        seconds = BLOCKED_SECONDS if self.outcome.blocked else LOOK_SECONDS
        waits = [asyncio.ensure_future(self._target.changed(seconds)), asyncio.ensure_future(self._needed.wait())]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _tell(self) -> None:
        starts = {model.name: expected_start(model, self._starts) for model in self.plan.models if model.scale is not None}
        if self._mover is not None:
            self._mover.seen(self.replicas)
        told = statuses(self.held, self.replicas, starts, self.outcome.reasons, monotonic())
        if splits := self._splits():
            told = [replace(status, split=splits.get(status.model)) for status in told]
        self._front.update(told, endpoints(self.replicas))
        self._heard(told)


def _all(loads: Mapping[str, Load], replicas: Sequence[Replica]) -> Mapping[str, Load]:
    """Loads of every model that has replicas: where the gateway has nothing of one, it is served no more and has no requests."""
    gone = {replica.model for replica in replicas if replica.model not in loads}
    return {**{name: Load(name, 0, {}, 0, 0, 0, 0, 0, None, None) for name in gone}, **loads} if gone else loads


def _sentence(change: Change) -> str:
    return f"{type(change).__name__.lower()} {change.replica}: {change.reason}"
