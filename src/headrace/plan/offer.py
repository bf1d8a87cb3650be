"""A model on a machine with GPUs: every way to run it with vLLM, what each gives, and why the others lose.

Ways differ in quantization, tensor parallelism and number of replicas. One that does not fit for sure is rejected with its
shortfall; of those that fit, the one that meets the intent with the least quality lost, then with the fewest GPUs is offered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from headrace.facts.hardware import Gpu, Machine
from headrace.facts.model import ModelFacts
from headrace.plan.intent import Intent, Wanted
from headrace.plan.speed import Engine, Speed, estimate, step_times
from headrace.plan.speed_constants import SpeedConstants
from headrace.plan.vllm.constants import Constants
from headrace.plan.vllm.memory import VllmMemory, vllm_memory
from headrace.plan.vllm.weights import refuse_parallel
from headrace.simulate.batching import Closed, Limits, Outcome, Request, simulate

VERSION = "0.33.0"
"""The version of vLLM that is planned for."""

_PARALLEL = (1, 2, 4, 8, 16)
_LEAST_SEQUENCES = 16
_LEAST_CAPABILITY = 7.5  # vLLM's documentation on installing for CUDA
_SIMULATED = 6  # requests per user in the simulation: enough for the queue to settle
_MOST_SIMULATED = 3000
_FULL_FORMATS = ("BF16", "F16", "F32", "bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class Variant:
    """A number format of the weights: how many bytes are left of the original's, the least compute capability, what it costs."""

    name: str
    share: float
    capability: float
    quality: str


_AS_THEY_ARE = Variant("none", 1.0, 0.0, "")
_VARIANTS = (
    # fp8: embeddings and head stay in 16 bits; vLLM makes it at load. awq: 4.25 bits a weight with scales, in a checkpoint.
    Variant("fp8", 0.54, 8.9, "within 1 % of the original in published evaluations; made at load"),
    Variant("awq", 0.33, 7.5, "a few percent on reasoning and code in published evaluations; needs a checkpoint made with AWQ"),
)


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to run the model, with its numbers. `problems` say what of the intent it misses; none: it meets it."""

    machine: Machine
    gpu: Gpu
    quantization: Variant
    tensor_parallel: int
    replicas: int
    context: int
    memory: VllmMemory
    speed: Speed
    ttft: Outcome
    """One replica under its share of the users, simulated."""
    problems: tuple[str, ...]
    miss: float
    """How far it is from what it misses most: 2 is twice the time that was asked for; 1 where it misses nothing."""
    version: str
    """Of vLLM."""

    @property
    def gpus(self) -> int:
        return self.tensor_parallel * self.replicas

    @property
    def usd_per_hour(self) -> float | None:
        """What the machine costs, None where no price is known. A machine is rented whole."""
        return self.machine.sku.price.usd_per_hour if self.machine.sku and self.machine.sku.price else None

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Per million output tokens at the intended load."""
        if self.usd_per_hour is None or self.speed.tokens_per_second.expected <= 0:
            return None
        return self.usd_per_hour / (self.speed.tokens_per_second.expected * 3600) * 1e6


