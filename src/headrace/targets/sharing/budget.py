"""The memory of those who share a GPU, added up: each with an absolute budget, against what the device has."""

from collections.abc import Iterator, Sequence

from headrace.plan.nodepool import NodePool
from headrace.plan.packing.base import Assignment
from headrace.targets.sharing.device_plugin import How
from headrace.units import show_bytes

PLANNED = 0.92
"""Part of a device's memory that is planned: plan/fleet.py."""

ISOLATION = {
    "shared": "Time slicing isolates neither memory nor faults: one that takes too much or crashes the GPU takes all down.",
    "mps": "MPS gives each client an equal part of the memory; a fault of one ends them all. NVIDIA calls it experimental here.",
    "mig": "MIG isolates memory, bandwidth and faults: slices are GPUs of their own.",
    "whole": "Nobody else is on these GPUs.",
}
"""What sharing means for the neighbours."""


def isolation(pool: NodePool, how: How) -> str:
    return ISOLATION["mps" if pool.mode == "shared" and how == "mps" else pool.mode]


def arithmetic(pool: NodePool, pools: Sequence[NodePool]) -> Iterator[str]:
    """A line for each replica of one of `pools` with what to start it with, then the sum of those that may meet on one GPU."""
    for tenant in sorted(pool.tenants, key=lambda tenant: tenant.key):
        yield f"{tenant.name}#{tenant.replica}: {_parts(tenant)}"
    if pool.mode == "shared":
        largest = _largest(pool, pools)
        said = f"{' + '.join(map(show_bytes, largest))} = {show_bytes(sum(largest))}"
        yield f"the largest {len(largest)} that may meet: {said} of {show_bytes(_room(pool))} planned"


def problems(pool: NodePool, pools: Sequence[NodePool], how: How) -> Iterator[str]:
    """What does not add up. The scheduler counts slices, not bytes: any replicas that share may meet on a GPU of any pool."""
    if pool.mode != "shared":
        return
    if alone := sorted({tenant.name for tenant in pool.tenants if tenant.share == "exclusive"}):
        yield f"{', '.join(alone)} has whole GPUs on machines whose GPUs are all sliced: write share: exclusive for it"
    if (worst := sum(_largest(pool, pools))) > _room(pool):
        what = f"the {pool.slices} largest take {show_bytes(worst)} of {show_bytes(_room(pool))} if they meet on one GPU"
        yield f"{what}, and the scheduler does not know better: write share: exclusive for one of them"
    part = pool.gpu.memory_bytes // pool.slices
    for tenant in pool.tenants:
        if how == "mps" and _bytes(tenant) > part:
            yield f"{tenant.name}#{tenant.replica} takes {show_bytes(_bytes(tenant))}, and MPS gives each {show_bytes(part)}"


def _parts(tenant: Assignment) -> str:
    cache = f", started with --kv-cache-memory-bytes {tenant.cache_bytes}" if tenant.cache_bytes else ""
    slice_ = f" in {tenant.profile}" if tenant.profile else ""
    return f"{show_bytes(_bytes(tenant))}{slice_} ({show_bytes(tenant.cache_bytes)} of it KV cache{cache})"


def _largest(pool: NodePool, pools: Sequence[NodePool]) -> list[int]:
    """The bytes of the largest that could be on one GPU of the pool: a slice is asked for by a name that all pools have."""
    sharing = (tenant for other in pools if other.mode == "shared" for tenant in other.tenants if tenant.share == "time-slice")
    return sorted(map(_bytes, sharing), reverse=True)[: pool.slices]


def _room(pool: NodePool) -> int:
    return int(pool.gpu.memory_bytes * PLANNED)


def _bytes(tenant: Assignment) -> int:
    return tenant.memory_bytes + tenant.process_bytes
