"""Which model sits on which GPUs of this machine: sized and packed as on machines that are asked about, in what is free there."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.facts.hardware import Card, Machine
from headrace.plan.fleet import UTILIZATION, Fleet, Member, fleet
from headrace.plan.offer import Knowledge, Offer
from headrace.plan.packing.base import Assignment

_Placed = tuple[Assignment, tuple[Card, ...]]
"""A replica and the cards that it is on."""


@dataclass(frozen=True, slots=True)
class Seat:
    """The cards of one replica, and how it is run there. `taken_bytes` is what all of it takes of each of them, `cache_bytes` the
    part for the KV cache.
    """

    offer: Offer
    cards: tuple[Card, ...]
    taken_bytes: int
    cache_bytes: int


Seats = Mapping[str, tuple[Seat, ...]]
"""One for each replica, by model."""


def seats(members: Mapping[str, Member], machine: Machine, knowledge: Knowledge) -> tuple[Seats, Mapping[str, str]]:
    """(the places of every model that has some, why others have none). What a card has left is cache for those on it.

    Sized for the freest card of each kind and, where not all find a place so, for the fullest. Models that have no place are left
    out, and the others packed again.
    """
    left, refused = dict(members), dict[str, str]()
    while left:
        tries = [(made, _nowhere(left, made)) for made in _tries(left, machine, knowledge)]
        made, reasons = min(tries, key=lambda each: len(each[1]))
        if not reasons:
            return _seated(made, left, machine.cards), refused
        gone = _gone(made, reasons)
        refused |= {name: reasons[name] for name in gone}
        left = {name: member for name, member in left.items() if name not in gone}
    return {}, refused


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


def _seated(made: Fleet, members: Mapping[str, Member], cards: Sequence[Card]) -> Seats:
    packed = [(each, _cards(each, cards)) for each in made.packing.assignments]
    places = _spread(packed, {name for name, member in members.items() if member.wanted.share == "exclusive"}, cards)
    spare = _spare(places)
    found: dict[str, tuple[Seat, ...]] = {}
    for tenant, mine in places:
        offer = made.alike[tenant.name, tenant.gpu]
        more = min(spare[card.uuid] for card in mine) if offer.memory.request_bytes else 0
        seat = Seat(offer, mine, _size(tenant) + more, tenant.cache_bytes + more)
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


def _spare(places: Sequence[_Placed]) -> dict[str, int]:
    """Bytes that are left of each card, by its UUID, for each of those on it."""
    count = {card.uuid: sum(card in mine for _, mine in places) for _, cards in places for card in cards}
    return {card.uuid: max(0, _left(card, places)) // count[card.uuid] for _, cards in places for card in cards}
