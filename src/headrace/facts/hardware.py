"""Hardware as values: one device, a thing one can rent, what is here. None is unknown, which is not zero."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MigProfile:
    """A way to cut a GPU: `starts` are the memory slices at which an instance may begin, `size` how many it takes.

    A layout is valid when every instance begins at one of its starts, no memory slices overlap, and compute slices sum to at most
    the GPU's. `at_most` instances fit at once.
    """

    name: str
    memory_bytes: int
    compute_slices: int
    size: int
    starts: tuple[int, ...]
    at_most: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device, as its vendor specifies it.

    `memory_bytes` is what an engine sees, `bandwidth` bytes per second of its memory, `flops` dense operations per second by
    number format (`fp16` stands for bf16 as well), `link` bytes per second to its neighbours in one direction (NVLink or PCIe,
    see `link_kind`). `measured` tells how well speed estimates are backed: rows of measurements for it.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    flops: Mapping[str, float]
    link_kind: str
    link: float
    compute_capability: float | None
    mig: tuple[MigProfile, ...] = ()
    mig_compute_slices: int = 0
    source: str = ""
    """Empty for a card that is not in the catalogue: memory and capability are its driver's word, speeds are assumed."""
    nvidia: tuple[str, ...] = ()
    """What nvidia-smi calls it."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU of this machine, or a MIG instance of one: what kind it is, and the bytes of its memory that are free now."""

    uuid: str
    place: str
    """As in `0`, or `0:1` for a MIG instance."""
    gpu: Gpu
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per hour, never without where and when; or as the user's file says, without."""

    usd_per_hour: float
    region: str = ""
    date: str = ""
    source: str = ""

    @property
    def said(self) -> str:
        """Where and when, or who says so."""
        return f"{self.region}, {self.date}" if self.region else "as the file says"


@dataclass(frozen=True, slots=True)
class Sku:
    """A machine that can be rented. `gpu_memory_bytes` is what one of its GPUs offers, less than the whole for a vGPU slice."""

    name: str
    cloud: str
    gpu: Gpu
    gpus: int
    gpu_memory_bytes: int
    cores: int
    memory_bytes: int
    price: Price | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as this process may use it, or one that is asked about.

    `cores` counts whole cores left by affinity and cgroup quota, at least 1. `memory_bytes` is the smaller of the
    machine's memory and the cgroup's limit, `memory_free_bytes` what could still be taken of it. `busy_cores` is how
    many of the cores others use right now. `quota` says that a cgroup limits the CPU: spinning threads then burn what
    work needs. `gpus` are its devices; `sku` what it is rented as. `cards` are the GPUs of the machine that we are on, `remarks`
    what to know of GPUs here that are not used, a sentence each.
    """

    cores: int
    memory_bytes: int
    memory_free_bytes: int
    busy_cores: float | None = None
    quota: bool = False
    gpus: tuple[Gpu, ...] = field(default=())
    cards: tuple[Card, ...] = ()
    remarks: tuple[str, ...] = ()
    sku: Sku | None = None
    price: Price | None = None
    """What the user says that it costs; None leaves it to `sku`."""

    @property
    def rent(self) -> Price | None:
        """What it costs, where that is known."""
        return self.price or (self.sku.price if self.sku else None)
