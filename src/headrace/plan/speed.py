"""How fast: tokens per second and time per token of a model on GPUs, with a range, and the limit that binds.

There is no TTFT here. Queueing dominates it and every closed form is off by factors (planning.md section 4): give `step_times` to
batching.py instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import PlanError
from headrace.facts.hardware import Gpu
from headrace.facts.model import ModelFacts
from headrace.plan.pipeline import Pipeline
from headrace.plan.roofline import Limit, Rates, Step, card, decode_step, decode_work, prefill_step, prefill_work
from headrace.plan.speed_constants import Choice, Confidence, SpeedConstants, pipelined

BUSY = 0.8
"""Above this utilisation time in queues grows without bound: nothing about TTFT is said without a simulation."""

_POOL_SHARE = 0.9
_POOL_RESERVE_BYTES = 3e9
"""What is left for the cache when nobody planned it: vLLM's share of memory, less weights and about 3 GB of work space."""


@dataclass(frozen=True, slots=True)
class Range:
    """The expected value, and bounds that held 80 % of measurements of models the fit had not seen."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast all GPUs together are.

    `tpot_seconds` is the time per output token that a client sees, others' prefill included; `tokens_per_second` counts output
    tokens, of all replicas. `utilisation` is that throughput as a share of the most that cache and batch allow. `batch` requests
    decode at once in one replica. `step` is one decode step at the mean context. `simulate_ttft` says that TTFT must not be
    guessed; there is no guess in any case. `reason` tells why the confidence is what it is.
    """

    tpot_seconds: Range
    tokens_per_second: Range
    tokens_per_second_per_gpu: float
    utilisation: float
    limit: Limit
    batch: float
    replicas: int
    step: Step
    prefill_seconds: float
    confidence: Confidence
    reason: str

    @property
    def simulate_ttft(self) -> bool:
        return self.utilisation > BUSY


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine as far as speed goes: who, which class of versions ("current" or "2023"), and what it is started with."""

    name: str = "vllm"
    versions: str = "current"
    requests: int = 1024
    step_tokens: int = 8192


def decode_seconds(
    facts: ModelFacts, gpu: Gpu, tp: int, batch: float, context: float, weight_bits: float, kv_bits: float, rates: Rates
) -> Step:
    """One decode step of `batch` requests with `context` tokens each, on `tp` GPUs. Weights and cache in bits per number."""
    work = decode_work(facts, tp, batch, context, weight_bits, kv_bits)
    return decode_step(work, card(gpu, weight_bits, facts.quantization, tp), rates)


def prefill_seconds(
    facts: ModelFacts, gpu: Gpu, tp: int, tokens: float, weight_bits: float, rates: Rates, past: float = 0
) -> Step:
    """`tokens` of a prompt after `past` others, on `tp` GPUs."""
    return prefill_step(prefill_work(facts, tp, tokens, past, weight_bits), card(gpu, weight_bits, facts.quantization, tp), rates)


def estimate(
    facts: ModelFacts,
    gpu: Gpu,
    gpus: int,
    tp: int,
    isl: float,
    osl: float,
    concurrency: float,
    constants: SpeedConstants,
    kv_pool_tokens: float | None = None,
    *,
    engine: Engine | None = None,
    weight_bits: float | None = None,
    kv_bits: float = 16,
    pp: int = 1,
) -> Speed:
    """The speed of `gpus // (tp x pp)` replicas that share `concurrency` requests of `isl` prompt and `osl` answer tokens.

    `kv_pool_tokens` is what one replica's cache holds; None estimates it from the GPU's memory. `weight_bits` None takes the mean
    of the files. Raises PlanError for what cannot be.
    """
    _check(facts, gpu, gpus, tp * pp, isl, osl, concurrency)
    _check_heads(facts, tp)
    engine = engine or Engine()
    bits = weight_bits or facts.weight_bytes * 8 / facts.parameters
    choice = constants.choose(engine.name, gpu, engine.versions)
    pipeline = Pipeline.of(facts, tp, pp, bits, kv_bits, card(gpu, bits, facts.quantization, tp), choice.fit.rates)
    replica = _Replica(pipeline, isl, osl)
    pool = _pool(replica, gpu) if kv_pool_tokens is None else kv_pool_tokens / (isl + osl)
    most = max(1.0, min(pool, engine.requests, engine.step_tokens * osl / isl))
    each = max(1.0, concurrency / (gpus // (tp * pp)))
    return _speed(replica, gpus, each, most, most == pool, choice if pp == 1 else pipelined(choice))


def step_times(
    facts: ModelFacts, gpu: Gpu, tp: int, weight_bits: float, kv_bits: float, rates: Rates, pp: int = 1
) -> Callable[[int, float, int], float]:
    """(decoding requests, mean context, prompt tokens beside them) → seconds of that step: what the simulation asks for.

    In a pipeline a prompt holds up others for as long as the slowest stage takes; `fill_seconds` is what its own way adds.
    """
    pipeline = Pipeline.of(facts, tp, pp, weight_bits, kv_bits, card(gpu, weight_bits, facts.quantization, tp), rates)

    def seconds(batch: int, context: float, tokens: int) -> float:
        decode = pipeline.decode(batch, context).seconds if batch else 0.0
        if not tokens:
            return decode
        # A prompt alone takes its whole time; beside decoding, the share that decoding waits for.
        share = rates.carry if batch else 1.0
        return decode + share * max(step.seconds for step in pipeline.prefills(tokens))

    return seconds


def fill_seconds(facts: ModelFacts, gpu: Gpu, tp: int, pp: int, tokens: float, weight_bits: float, rates: Rates) -> float:
    """How much longer a prompt takes through all stages of a pipeline than on the slowest; 0 where there is one."""
    each = Pipeline.of(facts, tp, pp, weight_bits, 16, card(gpu, weight_bits, facts.quantization, tp), rates).prefills(tokens)
    return sum(step.seconds for step in each) - max(step.seconds for step in each)


@dataclass(frozen=True, slots=True)
class _Replica:
    """One model under one kind of load."""

    pipeline: Pipeline
    isl: float
    osl: float

    def decode(self, batch: float) -> Step:
        """Half of the answer is there, on average."""
        return self.pipeline.decode(batch, self.isl + self.osl / 2)

    @property
    def prefill_seconds(self) -> float:
        """Of one prompt, through all stages."""
        return sum(step.seconds for step in self.pipeline.prefills(self.isl))

    def tpot(self, batch: float) -> float:
        """While a request decodes its answer, each of the others comes by with one prompt."""
        prefill = max(step.seconds for step in self.pipeline.prefills(self.isl))
        return self.decode(batch).seconds + prefill * self.pipeline.rates.carry * (batch - 1) / self.osl

    def tokens_per_second(self, batch: float) -> float:
        """Each of `batch` requests takes its own prefill, then a TPOT for each token."""
        return batch / (self.tpot(batch) + self.prefill_seconds / self.osl)


def _speed(replica: _Replica, gpus: int, asked: float, most: float, cache_binds: bool, choice: Choice) -> Speed:
    pipeline = replica.pipeline
    batch, replicas = min(asked, most), gpus // (pipeline.tp * len(pipeline.parts))
    step, tpot = replica.decode(batch), replica.tpot(batch)
    rate = replica.tokens_per_second(batch) * replicas
    return Speed(
        tpot_seconds=Range(tpot, tpot * choice.low, tpot * choice.high),
        tokens_per_second=Range(rate, rate / choice.high, rate / choice.low),
        tokens_per_second_per_gpu=rate / gpus,
        utilisation=1.0 if asked >= most else replica.tokens_per_second(batch) / replica.tokens_per_second(most),
        limit="cache size" if cache_binds and asked > most else step.limit,
        batch=batch,
        replicas=replicas,
        step=step,
        prefill_seconds=replica.prefill_seconds,
        confidence=choice.confidence,
        reason=choice.reason,
    )


def _pool(replica: _Replica, gpu: Gpu) -> float:
    """How many requests the cache holds when nobody planned it: memory less weights, by the bytes of a whole request."""
    pipeline, full = replica.pipeline, replica.isl + replica.osl
    fullest = max(pipeline.parts, key=lambda part: part.parameters)
    weights = decode_work(fullest, pipeline.tp, 1e9, full, pipeline.weight_bits, pipeline.kv_bits)
    room = gpu.memory_bytes * _POOL_SHARE - weights.dense_bytes - weights.expert_bytes - _POOL_RESERVE_BYTES
    request = decode_work(fullest, pipeline.tp, 1, full, pipeline.weight_bits, pipeline.kv_bits).cache_bytes
    return max(1.0, room / request) if request else float("inf")


def _check(facts: ModelFacts, gpu: Gpu, gpus: int, split: int, isl: float, osl: float, concurrency: float) -> None:
    if facts.encoder:
        raise PlanError(f"{facts.architecture} is an encoder: it has no output tokens whose speed could be told.")
    if min(isl, osl, concurrency) <= 0:
        raise PlanError(f"Speed needs prompts, answers and requests above 0: {isl:g}, {osl:g}, {concurrency:g} were given.")
    if split < 1 or gpus < split:
        raise PlanError(f"{gpus} x {gpu.name} cannot be cut {split} ways.")


def _check_heads(facts: ModelFacts, tp: int) -> None:
    if facts.heads % tp and facts.heads > tp:
        raise PlanError(f"{facts.heads} attention heads do not divide over {tp} GPUs.", "Take a divisor.")
