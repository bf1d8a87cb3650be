"""Memory as bars of named parts: a device and what is on it, by part and by model; a replica; a device that is asked about."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.dashboard.parts import parts
from headrace.engines.base import Placement
from headrace.facts.hardware import Card
from headrace.plan.base import Plan, PlannedModel
from headrace.targets.base import IN_MEMORY, Replica
from headrace.targets.changes import holds
from headrace.units import show_bytes

FREE = "free"
_COLOURS = 6
_NAMES = {"reserve": "kept free by the engine"}


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar, in percent of its whole length."""

    kind: str
    """weights, cache, free, model-0, …: what it is drawn as."""
    name: str
    size: str
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """Parts of a device's memory. `end` is where the device ends, in percent: below 100 where what is asked for is more."""

    title: str
    said: str
    segments: tuple[Segment, ...]
    end: float = 100.0


def device(title: str, said: str, taken: Mapping[str, int], device_bytes: int) -> Bar:
    """What is taken of a device, by kind, and what is left free of it."""
    used = sum(taken.values())
    whole = max(device_bytes, used)
    named = [(kind, _NAMES.get(kind, kind), size) for kind, size in taken.items() if size > 0]
    if device_bytes > used:
        named.append((FREE, FREE, device_bytes - used))
    return Bar(title, said, _laid(named, whole), round(100 * device_bytes / whole, 3) if whole else 100.0)


def memory_bars(plan: Plan, replicas: Sequence[Replica], most: int = 24) -> tuple[Bar, ...]:
    """What replicas take of this machine's memory now: by part, and by model, the largest first and those beyond `most` as one.

    Empty where nothing here takes any.
    """
    planned = {model.name: model for model in plan.models}
    by_part: dict[str, int] = {}
    for model, placement in _there(replicas):
        for kind, size in parts(planned.get(model), placement).items():
            by_part[kind] = by_part.get(kind, 0) + size
    by_model = taken(replicas)
    used, limit = sum(by_model.values()), plan.memory_bytes
    if not max(limit or 0, used):
        return ()
    said = f"{show_bytes(used)} of {show_bytes(limit)} planned for models" if limit is not None else show_bytes(used)
    each = device("By part", said, by_part, max(limit or 0, used))
    by = Bar("By model", said, _laid(_models(by_model, max(limit or 0, used), most), max(limit or 0, used)))
    return (each, by, *(_on_card(card, replicas, most) for card in plan.cards))


def _on_card(card: Card, replicas: Sequence[Replica], most: int) -> Bar:
    """What models take of a GPU now, as planned."""
    by_model: dict[str, int] = {}
    for model, placement in _there(replicas):
        if size := placement.devices.get(card.uuid):
            by_model[model] = by_model.get(model, 0) + size
    said = f"{show_bytes(sum(by_model.values()))} of {show_bytes(card.free_bytes)} free for models"
    title = f"GPU {card.place}, {card.gpu.name}"
    return Bar(title, said, _laid(_models(by_model, card.free_bytes, most), card.free_bytes))


def taken(replicas: Sequence[Replica]) -> dict[str, int]:
    """Bytes that each model's replicas take of this machine now, as planned."""
    by_model: dict[str, int] = {}
    for model, placement in _there(replicas):
        by_model[model] = by_model.get(model, 0) + placement.memory_bytes
    return by_model


def _there(replicas: Sequence[Replica]) -> Iterator[tuple[str, Placement]]:
    for replica in replicas:
        if isinstance(replica.placement, Placement) and replica.state in IN_MEMORY:
            memory, devices = holds(replica)
            yield replica.model, replace(replica.placement, memory_bytes=memory, devices=devices)


def _models(by_model: Mapping[str, int], whole: int, most: int) -> list[tuple[str, str, int]]:
    ordered = sorted(by_model.items(), key=lambda item: (-item[1], item[0]))
    named = [(f"model-{index % _COLOURS}", name, size) for index, (name, size) in enumerate(ordered[:most])]
    if rest := sum(size for _, size in ordered[most:]):
        named.append((f"model-{most % _COLOURS}", f"{len(ordered) - most} others", rest))
    left = whole - sum(by_model.values())
    return [*named, (FREE, FREE, left)] if left > 0 else named


def sum_bar(model: PlannedModel) -> Bar | None:
    """What one replica takes, in named parts; None for servers elsewhere."""
    placement = next((each for each in model.replicas if isinstance(each, Placement)), None)
    if placement is None or not placement.memory_bytes:
        return None
    found = parts(model, placement)
    said = " + ".join(f"{name} {show_bytes(size)}" for name, size in found.items())
    whole = f"{said} = {show_bytes(placement.memory_bytes)}" if len(found) > 1 else said
    return Bar("One replica", whole, _laid([(name, name, size) for name, size in found.items()], placement.memory_bytes))


def _laid(named: Sequence[tuple[str, str, int]], whole: int) -> tuple[Segment, ...]:
    segments, start = [], 0.0
    for kind, name, size in named:
        width = 100.0 * size / whole if whole else 0.0
        segments.append(Segment(kind, name, show_bytes(size), round(start, 3), round(width, 3)))
        start += width
    return tuple(segments)
