"""Models on GPUs that they share: all packed together, and the node pools that this takes. One arithmetic for all who ask."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headrace.errors import PlanError, UsageError
from headrace.facts.hardware import Machine, Sku
from headrace.plan.fleet import Member, fleet
from headrace.plan.nodepool import NodePool, packed
from headrace.plan.offer import Knowledge, Offer
from headrace.plan.packing.base import Assignment

SHARED = ("mig", "time-slice", "process", "swap")
"""Values of `share` by which a model is packed with others."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Where every replica sits, and what each model was sized by."""

    pools: tuple[NodePool, ...]
    offers: Mapping[str, Offer]

    def seats(self, model: str) -> list[tuple[NodePool, Assignment]]:
        """Each replica of a model, and the pool that it is on."""
        return [(pool, tenant) for pool in self.pools for tenant in pool.tenants if tenant.name == model]


def shared(members: Mapping[str, Member], machines: tuple[Machine, ...], knowledge: Knowledge) -> Shared:
    """Every model of `members` on machines of one size. Raises UsageError for several sizes, PlanError for what has no place."""
    hardware = tuple(machine if machine.sku else replace(machine, sku=_unnamed(machine)) for machine in machines)
    if len({_size(machine) for machine in hardware}) > 1:
        way = "Write `machine: {azure: SIZE, max: N}`, or --machine 'azure:SIZE x N'."
        raise UsageError("GPUs are shared on machines of one size, and none is named.", way)
    made = fleet(members, hardware, knowledge)
    nowhere = [f"models.{name}: {reason}" for name, reason in made.refused.items()]
    nowhere += [f"models.{each.name}: {each.reason} {each.fix}" for each in made.packing.unplaced]
    if nowhere:
        raise PlanError("\n".join(dict.fromkeys(nowhere)))
    return Shared(packed(made.packing, hardware), made.offers)


def _size(machine: Machine) -> str:
    assert machine.sku
    return machine.sku.name


def _unnamed(machine: Machine) -> Sku:
    """A machine that nobody rents: all that is known of it is what is in it."""
    gpu, count = machine.gpus[0], len(machine.gpus)
    return Sku(f"{count} x {gpu.name}", "", gpu, count, gpu.memory_bytes, machine.cores, machine.memory_bytes)
