"""One device while packing: what it holds, and whether more fits."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from headrace.facts.hardware import MigProfile
from headrace.plan.packing.base import Device, Key, Share
from headrace.plan.packing.mig import Layout, start_beside

WHOLE_SHARE = 1_000_000
"""A device's compute, in integers so that no order of adding matters."""

Mode = Literal["", "exclusive", "mig", "shared"]
"""How a device is used; empty: not at all."""

Pool = tuple[str, ...]
"""What is one process, or one set of models that are swapped; a time slice is a pool of one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One replica on one device. `compute` is in millionths of the device."""

    key: Key
    share: Share
    memory_bytes: int
    process_bytes: int
    compute: int = 0
    pool: Pool = ()
    profile: MigProfile | None = None
    start: int = 0

    @property
    def total_bytes(self) -> int:
        """What it takes when it shares its process with nobody."""
        return self.memory_bytes + self.process_bytes

    @property
    def mode(self) -> Mode:
        """How it makes a device used."""
        return self.share if self.share in ("exclusive", "mig") else "shared"


def pool_bytes(pieces: Iterable[Piece]) -> int:
    """One process holds the sum and one context; of models that are swapped one is there at a time, at worst the largest."""
    pieces = list(pieces)
    if not pieces:
        return 0
    if pieces[0].share == "swap":
        return max(piece.total_bytes for piece in pieces)
    return sum(piece.memory_bytes for piece in pieces) + max(piece.process_bytes for piece in pieces)


def pool_compute(pieces: Iterable[Piece]) -> int:
    """The least compute a pool needs, in millionths of the device."""
    pieces = list(pieces)
    if not pieces:
        return 0
    return max(p.compute for p in pieces) if pieces[0].share == "swap" else sum(p.compute for p in pieces)


class DeviceUse:
    """What a device holds. `room_bytes` and `compute` are what is left, `layout` its MIG instances by start."""

    __slots__ = ("_starts", "compute", "device", "layout", "mode", "pieces", "pools", "room_bytes")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.mode: Mode = ""
        self.room_bytes = device.free_bytes
        self.compute = WHOLE_SHARE
        self.pieces: dict[Key, Piece] = {}
        self.pools: dict[Pool, list[Piece]] = {}
        self.layout: Layout = ()
        self._starts: dict[str, int | None] = {}

    def fits(self, piece: Piece) -> bool:
        """Whether `piece` may be added. A MIG piece is asked about its profile, not its start: see `start`."""
        if (self.mode and self.mode != piece.mode) or self.mode == "exclusive":
            return False
        if piece.profile:
            return piece.total_bytes <= self.room_bytes and self.start(piece.profile) is not None
        pool = self.pools.get(piece.pool, ())
        if any(other.key[0] == piece.key[0] for other in pool):
            return False  # a second replica in the same process, or swapped with the first, would serve nobody
        return self.added_bytes(piece) <= self.room_bytes and self.added_compute(piece) <= self.compute

    def start(self, profile: MigProfile) -> int | None:
        """Where a slice of `profile` would start; None when it does not fit, or the device may not be cut."""
        if profile.name not in self._starts:
            self._starts[profile.name] = start_beside(profile, self.layout, self.device.gpu) if self.device.cuttable else None
        return self._starts[profile.name]

    def added_bytes(self, piece: Piece) -> int:
        """What `piece` would take of the room, next to what its pool holds already."""
        pool = self.pools.get(piece.pool) if piece.pool else None
        return pool_bytes([*pool, piece]) - pool_bytes(pool) if pool else piece.total_bytes

    def added_compute(self, piece: Piece) -> int:
        """What `piece` would take of the compute, next to what its pool holds already."""
        pool = self.pools.get(piece.pool) if piece.pool else None
        return pool_compute([*pool, piece]) - pool_compute(pool) if pool else piece.compute

    def add(self, piece: Piece) -> None:
        """Hold `piece` too; ask `fits` before."""
        self.room_bytes -= self.added_bytes(piece)
        if not piece.profile:
            self.compute -= self.added_compute(piece)
        self.mode = piece.mode
        self.pieces[piece.key] = piece
        if piece.pool:
            self.pools.setdefault(piece.pool, []).append(piece)
        if piece.profile:
            self._lay_out()

    def drop(self, piece: Piece) -> None:
        """Hold `piece` no more."""
        del self.pieces[piece.key]
        if piece.pool:
            self.pools[piece.pool].remove(piece)
            if not self.pools[piece.pool]:
                del self.pools[piece.pool]
        self.room_bytes += self.added_bytes(piece)
        if not piece.profile:
            self.compute += self.added_compute(piece)
        if not self.pieces:
            self.mode = ""
        if piece.profile:
            self._lay_out()

    def _lay_out(self) -> None:
        slices = [(piece.profile, piece.start) for piece in self.pieces.values() if piece.profile]
        self.layout, self._starts = tuple(sorted(slices, key=lambda instance: instance[1])), {}
