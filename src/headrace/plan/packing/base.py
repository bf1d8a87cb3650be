"""What packing takes and gives: demands, devices, assignments, what found no place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from headrace.facts.hardware import Gpu

Share = Literal["exclusive", "mig", "time-slice", "process", "swap"]
Where = tuple[str, int]
"""A device: its node and its index there."""

Key = tuple[str, int]
"""A replica: its model's name and its number, from 0."""

PROCESS_BYTES = 512 * 2**20
"""The runtime context of one process on one device, about 0.5 GiB: planning.md 6."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one replica needs of each of `gpus` devices together, and how it may share them.

    `memory_bytes` counts everything on one device but `process_bytes`, which an engine process takes once however many models it
    holds. `cache_bytes` is the part of it for the KV cache. `kinds` names the GPUs it may use with the bytes on each; None: all,
    `memory_bytes` on each. `compute_share` is the least part of a device's compute, 0 to 1; None: whatever is left. `group` names
    the process (Triton, a base model with its adapters) or the pool of models that are swapped; other shares ignore it.
    `isolated` wants nobody else in its memory or its way: a MIG slice, or a device of its own where no slice will do.
    """

    name: str
    memory_bytes: int
    replica: int = 0
    gpus: int = 1
    process_bytes: int = PROCESS_BYTES
    cache_bytes: int = 0
    kinds: Mapping[str, int] | None = None
    compute_share: float | None = None
    share: Share | Literal["auto"] = "auto"
    group: str = ""
    isolated: bool = False
    reason: str = ""

    @property
    def key(self) -> Key:
        """What the replica is known by."""
        return (self.name, self.replica)

    def bytes_on(self, gpu: Gpu) -> int | None:
        """The bytes on each device of this kind, without the process's; None when it may not use the kind."""
        return self.memory_bytes if self.kinds is None else self.kinds.get(gpu.name)


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU of one node, with the bytes that may be planned on it.

    Devices of a node with the same `link` reach each other at full speed (NVLink, one PCIe switch). `cuttable` says that MIG mode
    may be set, where the GPU has it: nothing else runs there.
    """

    node: str
    index: int
    gpu: Gpu
    free_bytes: int
    link: str = ""
    cuttable: bool = True

    @property
    def where(self) -> Where:
        """What the device is known by."""
        return (self.node, self.index)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where one replica goes. `memory_bytes` of each device are its own, `process_bytes` its process's.

    A replica alone on its devices is `exclusive`, although one that may share will when another needs room. `profile` and
    `start` are the MIG slice. `cache_bytes` is the absolute budget to start an engine with that is not alone.
    """

    name: str
    replica: int
    devices: tuple[Where, ...]
    gpu: str
    share: Share
    memory_bytes: int
    process_bytes: int
    reason: str
    cache_bytes: int = 0
    group: str = ""
    profile: str | None = None
    start: int | None = None

    @property
    def key(self) -> Key:
        """What the replica is known by."""
        return (self.name, self.replica)

    @property
    def place(self) -> tuple[tuple[Where, ...], str | None, int | None]:
        """What must not change for the replica to stay where it is."""
        return (self.devices, self.profile, self.start)


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A replica without a place: `short_bytes` are missing per device where it comes closest; 0: it is not memory that lacks."""

    name: str
    replica: int
    short_bytes: int
    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Packing:
    """Which replica goes where. No packing of the placed replicas uses fewer devices than `least_devices`."""

    assignments: tuple[Assignment, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    moved: tuple[Key, ...] = ()
    devices: int = 0
    least_devices: int = 0
    waste_bytes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def gap(self) -> float:
        """How far the devices used can be above the fewest possible: 0.04 is at most 4 % more."""
        return self.devices / self.least_devices - 1 if self.least_devices else 0.0
