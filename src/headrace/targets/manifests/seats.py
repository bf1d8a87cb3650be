"""Where a replica sits on a GPU that others share: what its pod asks for, what memory it is started with, what isolates it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from headrace.errors import PlanError
from headrace.plan.base import Decision
from headrace.plan.nodepool import NodePool
from headrace.plan.packing.base import Assignment
from headrace.plan.sharing import Shared
from headrace.targets.sharing import budget, mig
from headrace.targets.sharing.device_plugin import LABEL, SHARED, How
from headrace.targets.sharing.wiring import config_name
from headrace.units import show_bytes

_ABSOLUTE = ("vllm", "triton")
"""Engines that take the bytes of their cache; the others take a part of all memory, whoever else is there."""


@dataclass(frozen=True, slots=True)
class Seat:
    """`resource` is what the pod asks for, `selector` the labels of the nodes that have it, `slices` how many share one GPU.

    `cache_bytes` is the engine's absolute budget. `utilization` is the part of the GPU's memory that all of the engine takes:
    vLLM looks at its start whether so much is free, and its default is for one that is alone; None: the slice is its own.
    """

    resource: str
    selector: dict[str, str]
    slices: int
    cache_bytes: int
    utilization: float | None
    own_shm: bool
    decisions: tuple[Decision, ...]


def seat(name: str, engine: str, shared: Shared, how: How) -> Seat | None:
    """The seat of every replica of a model; None where it has whole GPUs. Raises PlanError."""
    seats = shared.seats(name)
    mode = _share([tenant for _, tenant in seats])
    if mode == "exclusive":
        return None
    if mode not in ("time-slice", "mig"):
        raise PlanError(f"share: {mode} is for models of one process or one machine.", "Write time-slice or mig.")
    configs = {config_name(pool, how) for pool, _ in seats}
    selector = {LABEL: configs.pop()} if len(configs) == 1 else {}
    return _slice(seats, selector) if mode == "mig" else _part(engine, seats, selector, how)


def refuse(shared: Shared, how: How) -> None:
    """Raises PlanError where the memory of those who may meet on one GPU is more than it has, or a request cannot be met."""
    wrong = [f"{pool.name}: {what}" for pool in shared.pools for what in budget.problems(pool, shared.pools, how)]
    if wrong:
        raise PlanError("\n".join(dict.fromkeys(wrong)), "headrace nodepool --sharing shows the sums.")


def _share(tenants: Sequence[Assignment]) -> str:
    """Of all its replicas: one that shares makes them all ask for a part."""
    kinds = {tenant.share for tenant in tenants}
    return next((kind for kind in ("process", "swap", "time-slice", "mig") if kind in kinds), "exclusive")


def _part(engine: str, seats: Sequence[tuple[NodePool, Assignment]], selector: dict[str, str], how: How) -> Seat:
    pool = seats[0][0]
    if engine not in _ABSOLUTE:
        raise PlanError(
            f"{engine} takes a part of all the GPU's memory, whoever else is there.", "Write engine: vllm, or share: exclusive."
        )
    if how == "mps" and engine != "vllm":
        raise PlanError("MPS serves one user at a time, and engines run as users of their own.", "Write engine: vllm.")
    taken = max(tenant.memory_bytes + tenant.process_bytes for _, tenant in seats)
    cache = min(tenant.cache_bytes for _, tenant in seats)
    said = f"{show_bytes(taken)} of {show_bytes(pool.gpu.memory_bytes)} ({show_bytes(cache)} of it cache)"
    means = "MPS" if how == "mps" else "time slicing"
    return Seat(
        SHARED,
        selector,
        pool.slices,
        cache,
        ceil(1000 * taken / pool.gpu.memory_bytes) / 1000,
        how != "mps",
        (Decision("shares", f"{said}, one of {pool.slices} on one {pool.gpu.name} by {means}", budget.isolation(pool, how)),),
    )


def _slice(seats: Sequence[tuple[NodePool, Assignment]], selector: dict[str, str]) -> Seat:
    pool, tenant = max(seats, key=lambda seat: seat[1].memory_bytes)
    profiles = {each.profile for _, each in seats}
    if len(profiles) > 1:
        names = ", ".join(sorted(map(str, profiles)))
        raise PlanError(f"its replicas sit in slices of several sizes ({names}).", "Write share: exclusive, or fewer replicas.")
    profile = next(each for each in pool.gpu.mig if each.name == tenant.profile)
    why, cache = budget.isolation(pool, "time-slicing"), min(each.cache_bytes for _, each in seats)
    what = f"a slice {profile.name} of one {pool.gpu.name}, {show_bytes(profile.memory_bytes)} ({show_bytes(cache)} of it cache)"
    return Seat(
        mig.resource(profile),
        selector,
        profile.at_most,
        cache,
        None,
        True,
        (Decision("shares", what, why),),
    )
