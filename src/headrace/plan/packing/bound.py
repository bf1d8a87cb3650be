"""How few devices any packing needs, without solving a linear program: prices on the kinds of device, by weak duality.

Let the memory of a device of kind k cost p_k and its compute q_k, and let m_dk and c_dk be the parts of them that demand d takes
at least. The demands on one device take at most 1 of each, so together they pay at most p_k + q_k for every device in use, which
counts 1: at most p_k + q_k - 1 too much. So for all prices, with N_k devices of kind k,

    devices in use >= sum_d min_k (p_k m_dk + q_k c_dk) - sum_k N_k max(0, p_k + q_k - 1)

Any prices are right; `best_prices` looks for good ones. Parts may be rounded by dual feasible functions first (Fekete and
Schepers, Mathematical Programming 91, 2001): two parts above 1/2 never share a device, which volumes alone do not see.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from headrace.plan.packing.base import Device
from headrace.plan.packing.device import WHOLE_SHARE, Piece, Pool
from headrace.plan.packing.job import DeviceClass, Job, PriceList, device_class
from headrace.plan.packing.mig import memory_slices
from headrace.plan.packing.prices import Asked, Prices, best_prices

ONE = 840_000_000
"""A whole device in the parts, which are rounded down; sevenths, eighths and fifths are exact."""

_PRICE = 1_000_000
"""A price of 1, once rounded: the bound itself is computed in integers."""

_FEW = 3
"""Starts that are tried with every rounding: the best without."""

Item = tuple[int, tuple[tuple[int, int, int], ...]]
"""(devices together, (kind, part of memory, part of compute) by kind) of a demand."""

Round = Callable[[int], int]


def least_devices(jobs: Sequence[Job], devices: Sequence[Device], enough: int) -> int:
    """A number that no packing of all of `jobs` onto `devices` goes below; `enough` devices are known to do."""
    classes = sorted({device_class(device) for device in devices})
    supply = Counter(device_class(device) for device in devices)
    counts = [supply[cls] for cls in classes]
    items = _items(_counted(jobs), classes, {device_class(device): device for device in devices})
    if not items:
        return 0
    starts = sorted(_starts([cls[1] for cls in classes]), key=lambda prices: -_bound(items, counts, prices))[:_FEW]
    rounding, found = max(((r, _start(_rounded(items, r), counts, starts)) for r in _roundings()), key=lambda each: each[1])
    best = max(found, max(gpus for gpus, _ in items))
    plain: Round = int
    for tried in dict.fromkeys((rounding, plain)) if best < enough else ():
        rounded = _rounded(items, tried)
        best = max(best, _bound(rounded, counts, best_prices(_asked(rounded), counts, enough)))
    return best


def device_prices(jobs: Sequence[Job], devices: Sequence[Device]) -> PriceList:
    """What the memory and the compute of a device of each class are worth to these jobs: 1 together for those worth using."""
    classes = sorted({device_class(device) for device in devices})
    supply = Counter(device_class(device) for device in devices)
    items = _items(_counted(jobs), classes, {device_class(device): device for device in devices})
    prices = best_prices(_asked(items), [supply[cls] for cls in classes], len(devices) + 1)
    return dict(zip(classes, zip(prices.memory, prices.compute, strict=True), strict=True))


def _counted(jobs: Sequence[Job]) -> list[Job]:
    """Of models that are swapped only the largest of each pool: the others may take its place."""
    largest: dict[Pool, Job] = {}
    rest = []
    for job in jobs:
        if job.pool[:1] != ("swap",):
            rest.append(job)
        elif job.pool not in largest or job.bytes > largest[job.pool].bytes:
            largest[job.pool] = job
    return [*rest, *largest.values()]


def _items(jobs: Sequence[Job], classes: Sequence[DeviceClass], examples: Mapping[DeviceClass, Device]) -> list[Item]:
    return [
        (job.demand.gpus, tuple((k, *_parts(job, cls, examples[cls])) for k, cls in enumerate(classes) if _may(job, cls)))
        for job in jobs
        if job.pieces or job.slices
    ]


def _may(job: Job, cls: DeviceClass) -> bool:
    return cls in job.pieces or cls in job.slices


def _parts(job: Job, cls: DeviceClass, device: Device) -> tuple[int, int]:
    """The parts of memory and compute of one device that `job` takes at least, whichever way it shares."""
    memory, compute = ONE, ONE
    if (piece := job.pieces.get(cls)) and piece.mode != "exclusive":
        memory, compute = _bytes(piece) * ONE // max(cls[1], 1), piece.compute * ONE // WHOLE_SHARE
    profiles = [piece.profile for piece in job.slices.get(cls, ()) if piece.profile]
    if profiles:
        memory = min(memory, min(p.size for p in profiles) * ONE // memory_slices(device.gpu))
        compute = min(compute, min(p.compute_slices for p in profiles) * ONE // device.gpu.mig_compute_slices)
    return memory, compute


def _bytes(piece: Piece) -> int:
    """What a piece takes at least; in a process the context may be another's."""
    return piece.memory_bytes if piece.share == "process" else piece.total_bytes


def _starts(capacities: Sequence[int]) -> list[Prices]:
    """Prices after capacity, up to that of one kind, for memory or compute; and half for each."""
    nothing = (0.0,) * len(capacities)
    follow = [tuple(c / max(marginal, 1) for c in capacities) for marginal in sorted(set(capacities))]
    even = (1.0,) * len(capacities)
    half = tuple(Prices(tuple(p / 2 for p in prices), tuple(p / 2 for p in even)) for prices in follow)
    return [*(Prices(prices, nothing) for prices in follow), Prices(nothing, even), *half]


def _start(items: Sequence[Item], counts: Sequence[int], starts: Sequence[Prices]) -> int:
    return max(_bound(items, counts, prices) for prices in starts)


def _asked(items: Sequence[Item]) -> list[Asked]:
    alike: Counter[tuple[tuple[int, int, int], ...]] = Counter()
    for gpus, parts in items:
        alike[parts] += gpus
    return [Asked(count, tuple((k, m / ONE, c / ONE) for k, m, c in parts)) for parts, count in alike.items()]


def _bound(items: Sequence[Item], counts: Sequence[int], prices: Prices) -> int:
    """The bound at `prices`, rounded up to whole devices; all in integers, so that it is never above the truth."""
    memory, compute = [[round(price * _PRICE) for price in each] for each in (prices.memory, prices.compute)]
    paid = sum(gpus * min(memory[k] * m + compute[k] * c for k, m, c in parts) for gpus, parts in items)
    refund = sum(n * max(0, p + q - _PRICE) for n, p, q in zip(counts, memory, compute, strict=True))
    return -(-(paid - refund * ONE) // (ONE * _PRICE))


def _rounded(items: Sequence[Item], rounding: Round) -> list[Item]:
    return [(gpus, tuple((k, rounding(m), rounding(c)) for k, m, c in parts)) for gpus, parts in items]


def _roundings() -> Iterator[Round]:
    yield int
    for k in (1, 2, 3, 4):
        yield partial(_stairs, k)
    for percent in (20, 30, 40, 50):
        yield partial(_ends, ONE * percent // 100)


def _stairs(k: int, part: int) -> int:
    """Fekete and Schepers' u(k): k parts just above 1/(k + 1) fill a device, which k + 1 of them never share."""
    steps, over = divmod((k + 1) * part, ONE)
    return part if not over else steps * ONE // k


def _ends(low: int, part: int) -> int:
    """Fekete and Schepers' U(low): what leaves less than `low` takes all, what is less than `low` nothing."""
    return ONE if part > ONE - low else part if part >= low else 0
