"""The words of a packing: why a replica is where it is, what one without a place lacks, what to be warned of."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from headrace.plan.packing.base import Demand, Unplaced, Where
from headrace.plan.packing.device import DeviceUse, Piece
from headrace.plan.packing.fleet import Fleet, Spot
from headrace.plan.packing.job import Job
from headrace.units import show_bytes


def reason(fleet: Fleet, job: Job, spot: Spot) -> str:
    """One sentence on how `job` is placed, after the reason its demand came with."""
    said = f"{job.demand.reason.rstrip('.')}; " if job.demand.reason else ""
    return f"{said}{_sentence(fleet, job.demand, spot)}."


def where_text(devices: Sequence[Where]) -> str:
    """`n1/0,1`: devices of one node."""
    return f"{devices[0][0]}/{','.join(str(index) for _, index in devices)}" if devices else "nowhere"


def warnings(fleet: Fleet) -> Iterator[str]:
    """What the user should know of shared devices, in the order of the devices."""
    for use in fleet.uses:
        if use.mode != "shared":
            continue
        if _processes(use) > 1:
            yield _shared_memory(use)
        if twins := _twins(use):
            what = f"replicas of {', '.join(twins)} share it: no faster than one, and they fail together."
            yield f"{where_text([use.device.where])}: {what}"


def shortage(fleet: Fleet, job: Job) -> Unplaced:
    """How much is missing for a job that has no place, why, and what would help."""
    short, why, fix = _shortage(fleet, job)
    return Unplaced(job.demand.name, job.demand.replica, short, why, fix)


def _shortage(fleet: Fleet, job: Job) -> tuple[int, str, str]:
    demand = job.demand
    if not job.shares:
        return 0, _contradiction(demand), "Set share to exclusive, or to auto."
    allowed = [use for use in fleet.uses if demand.bytes_on(use.device.gpu) is not None]
    if not allowed:
        return (
            demand.memory_bytes + demand.process_bytes,
            f"none of the devices is {_kinds(demand)}.",
            f"Add a device: {_kinds(demand)}.",
        )
    if not job.pieces and not job.slices:
        return _too_small(demand, allowed)
    return _no_room(fleet, job)


def _sentence(fleet: Fleet, demand: Demand, spot: Spot) -> str:
    use, piece = fleet.uses[spot.numbers[0]], spot.piece
    total = use.device.gpu.memory_bytes
    if piece.profile:
        why = (
            "isolation asked for" if demand.isolated else "a slice was asked for" if demand.share == "mig" else "a slice was left"
        )
        return (
            f"{why}: {show_bytes(piece.total_bytes)} of the {show_bytes(piece.profile.memory_bytes)} of MIG {piece.profile.name}"
        )
    if piece.share == "exclusive":
        return _exclusive(demand, piece, use)
    if piece.share == "process":
        mates = len(use.pools[piece.pool])
        process = f"one process of {mates} {'model' if mates == 1 else 'models'}{_named(demand)}"
        return f"{process}: {show_bytes(piece.memory_bytes)} and the context they have in common"
    if piece.share == "swap":
        most = max(mate.total_bytes for mate in use.pools[piece.pool])
        return f"in turn with {_others(len(use.pools[piece.pool]) - 1)}{_named(demand)}: the largest takes {show_bytes(most)}"
    if len(use.pieces) == 1:
        return f"alone here: {show_bytes(piece.total_bytes)} of {show_bytes(total)}; others may join"
    budget = f"{show_bytes(piece.total_bytes)}, {piece.total_bytes / max(total, 1):.3f} of the device's {show_bytes(total)}"
    return f"shares with {_others(len(use.pieces) - 1)}: budget {budget}"


def _exclusive(demand: Demand, piece: Piece, use: DeviceUse) -> str:
    size = f"{show_bytes(piece.total_bytes)} of {show_bytes(use.device.gpu.memory_bytes)}"
    if demand.share == "exclusive":
        return f"asked to be alone: {size}"
    if demand.isolated:
        return f"isolation asked for, and no MIG slice will do: {size}"
    return f"tensor parallel over {demand.gpus}: whole devices, since a shared one would stall all: {size} each"


def _others(count: int) -> str:
    return "1 other" if count == 1 else f"{count or 'no'} others"


def _named(demand: Demand) -> str:
    return f" ({demand.group})" if demand.group else ""


def _processes(use: DeviceUse) -> int:
    return len(use.pools) + sum(not piece.pool for piece in use.pieces.values())


def _shared_memory(use: DeviceUse) -> str:
    place = where_text([use.device.where])
    return (
        f"{place}: {_processes(use)} processes share it in time slices, which limit no memory: one that takes more than its"
        " budget fails the others. Start them one after another, each with its absolute cache budget."
    )


def _twins(use: DeviceUse) -> list[str]:
    counts: dict[str, int] = defaultdict(int)
    for name, _ in use.pieces:
        counts[name] += 1
    return sorted(name for name, count in counts.items() if count > 1)


def _contradiction(demand: Demand) -> str:
    if demand.share == "mig":
        return f"tensor parallel over {demand.gpus} devices cannot run in MIG slices."
    return f"isolation was asked for, which {demand.share} does not give."


def _kinds(demand: Demand) -> str:
    return " or ".join(sorted(demand.kinds)) if demand.kinds else "a GPU it may use"


def _too_small(demand: Demand, allowed: Sequence[DeviceUse]) -> tuple[int, str, str]:
    """Even empty devices are too small, or cannot be cut as asked."""
    short, use = min(((_needed(demand, use) - _largest(demand, use), use) for use in allowed), key=lambda each: each[0])
    thing = "slice" if demand.share == "mig" else "device"
    if short <= 0:
        return (
            0,
            f"no {thing} has {demand.compute_share:.0%} of a GPU's compute." if demand.compute_share else f"no {thing} will do.",
            _NO_SLICE,
        )
    need, most = show_bytes(_needed(demand, use)), show_bytes(_largest(demand, use))
    fix = "Use more GPUs together, smaller or more quantized weights, or a shorter context."
    return short, f"it needs {need} per device; the largest {thing} it may use has {most}: {show_bytes(short)} short.", fix


_NO_SLICE = "Ask for less of the compute, or for a whole device: share: exclusive."


def _needed(demand: Demand, use: DeviceUse) -> int:
    return (demand.bytes_on(use.device.gpu) or 0) + demand.process_bytes


def _largest(demand: Demand, use: DeviceUse) -> int:
    """The most one engine may have of an empty device."""
    if demand.share != "mig":
        return use.device.free_bytes
    sizes = [profile.memory_bytes for profile in use.device.gpu.mig if use.device.cuttable]
    return min(max(sizes, default=0), use.device.free_bytes)


def _no_room(fleet: Fleet, job: Job) -> tuple[int, str, str]:
    """It would fit on devices that are taken."""
    demand = job.demand
    rooms = _rooms(fleet, job)
    need, room = min(rooms, key=lambda each: (each[0] - each[1], each))
    short, one = max(need - room, 0), demand.gpus == 1
    kinds = " or ".join(sorted({cls[0] for cls in (*job.pieces, *job.slices)}))
    fix = f"Add {'one' if one else demand.gpus} {kinds}{'' if one else ' in one node'}"
    many = "" if one else f" on each of {demand.gpus} devices of one node"
    if not short:
        what = (
            "there is memory, but no compute share, slice or device to itself"
            if one
            else f"no node has {demand.gpus} devices free"
        )
        return 0, f"it needs {show_bytes(need)}{many}: {what}.", f"{fix}."
    had = show_bytes(room) if room else "nothing"
    fix = f"{fix}, or free {show_bytes(short)}{'' if one else ' per device'}." if room else f"{fix}."
    return short, f"it needs {show_bytes(need)}{many}; the most left is {had}: {show_bytes(short)} short.", fix


def _rooms(fleet: Fleet, job: Job) -> list[tuple[int, int]]:
    """(bytes needed, bytes left for it) where it might go: by device, or by the scarcest device of a group."""
    if job.demand.gpus == 1:
        return [each for n in range(len(fleet.uses)) if (each := _room(fleet, job, n))]
    found = []
    for domain in fleet.domains:
        rooms = sorted((each for n in domain.numbers if (each := _room(fleet, job, n))), key=lambda each: -each[1])
        if rooms:
            need = rooms[0][0]
            found.append((need, rooms[job.demand.gpus - 1][1] if len(rooms) >= job.demand.gpus else 0))
    return found


def _room(fleet: Fleet, job: Job, number: int) -> tuple[int, int] | None:
    use, cls = fleet.uses[number], fleet.classes[number]
    piece = job.pieces.get(cls) or (job.slices[cls][0] if cls in job.slices else None)
    if piece is None:
        return None
    if use.mode == "mig":
        sizes = [p.memory_bytes for p in use.device.gpu.mig if use.start(p) is not None] if cls in job.slices else []
        return piece.total_bytes, min(max(sizes, default=0), use.room_bytes)
    open_to_it = not use.mode or (use.mode == "shared" and piece.mode == "shared")
    return use.added_bytes(piece), use.room_bytes if open_to_it else 0
