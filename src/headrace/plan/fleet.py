"""Many models onto given GPUs: what each needs at its share of the load, packed, with who goes where and how it is shared."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.consider import consider
from headrace.plan.intent import Intent, Wanted
from headrace.plan.offer import Knowledge, Offer
from headrace.plan.packing.base import Demand, Device, Packing
from headrace.plan.packing.pack import pack

UTILIZATION = 0.92
"""Share of a device's memory that is planned, as vLLM takes by default: the rest is for what nobody counts."""


_OPEN = Wanted()
_NONE = Machine(1, 0, 0)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where every model goes; `offers` is what each was sized by, `refused` why a model fits on no device by itself. `alike` is
    the same way to run it on each kind of GPU, by model and name of the GPU.
    """

    packing: Packing
    offers: Mapping[str, Offer]
    refused: Mapping[str, str]
    alike: Mapping[tuple[str, str], Offer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a fleet, what it is for, and what of the ways to run it is wanted. There are `copies` of all that, each for the
    whole of what it is for.
    """

    facts: ModelFacts
    intent: Intent
    wanted: Wanted = _OPEN
    copies: int = 1


def fleet(members: Mapping[str, Member], machines: tuple[Machine, ...], knowledge: Knowledge) -> Fleet:
    """Every model of `members`, by name, on the GPUs of `machines` together."""
    offers: dict[str, Offer] = {}
    refused: dict[str, str] = {}
    alike: dict[tuple[str, str], Offer] = {}
    demands: list[Demand] = []
    for name, member in members.items():
        considered = [
            consider(member.facts, machine, member.intent, knowledge, member.wanted, count) for machine, count in _kinds(machines)
        ]
        ways = [offer for one in considered for offer in one.offers]
        if ways:
            offers[name] = best = min(ways, key=_least)
            same = [offer for offer in ways if offer.way == best.way]
            alike |= {(name, offer.gpu.name): offer for offer in same}
            demands += _demands(name, best, same, member)
        else:
            reasons = [rejected.reason for one in considered for rejected in one.rejected]
            refused[name] = reasons[-1] if reasons else "there is no GPU"
    return Fleet(pack(demands, _devices(machines)), offers, refused, alike)


def _least(offer: Offer) -> tuple[object, ...]:
    """Weights as they are before quantized ones, then as few devices as can be."""
    return (1 - offer.quantization.share, offer.way.gpus, offer.gpu.name, offer.speed.tpot_seconds.expected)


def _kinds(machines: tuple[Machine, ...]) -> list[tuple[Machine, int]]:
    """One machine with each kind of GPU, the one with most of them, and how many are like it."""
    most: dict[str, Machine] = {}
    for machine in machines:
        if machine.gpus and len(machine.gpus) > len(most.get(machine.gpus[0].name, _NONE).gpus):
            most[machine.gpus[0].name] = machine
    return [(machine, machines.count(machine)) for machine in most.values()]


def _demands(name: str, best: Offer, alike: list[Offer], member: Member) -> list[Demand]:
    """The replicas asked for, else one; on any kind of device on which this way to run it fits. They share the users."""
    replicas = 1 if member.wanted.replicas == "auto" else member.wanted.replicas
    intent = replace(member.intent, users=-(-member.intent.users // replicas))
    one = _demand(name, best, alike, member, intent)
    return [replace(one, replica=number) for number in range(replicas * member.copies)]


def _demand(name: str, best: Offer, alike: list[Offer], member: Member, intent: Intent) -> Demand:
    runtime = max(term.worst_bytes for term in best.memory.terms if term.name == "runtime")
    return Demand(
        name,
        memory_bytes=_bytes(best, intent),
        gpus=best.way.gpus,
        process_bytes=runtime,
        cache_bytes=_cache(best, intent),
        kinds={way.gpu.name: _bytes(way, intent) for way in alike},
        share=member.wanted.share,
        reason=f"{intent.users} users of {intent.prompt + intent.output} tokens",
    )


def _bytes(offer: Offer, intent: Intent) -> int:
    """What it takes of one device, but the process's own."""
    return sum(term.worst_bytes for term in offer.memory.terms if term.name != "runtime") + _cache(offer, intent)


def _cache(offer: Offer, intent: Intent) -> int:
    """As much cache as the users need, and at least one request of the longest context."""
    memory = offer.memory
    per_token = memory.cache_bytes / memory.cache_tokens if memory.cache_tokens else 0.0
    return max(memory.request_bytes, round(per_token * intent.users * (intent.prompt + intent.output)))


def _devices(machines: tuple[Machine, ...]) -> list[Device]:
    return [
        Device(f"node-{node + 1}", index, gpu, int(gpu.memory_bytes * UTILIZATION), link=gpu.link_kind)
        for node, machine in enumerate(machines)
        for index, gpu in enumerate(machine.gpus)
    ]
