"""(plan, observed, loads) → Changes: what to do next, decided from scratch each time (level-triggered)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from headrace.engines.base import Placement
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import Adapt, Change, Drain, Replica, Sleep, Start, State, Stop, Wake
from headrace.traffic import Load
from headrace.units import show_bytes, show_duration

Adapts = Callable[[Placement, Placement], bool]
"""Whether a replica that runs the first can be made to run the second, which has other adapters, without a restart."""

Rests = Callable[[Replica], int | None]
"""The level at which a replica that is not wanted may sleep in place; None: it is stopped."""

_KEEP_FIRST = (State.READY, State.LOADING, State.STARTING, State.ASLEEP, State.FAILED)
"""Of replicas that run the same, which to keep; those in other states are on their way out."""
_LEAVING = (State.DRAINING, State.STOPPED)


def never(running: Placement, wanted: Placement) -> bool:
    """Every replica is replaced."""
    return False


def stopped(replica: Replica) -> int | None:
    """Every replica that is not wanted is stopped."""
    return None


def changes(
    plan: Plan,
    observed: Sequence[Replica],
    loads: Mapping[str, Load],
    now: float,
    drain_seconds: float = 30.0,
    adapts: Adapts = never,
    rests: Rests = stopped,
) -> tuple[Change, ...]:
    """The changes that bring `observed` closer to `plan`; none when nothing can be done now.

    A replica that runs something else serves until its replacement is ready. Both are in memory meanwhile: where that is more
    than the plan has, the start waits for what is on its way out, and when nothing is, one that runs something else drains first
    and requests wait. One that runs the same but for its adapters is adapted, where its engine can. `loads` must be counted after
    the gateway has learned of `observed`: a replica is stopped once it drains and nothing runs there. A model without a load is
    taken as busy. After `drain_seconds` a replica is stopped whatever runs. Of replicas that run the same, those go that have the
    least to lose: the fewest requests in flight, then the shortest time to fill a cache. One that has drained sleeps in
    place where it may, and wakes when it is wanted and there is room for it.
    """
    room = room_of(plan, observed)
    planned = [
        change
        for model in plan.models
        for change in _of_model(model, _of(model.name, observed), loads.get(model.name), now, room, adapts, rests)
    ]
    names = {model.name for model in plan.models}
    orphans = [replica for replica in observed if replica.model not in names]
    unplanned = _retired(orphans, spare=len(orphans), reason="its model is not in the plan")
    stops = (_drained(replica, loads.get(replica.model), now, drain_seconds, rests) for replica in observed)
    found = (*planned, *unplanned, *(stop for stop in stops if stop))
    return (*found, *_making_room(room, found))


@dataclass(slots=True)
class Room:
    """The memory while changes are decided: bytes that are `free`, and whether more will be by what is under way. `devices` are
    the bytes of each GPU by UUID, none where a plan does not say; what is free of them is in `on_devices`.
    """

    capacity: int | None
    observed: Sequence[Replica]
    devices: Mapping[str, int] = field(default_factory=dict)
    free: float = field(init=False)
    on_devices: dict[str, int] = field(init=False)
    coming: bool = field(init=False)
    short: list[list[Replica]] = field(default_factory=list)
    """The ready replicas that models without room for what the plan wants have of something else."""

    def __post_init__(self) -> None:
        self.free = float("inf") if self.capacity is None else self.capacity - in_memory(self.observed)
        taken = devices_taken(self.observed)
        self.on_devices = {uuid: size - taken.get(uuid, 0) for uuid, size in self.devices.items()}
        self.coming = any(replica.state in _LEAVING and bytes_of(replica.placement) for replica in self.observed)

    def takes(self, runs: Placement | str) -> bool:
        """Whether there is room for one more, which is taken."""
        return self._takes(bytes_of(runs), runs.devices if isinstance(runs, Placement) and self.devices else {})

    def wakes(self, replica: Replica) -> bool:
        """Whether there is room for one that sleeps in place to wake, which is taken."""
        size, devices = holds(replica)
        runs = replica.placement
        wanted = runs.devices if isinstance(runs, Placement) and self.devices else {}
        return self._takes(bytes_of(runs) - size, {uuid: taken - devices.get(uuid, 0) for uuid, taken in wanted.items()})

    def _takes(self, size: int, devices: Mapping[str, int]) -> bool:
        if (size > 0 and size > self.free) or any(self.on_devices.get(uuid, 0) < taken for uuid, taken in devices.items()):
            return False
        self.free -= size
        for uuid, taken in devices.items():
            self.on_devices[uuid] -= taken
        return True


def room_of(plan: Plan, observed: Sequence[Replica]) -> Room:
    """What of the plan's memory is free beside what is there."""
    return Room(plan.memory_bytes, observed, {card.uuid: card.free_bytes for card in plan.cards})


