"""How many replicas each model shall have now: loads and replicas → samples → the policy's decisions → what fits the memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace.control.accounts import RAM, Bytes, Capacity
from headrace.control.claims import Claim
from headrace.control.turns import Grants, Rules, grants
from headrace.engines.base import Placement
from headrace.facts.hardware import Card
from headrace.plan.base import Plan, PlannedModel
from headrace.scaling.base import Decision, Policy, Sample, State
from headrace.scaling.ours import decide
from headrace.scaling.start import start_seconds
from headrace.targets.base import Replica
from headrace.targets.base import State as Life
from headrace.targets.changes import holds
from headrace.traffic import Load

BUSY_SECONDS = 1.0
"""How often the policy is asked about a model that is used."""
QUIET_SECONDS = 10.0
"""How often it is asked about one that is not, and four times in its idle time."""
NEVER_SECONDS = 1e9
"""The idle time of a model that sleeps only to make room."""
WAKE_SECONDS = 5.0
"""Waking one that sleeps in place, where that was never measured: vLLM's makers publish 0.1 to 6 s (blog.vllm.ai, 2025)."""

_IN_MEMORY = (Life.STARTING, Life.LOADING, Life.READY)
_LEAVING = (Life.DRAINING, Life.STOPPED)


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of one model from one look to the next; times are monotonic seconds."""

    state: State | None = None
    wanted: int = 0
    """What the policy said last."""
    asked_at: float = float("-inf")
    """When the policy was asked last."""
    arrived: int = 0
    """Requests that had come by then."""
    used: float | None = None
    """When a request was last seen; None while none was."""
    up: int = 0
    """Replicas in memory at the last look."""
    left: float = float("-inf")
    """When it last lost the last of them."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy said of one model, on what, and how many replicas memory allows of it.

    `before` are the replicas that it wanted until then.
    """

    model: str
    policy: Policy
    sample: Sample
    decision: Decision
    before: int
    granted: int
    state: State | None = None
    """What the policy remembered before."""

    @property
    def changed(self) -> bool:
        return self.decision.replicas != self.before

    def __str__(self) -> str:
        """One sentence with the numbers, as log and status print it."""
        granted = "" if self.granted >= self.decision.replicas else f" (memory for {self.granted} now)"
        return f"{self.model} {self.before} → {self.decision.replicas} replicas{granted}: {self.decision.reason}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Replicas that each model may have now (models of a fixed number left out), with why.

    `reasons` say why a model gets fewer than it wants. `blocked` are those that wait for room in memory.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    known: Mapping[str, Known] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    blocked: tuple[str, ...] = ()
    evicted: Mapping[str, str] = field(default_factory=dict)
    sleeps: Mapping[str, int] = field(default_factory=dict)
    """The level at which replicas of a model that are not wanted may sleep in place; of others they are stopped."""


def autoscaled(
    plan: Plan,
    replicas: Sequence[Replica],
    loads: Mapping[str, Load],
    now: float,
    known: Mapping[str, Known],
    starts: Mapping[str, float],
    rules: Rules | None = None,
) -> Outcome:
    """What there shall be now. `known` is that of the last outcome, `starts` the seconds that a start takes, by model.

    A model without a load keeps what it has. Without models that follow the load nothing is decided.
    """
    scaled = [model for model in plan.models if model.scale is not None and not model.refused]
    if not scaled:
        return Outcome()
    views = {model.name: _view(model, replicas, loads.get(model.name), now) for model in plan.models}
    said = {model.name: _said(model, views[model.name], known.get(model.name, Known()), now, starts) for model in scaled}
    learned = {name: memory for name, (_, memory) in said.items()}
    granted = _granted(plan, views, learned, now, starts, rules)
    dead = {model.name: views[model.name].dead for model in scaled}
    counts = {model.name: granted.counts[model.name] + dead[model.name] for model in scaled}
    verdicts = tuple(replace(verdict, granted=counts[name]) for name, (verdict, _) in said.items() if verdict)
    return Outcome(counts, verdicts, learned, granted.reasons, granted.blocked, granted.evicted or {}, granted.sleeps)


def at(plan: Plan, counts: Mapping[str, int]) -> Plan:
    """The plan with so many replicas of the models that follow the load."""
    models = (replace(m, replicas=m.replicas[: counts[m.name]]) if m.name in counts else m for m in plan.models)
    return replace(plan, models=tuple(models))


def policy_of(model: PlannedModel, start_seconds: float) -> Policy:
    """The policy for one model of the plan."""
    scale = model.scale
    assert scale is not None
    idle = NEVER_SECONDS if scale.idle_seconds is None else scale.idle_seconds
    most = max(1, len(model.replicas))
    return Policy(min(scale.least, most), most, model.slots, scale.queue, idle, start_seconds)


def expected_start(model: PlannedModel, starts: Mapping[str, float]) -> float:
    """Seconds from the decision to the first answer: as measured, or by the bytes that are to be read."""
    if model.name in starts:
        return starts[model.name]
    first = model.replicas[0] if model.replicas else ""
    if isinstance(first, Placement) and first.devices and model.facts:
        return start_seconds(model.facts.weight_bytes, on_gpu=True)
    return start_seconds(first.memory_bytes if isinstance(first, Placement) else 0, on_gpu=False)


def soonest(plan: Plan, replicas: Sequence[Replica], starts: Mapping[str, float], wakes: Mapping[str, float]) -> dict[str, float]:
    """Seconds until another replica answers, by model: one that sleeps in place wakes, as `wakes` says; else as `starts` says."""
    sleepers = {replica.model for replica in replicas if replica.level}
    waking = {model.name: wakes.get(model.name, WAKE_SECONDS) for model in plan.models if model.name in sleepers}
    return {**starts, **waking}


@dataclass(frozen=True, slots=True)
class _View:
    """One model as it is now."""

    load: Load | None
    up: tuple[Replica, ...]
    """In memory to stay, or to be started again."""
    leaving: int
    dead: int
    """Given up: they take no memory and are not started again."""
    asleep: tuple[Replica, ...]
    """In place, with less memory."""
    now: float

    @property
    def ready(self) -> int:
        return sum(replica.state is Life.READY for replica in self.up)

    @property
    def waiting(self) -> int:
        return self.load.waiting if self.load else 0

    @property
    def running(self) -> int:
        return sum(self.load.running.values()) if self.load else 0

    @property
    def used(self) -> bool:
        return bool(self.waiting or self.running)


def _view(model: PlannedModel, replicas: Sequence[Replica], load: Load | None, now: float) -> _View:
    own = [replica for replica in replicas if replica.model == model.name]
    again = [replica for replica in own if replica.state is Life.FAILED and replica.retry_at is not None]
    up = (*(replica for replica in own if replica.state in _IN_MEMORY), *again)
    leaving = sum(replica.state in _LEAVING for replica in own)
    dead = sum(replica.state is Life.FAILED and replica.retry_at is None for replica in own)
    return _View(load, up, leaving, dead, tuple(replica for replica in own if replica.state is Life.ASLEEP), now)


def _said(
    model: PlannedModel, view: _View, known: Known, now: float, starts: Mapping[str, float]
) -> tuple[Verdict | None, Known]:
    """What the policy says of the model, when it is time to ask it, and what to remember."""
    known = replace(
        known,
        used=now if view.used else known.used,
        up=len(view.up),
        left=now if known.up and not view.up else known.left,
    )
    policy = policy_of(model, expected_start(model, starts))
    if not _due(view, known, now, max(BUSY_SECONDS, min(QUIET_SECONDS, policy.idle_seconds / 4))):
        return None, known
    sample = sampled(view.load, view.ready, len(view.up) - view.ready, view.leaving, known.arrived, now, starts.get(model.name))
    decision, state = decide(policy, sample, known.state)
    before = known.wanted if known.state is not None else len(view.up)
    arrived = view.load.arrived if view.load else known.arrived
    learned = replace(known, state=state, wanted=decision.replicas, asked_at=now, arrived=arrived)
    return Verdict(model.name, policy, sample, decision, before, decision.replicas, known.state), learned


def _due(view: _View, known: Known, now: float, quiet_seconds: float) -> bool:
    since = now - known.asked_at
    if view.waiting and not known.wanted:  # it sleeps and is asked for: at once
        return True
    if since < 0:  # the clock went back
        return True
    return since >= (BUSY_SECONDS if view.used or (view.load and view.load.arrived > known.arrived) else quiet_seconds)


def sampled(
    load: Load | None, ready: int, starting: int, draining: int, arrived: int, now: float, start_seconds: float | None
) -> Sample:
    """What the policy gets to know; what the gateway did not say is unknown. `arrived` are the requests known of before."""
    if load is None:
        return Sample(now, ready=ready, starting=starting, draining=draining, cold_start_seconds=start_seconds)
    return Sample(
        now=now,
        waiting=load.waiting,
        running=sum(load.running.values()),
        arrivals=max(0, load.arrived - arrived),
        service_seconds=load.service_seconds,
        ready=ready,
        starting=starting,
        draining=draining,
        cold_start_seconds=start_seconds,
    )


def _granted(
    plan: Plan,
    views: Mapping[str, _View],
    known: Mapping[str, Known],
    now: float,
    starts: Mapping[str, float],
    rules: Rules | None,
) -> Grants:
    places = {card.uuid: _account(card) for card in plan.cards}
    claims = [
        _on_devices(_claim(model, views[model.name], known.get(model.name), now, starts), model, views[model.name], places)
        for model in plan.models
        if _here(model)
    ]
    return grants(claims, capacity(plan), now, rules)


def capacity(plan: Plan) -> Capacity:
    """What there is of each account; unlimited, unless the plan says."""
    ram = {} if plan.memory_bytes is None else {RAM: plan.memory_bytes}
    return {**ram, **{_account(card): card.free_bytes for card in plan.cards}}


def _account(card: Card) -> str:
    return f"GPU {card.place}"


def _on_devices(claim: Claim, model: PlannedModel, view: _View, places: Mapping[str, str]) -> Claim:
    """The claim with what each replica takes of the GPUs that the plan knows, by their names, and holds asleep."""

    def named(devices: Mapping[str, int]) -> Bytes:
        return {places[uuid]: size for uuid, size in devices.items() if uuid in places}

    own = [one for one in model.replicas if isinstance(one, Placement)]
    beds = {bed.level: {RAM: bed.memory_bytes, **named(bed.devices)} for bed in own[0].beds} if model.scale else {}
    ram, devices = holds(view.asleep[0]) if view.asleep else (0, {})
    return replace(
        claim,
        devices=tuple(named(one.devices) for one in own) if any(one.devices for one in own) else (),
        asleep=len(view.asleep),
        asleep_each={RAM: ram, **named(devices)},
        beds=beds,
    )


def _here(model: PlannedModel) -> bool:
    return any(isinstance(placement, Placement) for placement in model.replicas)


def _claim(model: PlannedModel, view: _View, known: Known | None, now: float, starts: Mapping[str, float]) -> Claim:
    placement = model.replicas[0]
    assert isinstance(placement, Placement)
    oldest = view.load.oldest_seconds if view.load else None
    wanted = max(0, len(model.replicas) - view.dead) if known is None else _wanted(model, view, known)
    since = max((replica.since if replica.state is Life.READY else replica.begun for replica in view.up), default=now)
    return Claim(
        model=model.name,
        bytes_each=max(
            one.memory_bytes for one in model.replicas if isinstance(one, Placement)
        ),  # they differ while it graduates
        wanted=wanted,
        least=min(wanted, len(model.replicas) if model.scale is None else model.scale.least),
        up=len(view.up),
        ready=view.ready,
        leaving=view.leaving,
        waiting=view.waiting,
        running=view.running,
        oldest=None if oldest is None else max(now - oldest, known.left if known else 0.0),
        since=since,
        used=since if known is None or known.used is None else known.used,
        rate=(known.state.rate or 0.0) if known and known.state else 0.0,
        reload_seconds=expected_start(model, starts),
    )


def _wanted(model: PlannedModel, view: _View, known: Known) -> int:
    """As the policy says; but what lost its place to others comes back only when somebody asks. Those given up are not replaced
    beyond the most that there may be.
    """
    assert model.scale is not None
    wanted = max(known.wanted, 1) if view.waiting else known.wanted
    if not model.scale.least and not view.up and not view.waiting:
        wanted = 0
    return max(0, min(wanted, len(model.replicas) - view.dead))
