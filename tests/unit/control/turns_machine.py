"""Models that take turns, as a state machine: overcommit, starvation and deadlock are looked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.control.accounts import RAM, Bytes, plus, times
from headrace.control.claims import Claim
from headrace.control.turns import Rules, grants

RULES = Rules(patience_seconds=10.0, stay=2.0, rest=0.5, stuck_seconds=60.0)
SERVICE, SLOTS, WAKE = 1.5, 2, 0.3


@dataclass
class Model:
    """One model: what a replica takes of each account, and what it holds asleep at each level."""

    size: Bytes
    reload: float
    least: int = 0
    beds: Mapping[int, Bytes] = field(default_factory=dict)
    up: list[tuple[bool, float, float]] = field(default_factory=list)  # (ready, since, when it will be)
    leaving: int = 0
    asleep: Bytes | None = None
    waiting: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)  # when they are done
    used: float = 0.0
    left: float = 0.0
    rate: float = 0.0

    @property
    def taken(self) -> Bytes:
        return plus(times(self.size, len(self.up) + self.leaving), self.asleep or {})


class Machine(RuleBasedStateMachine):
    """Requests come, time passes, and what the ledger says is done a step later; subclasses say which models there are."""

    capacity: Mapping[str, int] = {RAM: 10}

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.models: dict[str, Model] = {}

    @rule(number=st.integers(0, 5), count=st.integers(1, 5))
    def requests_come(self, number: int, count: int) -> None:
        model = self.models[f"m{number % len(self.models)}"]
        model.waiting += [self.now] * count
        model.rate += count / 60
        self.step(0.0)

    @rule(seconds=st.sampled_from([0.1, 0.7, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        for _ in range(max(1, int(seconds / 0.1))):
            self.step(0.1)

    def step(self, seconds: float) -> None:
        self.now += seconds
        for model in self.models.values():
            model.rate *= 1 - seconds / 60
            self.live(model)
        found = grants([self.claim(name) for name in self.models], self.capacity, self.now, RULES)
        for name, model in self.models.items():
            while len(model.up) > found.counts[name]:
                model.up.pop()
                model.leaving += 1
                model.left = self.now
            for _ in range(found.counts[name] - len(model.up)):
                wakes = model.asleep is not None and name in found.sleeps
                model.asleep = None if wakes else model.asleep
                model.up.append((False, self.now, self.now + (WAKE if wakes else model.reload)))
            self.rest(model, found.sleeps.get(name))

    def rest(self, model: Model, level: int | None) -> None:
        """What has drained sleeps or is gone, and what may sleep no more is gone."""
        if model.leaving and not model.running:
            model.leaving = 0
            model.asleep = model.beds[level] if level else None
        if level is None:
            model.asleep = None

    def live(self, model: Model) -> None:
        model.running = [until for until in model.running if until > self.now]
        model.up = [
            (True, self.now, due) if not ready and self.now >= due else (ready, since, due) for ready, since, due in model.up
        ]
        while model.waiting and len(model.running) < SLOTS * sum(ready for ready, _, _ in model.up):
            model.waiting.pop(0)
            model.running.append(self.now + SERVICE)
        if model.waiting or model.running:
            model.used = self.now

    def claim(self, name: str) -> Claim:
        model = self.models[name]
        used = bool(model.waiting or model.running)
        devices = {account: size for account, size in model.size.items() if account != RAM}
        return Claim(
            name,
            model.size.get(RAM, 0),
            wanted=1 if used or model.up else 0,
            up=len(model.up),
            ready=sum(ready for ready, _, _ in model.up),
            leaving=model.leaving,
            waiting=len(model.waiting),
            running=len(model.running),
            oldest=max(model.waiting[0], model.left) if model.waiting else None,
            since=max((since for _, since, _ in model.up), default=self.now),
            used=model.used,
            rate=model.rate,
            reload_seconds=model.reload,
            devices=(devices,) if devices else (),
            asleep=int(model.asleep is not None),
            asleep_each=model.asleep or {},
            beds=model.beds,
        )

    @invariant()
    def memory_is_never_overcommitted(self) -> None:
        taken = plus(*(model.taken for model in self.models.values()))
        assert all(taken.get(account, 0) <= size for account, size in self.capacity.items()), taken

    @invariant()
    def nobody_starves(self) -> None:
        # Each other model may have one turn first: loading, its stay, its answers; and requests in front of one's own.
        turn = max((m.reload for m in self.models.values()), default=0) * (1 + RULES.stay) + 2 * SERVICE + 1.0
        for model in self.models.values():
            behind = len(model.waiting) * SERVICE / SLOTS * len(self.models)
            bound = RULES.patience_seconds + 2 * turn * len(self.models) + behind + self.backlog()
            assert not model.waiting or self.now - model.waiting[0] <= bound

    def backlog(self) -> float:
        return sum(len(model.waiting) for model in self.models.values()) * SERVICE / SLOTS * 2

    def teardown(self) -> None:
        until = self.now + 1000
        while any(model.waiting or model.running for model in self.models.values()):
            self.step(0.25)
            assert self.now < until, "a deadlock"