def bytes_of(runs: Placement | str) -> int:
    """What a replica takes; nothing for one that is not ours."""
    return runs.memory_bytes if isinstance(runs, Placement) else 0


def holds(replica: Replica) -> tuple[int, Mapping[str, int]]:
    """What a replica holds now: RAM, and of GPUs by UUID; both, while it is on its way to sleep in place or from there."""
    runs = replica.placement
    if isinstance(runs, str):
        return 0, {}
    bed = next((bed for bed in runs.beds if bed.level == replica.level), None)
    if bed is None:
        return runs.memory_bytes, runs.devices
    if replica.state is State.ASLEEP:
        return bed.memory_bytes, bed.devices
    return max(runs.memory_bytes, bed.memory_bytes), runs.devices


def in_memory(observed: Iterable[Replica]) -> int:
    """Bytes that replicas take now or will again."""
    return sum(holds(replica)[0] for replica in _lasting(observed))


def devices_taken(observed: Iterable[Replica]) -> dict[str, int]:
    """The same of each GPU, by UUID."""
    taken: dict[str, int] = {}
    for replica in _lasting(observed):
        for uuid, size in holds(replica)[1].items():
            taken[uuid] = taken.get(uuid, 0) + size
    return taken


def _lasting(observed: Iterable[Replica]) -> list[Replica]:
    """All but those that have failed for good."""
    return [one for one in observed if one.state is not State.FAILED or one.retry_at is not None]


def _making_room(room: Room, found: Sequence[Change]) -> Iterator[Change]:
    """One drain for models that have no room beside what they run now, when nothing else will make it."""
    if room.short and not room.coming and not any(isinstance(change, Drain | Stop) for change in found):
        old = room.short[0]
        short = f"{show_bytes(max(0, int(room.free)))} are free to have both at once"
        if devices_taken(old) and bytes_of(old[0].placement) <= room.free:
            short = "its GPUs do not hold both at once"
        yield from _retired(old, spare=1, reason=f"the plan wants another, and {short}")


def _of(model: str, observed: Iterable[Replica]) -> list[Replica]:
    return [replica for replica in observed if replica.model == model]


def _of_model(
    model: PlannedModel, observed: list[Replica], load: Load | None, now: float, room: Room, adapts: Adapts, rests: Rests
) -> Iterator[Change]:
    kept, missing = _matched(model, observed, load)
    adapted = _adapted(kept, missing, observed, adapts)
    yield from (_again(replica) for replica in kept if _may_retry(replica, now))
    yield from (_adapt(replica, wanted) for replica, wanted in adapted if _may_adapt(replica, wanted, now))
    sleepers = [replica for replica in kept if replica.state is State.ASLEEP]
    yield from (Wake(replica.name, "it is wanted again") for replica in sleepers if room.wakes(replica))
    kept += [replica for replica, _ in adapted]
    kept += [replica for replica in observed if replica not in kept and replica.state is State.ASLEEP and rests(replica)]
    affordable = [runs for runs in missing if room.takes(runs)]
    yield from _started(model, affordable, {replica.name for replica in observed})
    surplus = [replica for replica in observed if replica not in kept]
    ready = sum(replica.state is State.READY for replica in observed)
    if old := [replica for replica in surplus if replica.state is State.READY]:
        room.coming |= bool(affordable) or any(one.state in (State.STARTING, State.LOADING) for one in kept)
        if len(affordable) < len(missing):
            room.short.append(old)
    yield from _retired(surplus, spare=ready - len(model.replicas), reason="the plan wants another, or fewer")


def _matched(model: PlannedModel, observed: list[Replica], load: Load | None) -> tuple[list[Replica], list[Placement | str]]:
    """(replicas that run what the plan wants, wanted runs that nothing runs)."""
    missing: list[Placement | str] = list(model.replicas)
    kept = []
    candidates = (replica for replica in observed if replica.state in _KEEP_FIRST or replica.shut)
    for replica in sorted(candidates, key=lambda each: _to_lose(each, load)):
        if replica.placement in missing and _slots_fit(replica, model):
            missing.remove(replica.placement)
            kept.append(replica)
    return kept, missing