@dataclass(frozen=True, slots=True)
class Rejected:
    """A way that cannot be, and why."""

    way: str
    reason: str
    shortfall_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Considered:
    """All ways on one machine: offers, the best first, and what was rejected."""

    machine: Machine
    offers: tuple[Offer, ...]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What was measured of the engine: its memory and its speed."""

    memory: Constants
    speed: SpeedConstants
    version: str = VERSION
    """The version of vLLM that is planned for."""


_OPEN = Wanted()


def consider(facts: ModelFacts, machine: Machine, intent: Intent, knowledge: Knowledge, wanted: Wanted = _OPEN) -> Considered:
    """Every way to run the model on `machine` that `wanted` leaves open; where it leaves none, why is among the rejected."""
    if facts.encoder:
        return Considered(machine, (), (Rejected("vLLM", f"{facts.architecture} is an encoder: its speed on GPUs is not known"),))
    if reason := _impossible(facts, machine, wanted):
        return Considered(machine, (), (Rejected("as asked for", reason),))
    offers: list[Offer] = []
    rejected: list[Rejected] = []
    for variant, tp in _ways(facts, machine, wanted):
        made = _on(facts, machine, intent, knowledge, variant, tp)
        if isinstance(made, Rejected):
            rejected.append(made)
        else:
            offers.append(made)
    return Considered(machine, tuple(sorted(offers, key=_rank)), tuple(rejected))


def _rank(offer: Offer) -> tuple[object, ...]:
    losses = (_AS_THEY_ARE, *_VARIANTS).index(offer.quantization)
    return (offer.miss, losses, offer.gpus, offer.tensor_parallel, offer.speed.tpot_seconds.expected)


def _ways(facts: ModelFacts, machine: Machine, wanted: Wanted) -> Iterator[tuple[Variant, int]]:
    name = "none" if wanted.quantization == facts.quantization else wanted.quantization  # they are of that format already
    variants = [variant for variant in _variants(facts, machine) if name in ("auto", variant.name)]
    parallel = _PARALLEL if wanted.tensor_parallel == "auto" else (wanted.tensor_parallel,)
    yield from product(variants, [tp for tp in parallel if tp <= len(machine.gpus)])


def _variants(facts: ModelFacts, machine: Machine) -> list[Variant]:
    capability = machine.gpus[0].compute_capability if machine.gpus else None
    if facts.quantization not in _FULL_FORMATS or capability is None:
        return [_AS_THEY_ARE]
    return [_AS_THEY_ARE, *(variant for variant in _VARIANTS if capability >= variant.capability)]


def _impossible(facts: ModelFacts, machine: Machine, wanted: Wanted) -> str | None:
    """Why there is no way at all as `wanted`."""
    count = len(machine.gpus)
    if not count or any(_ways(facts, machine, wanted)):
        return None
    if wanted.tensor_parallel != "auto" and wanted.tensor_parallel > count:
        return f"tensor_parallel {wanted.tensor_parallel} takes as many GPUs, and there {'is' if count == 1 else 'are'} {count}"
    if facts.quantization not in _FULL_FORMATS:
        return f"the weights are {facts.quantization} already: quantization {wanted.quantization} needs them in 16 bits"
    return f"{machine.gpus[0].name} cannot compute with quantization {wanted.quantization}; write auto or none"


def _on(facts: ModelFacts, machine: Machine, intent: Intent, knowledge: Knowledge, variant: Variant, tp: int) -> Offer | Rejected:
    gpu = machine.gpus[0]
    way = f"{tp} x {gpu.name}" + (f", {variant.name}" if variant is not _AS_THEY_ARE else "")
    if reason := _no_engine(gpu, tp) or refuse_parallel(facts, tp, 1):
        return Rejected(way, reason)
    context = _context(facts, intent)
    if facts.context is not None and context > facts.context:
        return Rejected(way, f"the model was made for {facts.context:,} tokens, {context:,} are asked for")
    made = _with(facts, variant)
    fallback: Offer | Rejected | None = None
    for replicas in range(1, len(machine.gpus) // tp + 1):
        memory = _memory(made, gpu, tp, context, intent, knowledge, replicas)
        if not memory.fits:
            return fallback or Rejected(way, str(memory), memory.shortfall_bytes)
        offer = _offer(made, machine, variant, tp, replicas, memory, intent, knowledge)
        if not offer.problems:
            return offer
        fallback = offer
    assert fallback
    return fallback


def _no_engine(gpu: Gpu, tp: int) -> str | None:
    if gpu.name.startswith("Apple"):
        return "vLLM does not run on Apple GPUs; llama.cpp does, with GGUF weights"
    if gpu.compute_capability is not None and gpu.compute_capability < _LEAST_CAPABILITY:
        return f"vLLM wants compute capability {_LEAST_CAPABILITY}, {gpu.name} has {gpu.compute_capability}"
    return f"{gpu.name} has no link to others" if tp > 1 and not gpu.link else None


def _with(facts: ModelFacts, variant: Variant) -> ModelFacts:
    if variant is _AS_THEY_ARE:
        return facts
    return replace(facts, weight_bytes=round(facts.weight_bytes * variant.share), quantization=variant.name)


def _context(facts: ModelFacts, intent: Intent) -> int:
    """Tokens per request: as asked, else what prompt and answer take, and as much again for longer ones, within the limit."""
    if intent.context is not None:
        return intent.context
    wanted = 1 << (2 * (intent.prompt + intent.output) - 1).bit_length()
    return min(wanted, facts.context or wanted)


def _memory(
    facts: ModelFacts, gpu: Gpu, tp: int, context: int, intent: Intent, knowledge: Knowledge, replicas: int
) -> VllmMemory:
    """With places for the users of one replica: places that nobody takes would cost memory (the sampler's dummy run)."""
    share = -(-intent.users // replicas)
    places = max(_LEAST_SEQUENCES, 1 << (share - 1).bit_length())
    return vllm_memory(
        facts,
        gpu.memory_bytes,
        tp,
        1,
        context,
        version=knowledge.version,
        constants=knowledge.memory,
        max_num_seqs=min(places, 1024),
        max_num_batched_tokens=8192 if gpu.memory_bytes >= 70 * 2**30 else 2048,
        card=gpu.name,
    )


def _offer(
    facts: ModelFacts,
    machine: Machine,
    variant: Variant,
    tp: int,
    replicas: int,
    memory: VllmMemory,
    intent: Intent,
    knowledge: Knowledge,
) -> Offer:
    gpu, batching = machine.gpus[0], memory.batching
    engine = Engine("vllm", requests=batching.max_num_seqs, step_tokens=batching.max_num_batched_tokens)
    speed = estimate(
        facts,
        gpu,
        tp * replicas,
        tp,
        intent.prompt,
        intent.output,
        intent.users,
        knowledge.speed,
        memory.cache_tokens,
        engine=engine,
    )
    ttft = _simulated(facts, gpu, tp, memory, knowledge, max(1, -(-intent.users // replicas)), intent)
    misses = dict(_misses(intent, speed, ttft, replicas * memory.cache_tokens))
    miss = max(misses.values(), default=1.0)
    return Offer(machine, gpu, variant, tp, replicas, memory.context, memory, speed, ttft, tuple(misses), miss, knowledge.version)


def _misses(intent: Intent, speed: Speed, ttft: Outcome, cache_tokens: int) -> Iterator[tuple[str, float]]:
    """What of the intent is missed, with both numbers, and how far it is missed."""
    if intent.tpot is not None and speed.tpot_seconds.expected > intent.tpot:
        said = f"{speed.tpot_seconds.expected * 1000:.0f} ms per token, {intent.tpot * 1000:.0f} asked for"
        yield said, speed.tpot_seconds.expected / intent.tpot
    if intent.ttft is not None and ttft.ttft.p90 > intent.ttft:
        said = f"{ttft.ttft.p90 * 1000:.0f} ms to the first token (p90), {intent.ttft * 1000:.0f} asked for"
        yield said, ttft.ttft.p90 / intent.ttft
    held = cache_tokens // (intent.prompt + intent.output)
    if held < intent.users:
        yield f"the cache holds {held} of {intent.users} users at once, the others wait", intent.users / max(held, 0.5)


def _simulated(
    facts: ModelFacts, gpu: Gpu, tp: int, memory: VllmMemory, knowledge: Knowledge, users: int, intent: Intent
) -> Outcome:
    """One replica with its share of the users, each of whom asks again as soon as it is answered: the time to first token."""
    batching = memory.batching
    rates = knowledge.speed.choose("vllm", gpu).fit.rates
    seconds = step_times(facts, gpu, tp, facts.weight_bytes * 8 / facts.parameters, 16, rates)
    limits = Limits(batching.max_num_seqs, batching.max_num_batched_tokens, memory.cache_tokens)
    requests = [Request(intent.prompt, intent.output)] * min(_MOST_SIMULATED, max(users * _SIMULATED, 50))
    return simulate(requests, Closed(users), limits, seconds, lambda: 0.5)


def cheapest(considered: list[Considered], most: int = 3) -> list[Offer]:
    """The best offer of each machine: those that meet the intent by price, one without a price last; then the nearest miss."""
    best = [one.offers[0] for one in considered if one.offers]
    unknown = float("inf")
    return sorted(best, key=lambda o: (o.miss, o.usd_per_hour or unknown, o.gpus, o.gpu.name))[:most]
