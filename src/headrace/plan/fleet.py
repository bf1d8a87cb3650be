"""Many models onto given GPUs: what each needs at its share of the load, packed, with who goes where and how it is shared."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan.intent import Intent, Wanted
from headrace.plan.offer import Knowledge, Offer, consider
from headrace.plan.packing.base import Demand, Device, Packing
from headrace.plan.packing.pack import pack

_UTILIZATION = 0.92
"""Share of a device's memory that is planned, as vLLM takes by default: the rest is for what nobody counts."""


_OPEN = Wanted()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Where every model goes; `offers` is what each was sized by, `refused` why a model fits on no device by itself."""

    packing: Packing
    offers: Mapping[str, Offer]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """A model of a fleet, what it is for, and what of the ways to run it is wanted."""

    facts: ModelFacts
    intent: Intent
    wanted: Wanted = _OPEN


def fleet(members: Mapping[str, Member], machines: tuple[Machine, ...], knowledge: Knowledge) -> Fleet:
    """Every model of `members`, by name, on the GPUs of `machines` together."""
    offers: dict[str, Offer] = {}
    refused: dict[str, str] = {}
    for name, member in members.items():
        considered = [consider(member.facts, machine, member.intent, knowledge, member.wanted) for machine in machines]
        fitting = [one.offers[0] for one in considered if one.offers]
        if fitting:
            offers[name] = min(fitting, key=lambda offer: (offer.tensor_parallel, offer.gpu.name))
        else:
            reasons = [rejected.reason for one in considered for rejected in one.rejected]
            refused[name] = reasons[-1] if reasons else "there is no GPU"
    demands = [_demand(name, offer, members[name]) for name, offer in offers.items()]
    return Fleet(pack(demands, _devices(machines)), offers, refused)


def _demand(name: str, offer: Offer, member: Member) -> Demand:
    """One replica with as much cache as its users need and at least one request of the longest context."""
    memory, intent = offer.memory, member.intent
    runtime = sum(term.worst_bytes for term in memory.terms if term.name == "runtime")
    rest = sum(term.worst_bytes for term in memory.terms) - runtime
    per_token = memory.cache_bytes / memory.cache_tokens if memory.cache_tokens else 0.0
    cache = max(memory.request_bytes, round(per_token * intent.users * (intent.prompt + intent.output)))
    return Demand(
        name,
        memory_bytes=rest + cache,
        gpus=offer.tensor_parallel,
        process_bytes=runtime,
        cache_bytes=cache,
        share=member.wanted.share,
        reason=f"{intent.users} users of {intent.prompt + intent.output} tokens",
    )


def _devices(machines: tuple[Machine, ...]) -> list[Device]:
    return [
        Device(f"node-{node + 1}", index, gpu, int(gpu.memory_bytes * _UTILIZATION), link=gpu.link_kind)
        for node, machine in enumerate(machines)
        for index, gpu in enumerate(machine.gpus)
    ]