def _adapted(
    kept: list[Replica], missing: list[Placement | str], observed: list[Replica], adapts: Adapts
) -> list[tuple[Replica, Placement]]:
    """(a replica, what it can be made to run) for as many of `missing` as can be had so; they are missing no more."""
    found = []
    for replica in observed:
        if replica in kept or replica.state not in (State.READY, State.LOADING, State.STARTING):
            continue
        wanted = next((runs for runs in missing if only_adapters(replica.placement, runs, adapts)), None)
        if isinstance(wanted, Placement):
            missing.remove(wanted)
            found.append((replica, wanted))
    return found


def only_adapters(running: Placement | str, wanted: Placement | str, adapts: Adapts) -> bool:
    """Whether they differ in adapters only, and the engine can change them without a restart."""
    if isinstance(running, str) or isinstance(wanted, str):
        return False
    same = replace(running, adapters=wanted.adapters, also=wanted.also, memory_bytes=wanted.memory_bytes)
    return same == wanted and adapts(running, wanted)


def _may_adapt(replica: Replica, wanted: Placement, now: float) -> bool:
    """Once it serves, and not while it is at it or has just refused."""
    asked = replica.adapting == wanted and (replica.retry_at is None or replica.retry_at > now)
    return replica.state is State.READY and not asked


def _adapt(replica: Replica, wanted: Placement) -> Adapt:
    had = replica.placement.adapters if isinstance(replica.placement, Placement) else {}
    told = [f"+{name}" for name in wanted.adapters if name not in had]
    told += [f"-{name}" for name in had if name not in wanted.adapters]
    return Adapt(replica.name, wanted, f"adapters {' '.join(told)}, without a restart")


def _to_lose(replica: Replica, load: Load | None) -> tuple[int, int, float, int]:
    """What sorts the replica to keep before the others."""
    running = load.running.get(replica.name, 0) if load is not None and replica.state is State.READY else 0
    rank = len(_KEEP_FIRST) if replica.shut else _KEEP_FIRST.index(replica.state)
    return rank, -running, replica.since, _number(replica.name)


def _slots_fit(replica: Replica, model: PlannedModel) -> bool:
    """A placement says its slots itself; for an address the plan says them."""
    return not isinstance(replica.placement, str) or replica.slots == model.slots


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _may_retry(replica: Replica, now: float) -> bool:
    return replica.state is State.FAILED and replica.retry_at is not None and replica.retry_at <= now


def _again(replica: Replica) -> Start:
    return Start(replica.name, replica.model, replica.placement, replica.slots, f"again after: {replica.reason}")


def _started(model: PlannedModel, missing: Iterable[Placement | str], taken: set[str]) -> Iterator[Start]:
    free = (name for number in count(1) if (name := f"{model.name}-{number}") not in taken)
    for runs in missing:
        slots = model.slots if isinstance(runs, str) else runs.slots
        yield Start(next(free), model.name, runs, slots, "the plan wants it and it does not run")


def _retired(surplus: Iterable[Replica], spare: int, reason: str) -> Iterator[Change]:
    """Drains up to `spare` ready replicas, highest numbers first; what is not ready serves nobody and is stopped."""
    for replica in sorted(surplus, key=lambda each: _number(each.name), reverse=True):
        if replica.state in (State.STARTING, State.LOADING, State.ASLEEP, State.FAILED):
            yield Stop(replica.name, reason)
        elif replica.state is State.READY and spare > 0:
            spare -= 1
            yield Drain(replica.name, reason)


def _drained(replica: Replica, load: Load | None, now: float, drain_seconds: float, rests: Rests) -> Sleep | Stop | None:
    if replica.state is not State.DRAINING:
        return None
    if load is not None and not load.running.get(replica.name, 0):
        level = None if replica.shut else rests(replica)
        return Stop(replica.name, "drained") if level is None else Sleep(replica.name, level, "drained, and it may sleep")
    if now - replica.since >= drain_seconds:
        return Stop(replica.name, f"still busy after draining for {show_duration(drain_seconds)}")
    return None
