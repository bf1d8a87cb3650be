"""All devices while packing: what each holds, indexes to find room fast, and a way back."""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headrace.plan.packing.base import Device, Key
from headrace.plan.packing.device import DeviceUse, Piece, Pool
from headrace.plan.packing.job import DeviceClass, device_class


@dataclass(frozen=True, slots=True)
class Spot:
    """A replica on devices, by their numbers in the fleet."""

    piece: Piece
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """Devices of one kind in one node that a tensor-parallel replica may span; `crosses`: not all on one link."""

    crosses: bool
    gpu: str
    numbers: tuple[int, ...]


class Fleet:
    """The devices, numbered by node and index, and the spots taken on them.

    Per class: `empty` numbers in order, `shared` (room in bytes, number) in order, `cut` numbers of GPUs with MIG instances.
    `homes` tells where the process or swap pool of a name already is.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        ordered = sorted(devices, key=lambda device: device.where)
        self.uses = [DeviceUse(device) for device in ordered]
        self.classes: list[DeviceClass] = [device_class(device) for device in ordered]
        self.numbers = {device.where: number for number, device in enumerate(ordered)}
        self.domains = tuple(_domains(ordered))
        self.spots: dict[Key, Spot] = {}
        self.empty: dict[DeviceClass, list[int]] = defaultdict(list)
        self.shared: dict[DeviceClass, list[tuple[int, int]]] = defaultdict(list)
        self.cut: dict[DeviceClass, list[int]] = defaultdict(list)
        self.homes: dict[Pool, Counter[tuple[int, ...]]] = defaultdict(Counter)
        self._log: list[tuple[bool, Spot]] = []
        for number in range(len(ordered)):
            self._list(number)

    @property
    def used(self) -> list[int]:
        """The numbers of the devices that hold anything."""
        return [number for number, use in enumerate(self.uses) if use.mode]

    @property
    def waste_bytes(self) -> int:
        """The bytes left on devices that are used."""
        return sum(use.room_bytes for use in self.uses if use.mode)

    def fits(self, spot: Spot) -> bool:
        """Whether every device of `spot` can take it."""
        return all(self.uses[number].fits(spot.piece) for number in spot.numbers)

    def put(self, spot: Spot) -> None:
        """Take `spot`; ask `fits` before."""
        self._put(spot)
        self._log.append((True, spot))

    def remove(self, key: Key) -> Spot:
        """Free the spot of a replica, and return it."""
        spot = self._remove(key)
        self._log.append((False, spot))
        return spot

    def mark(self) -> int:
        """A point to go `back` to."""
        return len(self._log)

    def back(self, mark: int) -> None:
        """Undo everything since `mark`."""
        while len(self._log) > mark:
            added, spot = self._log.pop()
            if added:
                self._remove(spot.piece.key)
            else:
                self._put(spot)

    def _put(self, spot: Spot) -> None:
        self.spots[spot.piece.key] = spot
        for number in spot.numbers:
            self._unlist(number)
            self.uses[number].add(spot.piece)
            self._list(number)
        if spot.piece.pool:
            self.homes[spot.piece.pool[:2]][spot.numbers] += 1

    def _remove(self, key: Key) -> Spot:
        spot = self.spots.pop(key)
        for number in spot.numbers:
            self._unlist(number)
            self.uses[number].drop(spot.piece)
            self._list(number)
        if spot.piece.pool:
            home = self.homes[spot.piece.pool[:2]]
            home[spot.numbers] -= 1
            if not home[spot.numbers]:
                del home[spot.numbers]
        return spot

    def _list(self, number: int) -> None:
        use, cls = self.uses[number], self.classes[number]
        if not use.mode:
            insort(self.empty[cls], number)
        elif use.mode == "shared":
            insort(self.shared[cls], (use.room_bytes, number))
        elif use.mode == "mig":
            insort(self.cut[cls], number)

    def _unlist(self, number: int) -> None:
        use, cls = self.uses[number], self.classes[number]
        if not use.mode:
            _take_out(self.empty[cls], number)
        elif use.mode == "shared":
            _take_out(self.shared[cls], (use.room_bytes, number))
        elif use.mode == "mig":
            _take_out(self.cut[cls], number)


def at(piece: Piece, numbers: tuple[int, ...]) -> Spot:
    """`piece` on these devices. A process over several devices is joined only by what spans the same ones."""
    if piece.share == "process" and len(numbers) > 1:
        piece = replace(piece, pool=(*piece.pool[:2], "+".join(map(str, numbers))))
    return Spot(piece, numbers)


def _take_out(items: list[Any], item: Any) -> None:
    del items[bisect_left(items, item)]


def _domains(devices: Sequence[Device]) -> Iterator[Domain]:
    linked: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    nodes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, device in enumerate(devices):
        linked[device.node, device.gpu.name, device.link].append(number)
        nodes[device.node, device.gpu.name].append(number)
    for (_, gpu, _), numbers in linked.items():
        yield Domain(False, gpu, tuple(numbers))
    for (_, gpu), numbers in nodes.items():
        if len({devices[number].link for number in numbers}) > 1:
            yield Domain(True, gpu, tuple(numbers))
