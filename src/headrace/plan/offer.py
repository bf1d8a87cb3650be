"""What it is to run a model on GPUs in one way: an offer with its numbers, or a rejection with its reason; and the cheapest."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.facts.hardware import Gpu, Machine
from headrace.plan.base import Decision
from headrace.plan.batching import Outcome
from headrace.plan.speed import Speed
from headrace.plan.speed_constants import SpeedConstants
from headrace.plan.vllm.constants import Constants
from headrace.plan.vllm.memory import VllmMemory
from headrace.plan.ways import Variant, Way

VERSION = "0.33.0"
"""The version of vLLM that is planned for."""


@dataclass(frozen=True, slots=True)
class Pool:
    """`count` machines of one kind; replicas are spread over them, and none is split over two."""

    machine: Machine
    count: int = 1

    @property
    def gpu(self) -> Gpu:
        return self.machine.gpus[0]

    def room(self, way: Way) -> int:
        """Replicas that there are GPUs for."""
        return self.count * (len(self.machine.gpus) // way.gpus)


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to run the model, with its numbers. `problems` say what of the intent it misses; none: it meets it."""

    pool: Pool
    way: Way
    replicas: int
    memory: VllmMemory
    speed: Speed
    ttft: Outcome
    """One replica under its share of the users, simulated."""
    problems: tuple[str, ...]
    miss: float
    """How far it is from what it misses most: 2 is twice the time that was asked for; 1 where it misses nothing."""
    version: str
    """Of vLLM."""
    decisions: tuple[Decision, ...] = ()
    """Why it is split as it is, and why there are so many replicas, where that needs a word."""
    embeds: bool = False
    """An encoder: tokens per second are those of the texts it reads, and `ttft` is the time to their embedding."""

    @property
    def machine(self) -> Machine:
        return self.pool.machine

    @property
    def gpu(self) -> Gpu:
        return self.pool.gpu

    @property
    def quantization(self) -> Variant:
        return self.way.variant

    @property
    def tensor_parallel(self) -> int:
        return self.way.tensor_parallel

    @property
    def pipeline_parallel(self) -> int:
        return self.way.pipeline_parallel

    @property
    def gpus(self) -> int:
        return self.way.gpus * self.replicas

    @property
    def machines(self) -> int:
        """How many of the pool's machines are used."""
        return -(-self.replicas // (len(self.machine.gpus) // self.way.gpus))

    @property
    def usd_per_hour(self) -> float | None:
        """What the machines in use cost, None where no price is known. A machine is rented whole."""
        price = self.machine.rent
        return price.usd_per_hour * self.machines if price else None

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Per million tokens at the intended load: of answers, or of texts that are embedded."""
        if self.usd_per_hour is None or self.speed.tokens_per_second.expected <= 0:
            return None
        return self.usd_per_hour / (self.speed.tokens_per_second.expected * 3600) * 1e6


@dataclass(frozen=True, slots=True)
class Rejected:
    """A way that cannot be, and why; `memory` is its sum where it is that it does not fit."""

    way: str
    reason: str
    shortfall_bytes: int = 0
    memory: VllmMemory | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """All ways on a pool of machines: offers, the best first, and what was rejected."""

    pool: Pool
    offers: tuple[Offer, ...]
    rejected: tuple[Rejected, ...]

    @property
    def machine(self) -> Machine:
        return self.pool.machine


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What was measured of the engine: its memory and its speed."""

    memory: Constants
    speed: SpeedConstants
    version: str | None = None
    """The version of vLLM that is planned for; None: the one whose start was learned from on the card, else VERSION."""

    def version_on(self, gpu: Gpu) -> str:
        return self.version or self.memory.learned_version(gpu.name) or VERSION


def cheapest(considered: Sequence[Considered], most: int = 3) -> list[Offer]:
    """The best offer of each machine: those that meet the intent by price, one without a price last; then the nearest miss."""
    best = [one.offers[0] for one in considered if one.offers]
    unknown = float("inf")
    return sorted(best, key=lambda o: (o.miss, o.usd_per_hour or unknown, o.gpus, o.gpu.name))[:most]
