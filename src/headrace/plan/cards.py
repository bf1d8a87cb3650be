"""Which model sits on which GPUs of this machine: sized and packed as on machines that are asked about, in what is free there.

Models that may sleep and find no place beside each other take turns: each is packed beside what never sleeps, some together.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from headrace.facts.hardware import Card, Machine
from headrace.plan.fleet import UTILIZATION, Fleet, Member, fleet
from headrace.plan.offer import Knowledge, Offer
from headrace.plan.packing.base import PROCESS_BYTES, Assignment

_Placed = tuple[Assignment, tuple[Card, ...]]
"""A replica and the cards that it is on."""


@dataclass(frozen=True, slots=True)
class Seat:
    """The cards of one replica, and how it is run there. `taken_bytes` is what all of it takes of each of them, `cache_bytes` the
    part for the KV cache, `process_bytes` that of its process, which stays while it sleeps in place.
    """

    offer: Offer
    cards: tuple[Card, ...]
    taken_bytes: int
    cache_bytes: int
    process_bytes: int = 0


FULL = 1 << 62
"""More than any card has."""

Seats = Mapping[str, tuple[Seat, ...]]
"""One for each replica, by model."""


@dataclass(frozen=True, slots=True)
class Seated:
    """The places of every model that has some, why others have none, and with whom each that takes turns shares its cards."""

    seats: Seats
    refused: Mapping[str, str] = field(default_factory=dict)
    turns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def seats(
    members: Mapping[str, Member], machine: Machine, knowledge: Knowledge, sleepers: Collection[str] = frozenset()
) -> Seated:
    """Who sits where. What a card has left is cache for those on it. Of `sleepers` no replica need be there.

    Sized for the freest card of each kind and, where not all find a place so, for the fullest. Models that have no place are left
    out, and the others packed again; where there are sleepers among them, these take turns instead.
    """
    made, left, refused = _packed(members, machine, knowledge)
    if refused and not members.keys().isdisjoint(sleepers):
        return _by_turns(members, machine, knowledge, sleepers)
    return Seated(_seated(made, left, machine.cards) if made else {}, refused)


def _by_turns(members: Mapping[str, Member], machine: Machine, knowledge: Knowledge, sleepers: Collection[str]) -> Seated:
    """What never sleeps first, with no more cache than it needs; then the sleepers, in as many layers as it takes."""
    stay = {name: member for name, member in members.items() if name not in sleepers}
    left = {name: member for name, member in members.items() if name in sleepers}
    made, kept, refused = _packed(stay, machine, knowledge)
    found = dict(_seated(made, kept, machine.cards, FULL)) if made else {}
    alone = {name for name, member in stay.items() if member.wanted.share == "exclusive"}
    rest = replace(machine, cards=tuple(_beside(machine.cards, found, alone)))
    layers: list[Seats] = []
    asleep = (len(left) - 1) * PROCESS_BYTES
    while left:
        made, layer, gone = _packed(left, rest, knowledge)
        if not made:
            return Seated(found, {**refused, **gone}, _turns(layers))
        layers.append(_seated(made, layer, rest.cards, asleep))
        found |= layers[-1]
        left = {name: member for name, member in left.items() if name not in layer}
    return Seated(found, refused, _turns(layers))


def _beside(cards: Sequence[Card], found: Seats, alone: Collection[str]) -> Iterator[Card]:
    """The cards with what is left of them beside models that never sleep."""
    for card in cards:
        there = [(name, seat) for name, mine in found.items() for seat in mine if card in seat.cards]
        if not any(name in alone for name, _ in there):
            taken = sum(seat.taken_bytes for _, seat in there)
            yield replace(card, free_bytes=max(0, card.free_bytes - ceil(taken / UTILIZATION)))


def _turns(layers: Sequence[Seats]) -> dict[str, tuple[str, ...]]:
    """For each model the models of other layers that have a card in common with it."""
    where = [
        (at, name, {card.uuid for seat in mine for card in seat.cards})
        for at, one in enumerate(layers)
        for name, mine in one.items()
    ]
    found = {name: tuple(other for there, other, theirs in where if there != at and theirs & mine) for at, name, mine in where}
    return {name: others for name, others in found.items() if others}


def _packed(
    members: Mapping[str, Member], machine: Machine, knowledge: Knowledge
) -> tuple[Fleet | None, Mapping[str, Member], Mapping[str, str]]:
    """(how as many models as can be are packed, which these are, why the others are left out)."""
    left, refused = dict(members), dict[str, str]()
    while left:
        tries = [(made, _nowhere(left, made)) for made in _tries(left, machine, knowledge)]
        made, reasons = min(tries, key=lambda each: len(each[1]))
        if not reasons:
            return made, left, refused
        gone = _gone(made, reasons)
        refused |= {name: reasons[name] for name in gone}
        left = {name: member for name, member in left.items() if name not in gone}
    return None, {}, refused


def _gone(made: Fleet, reasons: Mapping[str, str]) -> list[str]:
    """Who is left out: those that fit nowhere, else one of those that found no place: the others may once it is gone."""
    crowded = {each.name for each in made.packing.unplaced}
    return [name for name in reasons if name not in crowded] or list(reasons)[-1:]


def _tries(members: Mapping[str, Member], machine: Machine, knowledge: Knowledge) -> list[Fleet]:
    freest, even = (_by_kind(machine.cards, machine, even=even) for even in (False, True))
    return [fleet(members, machines, knowledge) for machines in ([freest] if freest == even else [freest, even])]


def _by_kind(cards: Sequence[Card], machine: Machine, *, even: bool) -> tuple[Machine, ...]:
    """A machine for each kind of card, with what is free as its memory, or all of a kind with the least that is free."""
    machines = []
    for kind in dict.fromkeys(card.gpu.name for card in cards):
        alike = _of_kind(cards, kind)
        least = alike[-1].free_bytes
        gpus = tuple(replace(card.gpu, memory_bytes=least if even else card.free_bytes, mig=()) for card in alike)
        machines.append(replace(machine, gpus=gpus, cards=()))
    return tuple(machines)


def _of_kind(cards: Sequence[Card], kind: str) -> list[Card]:
    """The freest first: the first GPU of a machine is what models are sized for. The packing has them by these indices."""
    return sorted((card for card in cards if card.gpu.name == kind), key=lambda card: -card.free_bytes)


def _nowhere(members: Mapping[str, Member], made: Fleet) -> dict[str, str]:
    """Why models have no place: the whole model where one of its replicas has none."""
    found = {name: f"it does not fit: {reason}" for name, reason in made.refused.items()}
    for each in made.packing.unplaced:
        keep = " Every replica that there may be keeps its place on a card." if members[each.name].copies > 1 else ""
        found.setdefault(each.name, f"it finds no place: {each.reason.rstrip('.')}.{keep}")
    for name, offer in made.offers.items():
        if offer.quantization.name == "awq" and members[name].facts.quantization != "awq":
            found[name] = "it fits in 4 bits only, for which a checkpoint that was made with AWQ has to be named"
    return found


def _seated(made: Fleet, members: Mapping[str, Member], cards: Sequence[Card], kept_bytes: int = 0) -> Seats:
    """The seats of what was packed; `kept_bytes` of what each card has left are not given away as cache."""
    packed = [(each, _cards(each, cards)) for each in made.packing.assignments]
    places = _spread(packed, {name for name, member in members.items() if member.wanted.share == "exclusive"}, cards)
    spare = _spare(places, kept_bytes)
    found: dict[str, tuple[Seat, ...]] = {}
    for tenant, mine in places:
        offer = made.alike[tenant.name, tenant.gpu]
        more = min(spare[card.uuid] for card in mine) if offer.memory.request_bytes else 0
        seat = Seat(offer, mine, _size(tenant) + more, tenant.cache_bytes + more, tenant.process_bytes)
        found[tenant.name] = (*found.get(tenant.name, ()), seat)
    return found


def _cards(tenant: Assignment, cards: Sequence[Card]) -> tuple[Card, ...]:
    alike = _of_kind(cards, tenant.gpu)
    return tuple(alike[index] for _, index in tenant.devices)


def _spread(places: Sequence[_Placed], alone: Collection[str], cards: Sequence[Card]) -> list[_Placed]:
    """The packing uses as few GPUs as can be, for each is paid for. These are here already: from the card with most on it one
    goes to the card of its kind with least, the largest that may, as long as that makes them more even.
    """
    moved = list(places)
    while move := _move(moved, alone, cards):
        at, card = move
        moved[at] = (moved[at][0], (card,))
    return moved


def _move(places: Sequence[_Placed], alone: Collection[str], cards: Sequence[Card]) -> tuple[int, Card] | None:
    """(who moves, where to), None when they are as even as they get."""
    closed = {card.uuid for tenant, mine in places for card in mine if len(mine) > 1 or tenant.name in alone}
    open_cards = [card for card in cards if card.uuid not in closed]
    count = {card.uuid: sum(card in mine for _, mine in places) for card in open_cards}
    room = {card.uuid: _left(card, places) for card in open_cards}
    for crowded in sorted(open_cards, key=lambda card: -count[card.uuid]):
        tenants = [at for at, (_, mine) in enumerate(places) if mine == (crowded,)]
        for at in sorted(tenants, key=lambda at: -_size(places[at][0])):
            for card in sorted(_of_kind(open_cards, crowded.gpu.name), key=lambda card: count[card.uuid]):
                if count[card.uuid] + 1 < count[crowded.uuid] and _size(places[at][0]) <= room[card.uuid]:
                    return at, card
    return None


def _size(tenant: Assignment) -> int:
    return tenant.memory_bytes + tenant.process_bytes


def _left(card: Card, places: Sequence[_Placed]) -> int:
    return int(card.free_bytes * UTILIZATION) - sum(_size(tenant) for tenant, mine in places if card in mine)


def _spare(places: Sequence[_Placed], kept_bytes: int) -> dict[str, int]:
    """Bytes that are left of each card beyond those, by its UUID, for each of those on it."""
    count = {card.uuid: sum(card in mine for _, mine in places) for _, cards in places for card in cards}
    return {card.uuid: max(0, _left(card, places) - kept_bytes) // count[card.uuid] for _, cards in places for card in cards}
