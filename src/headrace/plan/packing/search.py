"""Where one job would go: the tightest place on devices in use, else a device that is opened."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

from headrace.plan.packing.base import Share
from headrace.plan.packing.device import Piece
from headrace.plan.packing.fleet import Domain, Fleet, Spot, at
from headrace.plan.packing.job import DeviceClass, Job
from headrace.plan.packing.mig import memory_slices


@dataclass(frozen=True, slots=True)
class Search:
    """How to look: `large` opens the device of which the job takes the least part, else the smallest that fits.

    `opens`: whether a device that holds nothing may be used. `avoid` is the device not to go to, -1 for none.
    """

    large: bool = True
    opens: bool = True
    avoid: int = -1


def find(fleet: Fleet, job: Job, search: Search) -> Spot | None:
    """The best spot for `job` as the fleet stands, None when there is none. Takes nothing."""
    if job.demand.gpus > 1:
        return _together(fleet, job, search)
    for share in job.shares:
        if spot := _in_use(fleet, job, share, search):
            return spot
    for share in job.shares if search.opens else ():
        if spot := _opened(fleet, job, share, search):
            return spot
    return None


def slice_at(fleet: Fleet, job: Job, number: int) -> Spot | None:
    """The smallest MIG slice for `job` on one device, where it leaves most room for others."""
    use = fleet.uses[number]
    for piece in job.slices.get(fleet.classes[number], ()):
        if use.fits(piece) and piece.profile and (start := use.start(piece.profile)) is not None:
            return Spot(replace(piece, start=start), (number,))
    return None


def spot_at(fleet: Fleet, job: Job, number: int) -> Spot | None:
    """`job` on one device, in the first way it may share that fits."""
    for share in job.shares:
        if share == "mig" and (spot := slice_at(fleet, job, number)):
            return spot
        piece = job.pieces.get(fleet.classes[number]) if share != "mig" else None
        if piece and fleet.uses[number].fits(piece):
            return Spot(piece, (number,))
    return None


def _in_use(fleet: Fleet, job: Job, share: Share, search: Search) -> Spot | None:
    if share == "exclusive":
        return None
    if share == "mig":
        return _beside_slices(fleet, job, search)
    return _joined(fleet, job, search) or _tightest(fleet, job, search)


def _beside_slices(fleet: Fleet, job: Job, search: Search) -> Spot | None:
    """On the GPU that is cut already and has least left over."""
    numbers = [number for cls in job.slices for number in fleet.cut[cls] if number != search.avoid]
    spots = [spot for number in numbers if (spot := slice_at(fleet, job, number))]
    return min(spots, key=lambda spot: (_size(spot), _slices_left(fleet, spot.numbers[0]), spot.numbers), default=None)


def _size(spot: Spot) -> int:
    return spot.piece.profile.memory_bytes if spot.piece.profile else 0


def _slices_left(fleet: Fleet, number: int) -> int:
    use = fleet.uses[number]
    return use.device.gpu.mig_compute_slices - sum(profile.compute_slices for profile, _ in use.layout)


def _joined(fleet: Fleet, job: Job, search: Search) -> Spot | None:
    """In the process or swap pool it belongs to, where that adds least."""
    if not job.pool or not (homes := fleet.homes.get(job.pool)):
        return None
    found = []
    for numbers in sorted(homes):
        piece = job.pieces.get(fleet.classes[numbers[0]])
        if piece and len(numbers) == job.demand.gpus and search.avoid not in numbers and fleet.fits(spot := at(piece, numbers)):
            found.append((fleet.uses[numbers[0]].added_bytes(spot.piece), numbers, spot))
    return min(found, key=lambda each: each[:2])[2] if found else None


def _tightest(fleet: Fleet, job: Job, search: Search) -> Spot | None:
    """On the shared device that has least left over; the first of a process looks for room for all of them."""
    for bytes_wanted in sorted({job.mates_bytes, 0}, reverse=True):
        found = [best for cls, piece in job.pieces.items() if (best := _best(fleet, cls, piece, bytes_wanted, search.avoid))]
        if found:
            _, number, piece = min(found, key=lambda each: each[:2])
            return Spot(piece, (number,))
    return None


def _best(fleet: Fleet, cls: DeviceClass, piece: Piece, wanted: int, avoid: int) -> tuple[int, int, Piece] | None:
    """(bytes left, number, piece) of the tightest shared device of one class."""
    need = max(piece.total_bytes, wanted + piece.process_bytes if wanted else 0)
    rooms = fleet.shared[cls]
    for i in range(bisect_left(rooms, (need, -1)), len(rooms)):
        room, number = rooms[i]
        if number != avoid and fleet.uses[number].fits(piece):
            return (room - piece.total_bytes, number, piece)
    return None


def _opened(fleet: Fleet, job: Job, share: Share, search: Search) -> Spot | None:
    """On a device that held nothing."""
    choices = [(cls, piece) for cls, piece in _openable(job, share) if _first_empty(fleet, cls, search) is not None]
    if not choices:
        return None
    cls, piece = min(choices, key=lambda choice: _opening_rank(fleet, job, choice[0], choice[1], search))
    number = _first_empty(fleet, cls, search)
    assert number is not None
    return slice_at(fleet, job, number) if share == "mig" else Spot(piece, (number,))


def _openable(job: Job, share: Share) -> Iterator[tuple[DeviceClass, Piece]]:
    if share == "mig":
        return ((cls, pieces[0]) for cls, pieces in job.slices.items())
    return iter(job.pieces.items())


def _first_empty(fleet: Fleet, cls: DeviceClass, search: Search) -> int | None:
    return next((number for number in fleet.empty[cls] if number != search.avoid), None)


def _opening_rank(fleet: Fleet, job: Job, cls: DeviceClass, piece: Piece, search: Search) -> tuple[object, ...]:
    capacity = cls[1]
    short = max(job.mates_bytes + piece.process_bytes - capacity, 0) if job.mates_bytes else 0
    if not search.large or piece.mode == "exclusive":
        return (short, capacity, cls)
    if piece.profile:
        gpu = fleet.uses[fleet.empty[cls][0]].device.gpu
        return (
            max(piece.profile.size / memory_slices(gpu), piece.profile.compute_slices / gpu.mig_compute_slices),
            capacity,
            cls,
        )
    return (short, piece.total_bytes / capacity, cls)


def _together(fleet: Fleet, job: Job, search: Search) -> Spot | None:
    """On devices of one kind in one node: on one link if it can be, opening few, wasting little, breaking up no larger group."""
    if job.pool and (spot := _joined(fleet, job, search)):
        return spot
    sizes = {cls[0]: piece for cls, piece in job.pieces.items()}
    found = [
        group
        for domain in fleet.domains
        if domain.gpu in sizes and (group := _group(fleet, domain, job, sizes[domain.gpu], search))
    ]
    return min(found, key=lambda each: each[0])[1] if found else None


def _group(fleet: Fleet, domain: Domain, job: Job, piece: Piece, search: Search) -> tuple[tuple[object, ...], Spot] | None:
    """(rank, spot) of the best devices of one domain."""
    uses = fleet.uses
    fitting = [n for n in domain.numbers if n != search.avoid and (search.opens or uses[n].mode) and uses[n].fits(piece)]
    if len(fitting) < job.demand.gpus:
        return None
    fitting.sort(key=lambda n: (not uses[n].mode, uses[n].room_bytes, n))
    chosen = tuple(sorted(fitting[: job.demand.gpus]))
    opened = sum(not uses[n].mode for n in chosen)
    room = sum(uses[n].room_bytes for n in chosen)
    return (domain.crosses, opened, room, len(fitting), chosen), at(piece, chosen)
