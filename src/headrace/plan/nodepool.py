"""Offers and packings → node pools: which machines, how many, for which models, and how their GPUs are cut or shared."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from headrace.facts.hardware import Gpu, Machine, MigProfile, Sku
from headrace.plan.offer import Offer
from headrace.plan.packing.base import Assignment, Packing

Mode = Literal["whole", "shared", "mig"]


@dataclass(frozen=True, slots=True)
class Use:
    """One model on a pool: how many replicas (the fewest and the most), and the GPUs of each."""

    model: str
    replicas: tuple[int, int]
    gpus: int


@dataclass(frozen=True, slots=True)
class NodePool:
    """Machines of one size, `least` to `most` of them.

    `mode` is of all their GPUs: whole, shared by `slices` processes each, or cut as `layout` says, a list of profiles for each
    device. `tenants` are the replicas that share or sit in slices, as packed.
    """

    name: str
    sku: Sku
    least: int
    most: int
    uses: tuple[Use, ...]
    mode: Mode = "whole"
    slices: int = 1
    layout: tuple[tuple[MigProfile, ...], ...] = ()
    tenants: tuple[Assignment, ...] = ()

    @property
    def gpu(self) -> Gpu:
        return self.sku.gpu

    @property
    def reason(self) -> str:
        """Who needs it, and for how many machines."""
        who = "; ".join(_use(use) for use in self.uses)
        count = str(self.most) if self.least == self.most else f"{self.least} to {self.most}"
        noun = "machine" if self.most == 1 else "machines"
        return f"{who}: {count} {noun} of {self.sku.gpus} x {self.gpu.name}"


def whole(offers: Mapping[str, Offer], replicas: Mapping[str, tuple[int, int]]) -> tuple[NodePool, ...]:
    """A pool for each size of machine that the offers are for; every replica has its GPUs to itself. `replicas` is what the spec
    scales in; models that are not in it have as many as their offer."""
    by_size: dict[str, list[tuple[str, Offer]]] = defaultdict(list)
    for model, offer in offers.items():
        assert offer.machine.sku, "a machine that can be rented"
        by_size[offer.machine.sku.name].append((model, offer))
    made = []
    for place, (_, users) in enumerate(sorted(by_size.items())):
        sku = users[0][1].machine.sku
        assert sku
        uses = tuple(Use(model, replicas.get(model, (o.replicas, o.replicas)), o.way.gpus) for model, o in users)
        least, most = (machines([(use.gpus, use.replicas[end]) for use in uses], sku.gpus) for end in (0, 1))
        made.append(NodePool(pool_name(sku.gpu.name, place), sku, least, most, uses))
    return tuple(made)


def machines(needs: Sequence[tuple[int, int]], gpus: int) -> int:
    """Machines with `gpus` each for (GPUs of a replica, replicas): the largest first, each where it still fits."""
    free: list[int] = []
    for each, count in sorted(needs, reverse=True):
        for _ in range(count):
            place = next((i for i, left in enumerate(free) if left >= each), None)
            if place is None:
                free.append(gpus)
                place = len(free) - 1
            free[place] -= each
    return len(free)


def packed(packing: Packing, hardware: Sequence[Machine]) -> tuple[NodePool, ...]:
    """A pool for each kind of node in a packing: those whose GPUs are used alike by the same models. Nodes are those of
    `hardware`, `node-1` the first."""
    nodes: dict[str, list[Assignment]] = defaultdict(list)
    for each in _alike(packing.assignments):
        nodes[each.devices[0][0]].append(each)
    kinds: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for node, tenants in sorted(nodes.items(), key=lambda pair: int(pair[0].removeprefix("node-"))):
        sku = hardware[int(node.removeprefix("node-")) - 1].sku
        assert sku, "a machine that can be rented"
        kinds[_kind(sku, tenants)].append(node)
    return tuple(_pool(place, names, nodes, hardware) for place, names in enumerate(kinds.values()))


def _alike(assignments: Sequence[Assignment]) -> list[Assignment]:
    """Replicas of a model are all alike in a cluster: where one shares, one that is alone so far is among those who may."""
    sharing = {each.name for each in assignments if each.share == "time-slice"}
    return [replace(each, share="time-slice") if each.name in sharing else each for each in assignments]


def pool_name(gpu: str, place: int) -> str:
    """Of a Linux pool in AKS: a letter, then lower case letters and digits, twelve in all."""
    plain = "".join(char for char in gpu.lower().partition("-")[0] if char.isascii() and char.isalnum())
    which = "" if not place else chr(ord("a") + place) if place < 26 else str(place)
    return ("gpu" + plain)[: 12 - len(which)] + which


def _kind(sku: Sku, tenants: Sequence[Assignment]) -> tuple[object, ...]:
    """What makes two nodes alike."""
    by_device = _by_device(tenants)
    return (
        sku.name,
        *(tuple(sorted((t.name, t.share, t.profile or "") for t in by_device[index])) for index in sorted(by_device)),
    )


def _by_device(tenants: Sequence[Assignment]) -> dict[int, list[Assignment]]:
    found: dict[int, list[Assignment]] = defaultdict(list)
    for tenant in tenants:
        for _, index in tenant.devices:
            found[index].append(tenant)
    return found


def _pool(place: int, names: Sequence[str], nodes: Mapping[str, list[Assignment]], hardware: Sequence[Machine]) -> NodePool:
    sku = hardware[int(names[0].removeprefix("node-")) - 1].sku
    assert sku
    tenants = [tenant for name in names for tenant in nodes[name]]
    first = _by_device(nodes[names[0]])
    slices = max(len([t for t in there if t.share == "time-slice"]) for there in first.values())
    slices = max(2, slices) if slices else 0  # one that shares elsewhere asks for a part here too
    cut = any(tenant.share == "mig" for tenant in tenants)
    mode: Mode = "mig" if cut else "shared" if slices > 1 else "whole"
    layout = tuple(_profiles(sku.gpu, first.get(index, [])) for index in range(sku.gpus)) if cut else ()
    return NodePool(
        pool_name(sku.gpu.name, place), sku, len(names), len(names), _uses(tenants), mode, max(1, slices), layout, tuple(tenants)
    )


def _uses(tenants: Sequence[Assignment]) -> tuple[Use, ...]:
    ordered = sorted(tenants, key=lambda tenant: tenant.name)
    grouped = ((name, list(group)) for name, group in groupby(ordered, key=lambda tenant: tenant.name))
    return tuple(Use(name, (len(group), len(group)), len(group[0].devices)) for name, group in grouped)


def _profiles(gpu: Gpu, tenants: Sequence[Assignment]) -> tuple[MigProfile, ...]:
    by_name = {profile.name: profile for profile in gpu.mig}
    return tuple(by_name[tenant.profile] for tenant in tenants if tenant.profile)


def _use(use: Use) -> str:
    least, most = use.replicas
    count = f"{most}" if least == most else f"{least} to {most}"
    return f"{use.model} {count} x {use.gpus} {'GPU' if use.gpus == 1 else 'GPUs'}"
