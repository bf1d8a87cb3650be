"""A demand, worked out: how it may share, and what it is on each class of device."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.plan.packing.base import Demand, Device, Key, Share
from headrace.plan.packing.device import WHOLE_SHARE, Piece, Pool

DeviceClass = tuple[str, int, bool]
"""Devices that are alike to a packer: the GPU's name, free bytes, and whether MIG may be used."""

PriceList = Mapping[DeviceClass, tuple[float, float]]
"""What the memory and the compute of a device of each class are worth, in devices."""

_OPEN_TO_ALL = ("time-slice", "process", "swap")


@dataclass(frozen=True, slots=True)
class Job:
    """A demand with its pieces by class of device: `pieces` as a process on whole devices, `slices` as MIG, smallest first."""

    demand: Demand
    shares: tuple[Share, ...]
    pieces: Mapping[DeviceClass, Piece]
    slices: Mapping[DeviceClass, tuple[Piece, ...]]
    eligible: int
    """How many devices it could use if they were empty."""

    bytes: int
    """The least it takes of one device."""

    pool: Pool = ()
    mates_bytes: int = 0
    """What all that want to be in the same process take together."""

    @property
    def key(self) -> Key:
        """What its replica is known by."""
        return self.demand.key

    @property
    def likeness(self) -> tuple[object, ...]:
        """Equal for jobs of which one fits exactly where the other does."""
        d = self.demand
        kinds = None if d.kinds is None else tuple(sorted(d.kinds.items()))
        name = d.name if self.pool else ""
        return (d.memory_bytes, d.process_bytes, d.gpus, kinds, d.compute_share, self.shares, self.pool, name)


def device_class(device: Device) -> DeviceClass:
    """The class of `device`."""
    return (device.gpu.name, device.free_bytes, device.cuttable and bool(device.gpu.mig))


def shares(demand: Demand) -> tuple[Share, ...]:
    """How `demand` may be placed, the preferred way first; none when what it asks for contradicts itself.

    `auto` shares by time slices, or takes a slice of a GPU that is cut already. Tensor parallel gets whole devices: over time
    slices every step would wait for the most contended GPU.
    """
    if demand.share != "auto":
        contradicts = (demand.share == "mig" and demand.gpus > 1) or (demand.isolated and demand.share in _OPEN_TO_ALL)
        return () if contradicts else (demand.share,)
    if demand.gpus > 1:
        return ("exclusive",)
    return ("mig", "exclusive") if demand.isolated else ("time-slice", "mig")


def jobs(demands: Sequence[Demand], devices: Sequence[Device]) -> list[Job]:
    """Every demand worked out for these devices, by name and replica. Raises ValueError for a replica that is there twice."""
    counts = Counter(device_class(device) for device in devices)
    examples = {device_class(device): device for device in devices}
    made = [_job(demand, counts, examples) for demand in sorted(demands, key=lambda demand: demand.key)]
    if twice := [key for key, count in Counter(job.key for job in made).items() if count > 1]:
        raise ValueError(f"replica {twice[0][1]} of {twice[0][0]} is demanded more than once")
    mates: Counter[Pool] = Counter()
    for job in made:
        mates[job.pool] += job.demand.memory_bytes
    return [replace(job, mates_bytes=mates[job.pool]) if job.pool[:1] == ("process",) else job for job in made]


def _job(demand: Demand, counts: Mapping[DeviceClass, int], examples: Mapping[DeviceClass, Device]) -> Job:
    how = shares(demand)
    pool: Pool = (how[0], demand.group) if how and how[0] in ("process", "swap") else ()
    pieces, slices = {}, {}
    for cls, device in sorted(examples.items()):
        if (piece := _whole(demand, how, pool, device)) is not None:
            pieces[cls] = piece
        if "mig" in how and cls[2] and (cut := _slices(demand, device)):
            slices[cls] = cut
    eligible = sum(counts[cls] for cls in examples if cls in pieces or cls in slices)
    least = min((p.total_bytes for p in [*pieces.values(), *(s[0] for s in slices.values())]), default=demand.memory_bytes)
    return Job(demand, how, pieces, slices, eligible, least, pool)


def _whole(demand: Demand, how: Sequence[Share], pool: Pool, device: Device) -> Piece | None:
    """The demand as a process on `device` as such, when it would fit were the device empty."""
    share = next((share for share in how if share != "mig"), None)
    size = demand.bytes_on(device.gpu)
    compute = _compute(demand)
    if share is None or size is None or size + demand.process_bytes > device.free_bytes or compute > WHOLE_SHARE:
        return None
    return Piece(demand.key, share, size, demand.process_bytes, compute, pool)


def _slices(demand: Demand, device: Device) -> tuple[Piece, ...]:
    """The demand on every MIG profile of `device` that is large enough, the smallest first."""
    size = demand.bytes_on(device.gpu)
    if size is None or size + demand.process_bytes > device.free_bytes:
        return ()
    enough = [
        profile
        for profile in device.gpu.mig
        if profile.memory_bytes >= size + demand.process_bytes
        and profile.compute_slices * WHOLE_SHARE >= _compute(demand) * device.gpu.mig_compute_slices
        and "+me" not in profile.name
    ]
    enough.sort(key=lambda profile: (profile.size, profile.compute_slices, profile.name))
    return tuple(Piece(demand.key, "mig", size, demand.process_bytes, profile=profile) for profile in enough)


def _compute(demand: Demand) -> int:
    return round((demand.compute_share or 0.0) * WHOLE_SHARE)
