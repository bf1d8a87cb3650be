"""Does it fit vLLM: the memory of one GPU as a sum of named terms, as vLLM itself profiles it at start."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Literal

from headrace.facts.model import ModelFacts
from headrace.plan.stages import Stage, part, stages
from headrace.plan.vllm.activation import activation_bytes, graph_bytes, received_bytes
from headrace.plan.vllm.cache import CacheLayout, layout
from headrace.plan.vllm.constants import GIB, Constants, Range, VersionConstants, card_key
from headrace.plan.vllm.weights import weights_bytes

Confidence = Literal["high", "medium", "low"]
Verdict = Literal["fits", "tight", "does not fit"]

_LONGEST = 16 * 2**20
"""Tokens beyond which no context is looked for; the longest published is 10 million."""


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the memory of a GPU: bytes expected, bytes at worst, and where the number comes from."""

    name: str
    bytes: int
    worst_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class Batching:
    """The settings that the memory depends on, as the caller or vLLM's defaults chose them."""

    utilization: float
    max_num_seqs: int
    max_num_batched_tokens: int


@dataclass(frozen=True, slots=True)
class VllmMemory:
    """What one GPU of a replica holds when vLLM has started.

    `terms` are all but the cache; with `cache_bytes` they make `total_bytes` of the GPU's `gpu_bytes`. `cache_low_bytes` and
    `cache_high_bytes` bound the cache; promises (`verdict`, `longest_context`) are made for the low end, so that "fits" is never
    wrong; "tight" is expected to fit and not promised. `shortfall_bytes` is what the low end lacks for one request of `context`.
    An encoder's requests need no cache: `cache_bytes` is then what is left, and no part of the total.
    Of a pipeline it is the GPU whose cache holds the fewest requests, on `stage`, and `stages` has one GPU of each.
    """

    terms: tuple[Term, ...]
    cache_bytes: int
    cache_low_bytes: int
    cache_high_bytes: int
    gpu_bytes: int
    budget_bytes: int
    context: int
    request_bytes: int
    cache_tokens: int
    max_concurrency: float
    longest_context: int
    verdict: Verdict
    confidence: Confidence
    why: str
    batching: Batching
    stage: Stage
    stages: tuple["VllmMemory", ...] = ()

    @property
    def fits(self) -> bool:
        return self.verdict == "fits"

    @property
    def requests(self) -> int:
        """Requests of `context` tokens that are held at once."""
        return floor(self.max_concurrency)

    @property
    def total_bytes(self) -> int:
        return sum(term.bytes for term in self.terms) + (max(0, self.cache_bytes) if self.request_bytes else 0)

    @property
    def shortfall_bytes(self) -> int:
        return max(0, self.request_bytes - self.cache_low_bytes)

    def term(self, name: str) -> Term:
        return next(term for term in self.terms if term.name == name)

    def __str__(self) -> str:
        parts = [(term.name, term.bytes) for term in self.terms]
        if self.request_bytes:
            parts.insert(1, ("cache", max(0, self.cache_bytes)))
        added = " + ".join(f"{name} {_gib(count)}" for name, count in parts if count)
        held = f"{self.cache_tokens:,} tokens of cache = {_count(self.requests)} of {self.context:,}"
        where = f"{self.stage}: " if self.stage.count > 1 else ""
        last = self._short() if self.shortfall_bytes else held if self.request_bytes else "no cache: nothing is kept of a text"
        return f"{where}{added} = {_gib(self.total_bytes)} of {_gib(self.gpu_bytes)} GiB; {last}"

    def _short(self) -> str:
        sure, short = _gib(max(0, self.cache_low_bytes)), _gib(self.shortfall_bytes)
        word = "may be " if self.verdict == "tight" else ""
        return f"a request of {self.context:,} needs {_gib(self.request_bytes)}, {sure} is sure: {word}{short} GiB short"


def vllm_memory(
    facts: ModelFacts,
    gpu_memory_bytes: int,
    tp: int,
    pp: int,
    context: int,
    *,
    version: str,
    constants: Constants,
    utilization: float | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    kv_dtype: str = "auto",
    card: str = "",
    eager: bool = False,
    expert_parallel: bool = False,
    kv_cache_bytes: int | None = None,
) -> VllmMemory:
    """The memory of the GPU that limits a replica over `tp` x `pp` GPUs that each have `gpu_memory_bytes` in all.

    requested = ceil(total x utilization); cache = requested − weights − runtime − activation peak, and from 0.21 on − graphs
    (facts/planning.md, section 2; read in 0.11 and 0.33). `kv_cache_bytes` is --kv-cache-memory-bytes, which ignores utilization.
    What is None is chosen as vLLM chooses. Ask `refuse_parallel` first whether it can be split so. Raises PlanError.
    """
    numbers = constants.at(version, card)
    batching = batch(numbers, gpu_memory_bytes, card, context, utilization, max_num_seqs, max_num_batched_tokens)
    # A pipeline has a batch in each stage (max_concurrent_batches of the executors).
    in_flight = max(numbers.batches_in_flight, pp if pp > 1 else 0) * batching.max_num_batched_tokens
    each = []
    for stage in stages(facts.layers, pp):
        start = _Start(facts, stage, gpu_memory_bytes, tp, context, card, numbers, batching, constants.encoders, kv_cache_bytes)
        kept = layout(start.here, tp, kv_dtype, in_flight)
        each.append(_memory(start, _terms(start, eager=eager, expert_parallel=expert_parallel), kept))
    return each[0] if pp == 1 else _limiting(each)


def _limiting(each: list[VllmMemory]) -> VllmMemory:
    """The stage that can promise the fewest requests, or lacks most; all get as many blocks as it (get_kv_cache_configs)."""
    limiting = min(each, key=lambda one: one.cache_low_bytes / (max(1, one.request_bytes) if one.cache_low_bytes > 0 else 1))
    verdicts: tuple[Verdict, ...] = ("does not fit", "tight", "fits")
    return replace(
        limiting,
        cache_tokens=min(one.cache_tokens for one in each),
        max_concurrency=min(one.max_concurrency for one in each),
        longest_context=min(one.longest_context for one in each),
        verdict=min((one.verdict for one in each), key=verdicts.index),
        stages=tuple(each),
    )


def batch(
    numbers: VersionConstants,
    gpu_memory_bytes: int,
    card: str = "",
    context: int = 0,
    utilization: float | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    usage: Literal["serve", "llm"] = "serve",
) -> Batching:
    """The settings vLLM starts with: those given, and its own choice by memory and name of the card for the rest."""
    name = card_key(card)
    known = [one for one in numbers.defaults if gpu_memory_bytes >= one.at_least_bytes and name not in one.unless_named]
    tokens = max_num_batched_tokens or (known[0].serve if usage == "serve" else known[0].llm)
    if numbers.whole_prompts and max_num_batched_tokens is None:
        tokens = max(tokens, context)
    return Batching(utilization or numbers.utilization, min(max_num_seqs or known[0].max_num_seqs, tokens), tokens)


@dataclass(frozen=True, slots=True)
class _Start:
    """What is asked, with what vLLM or the data fill in."""

    facts: ModelFacts
    stage: Stage
    gpu_bytes: int
    tp: int
    context: int
    card: str
    numbers: VersionConstants
    batching: Batching
    encoders: Collection[str]
    kv_cache_bytes: int | None

    @property
    def here(self) -> ModelFacts:
        """What of the model is on this stage."""
        return part(self.facts, self.stage)

    @property
    def budget_bytes(self) -> int:
        if self.kv_cache_bytes is not None:
            return self.gpu_bytes
        return ceil(self.gpu_bytes * self.batching.utilization)


def _terms(start: _Start, *, eager: bool, expert_parallel: bool) -> tuple[Term, ...]:
    facts, stage, tp, numbers, batching = start.here, start.stage, start.tp, start.numbers, start.batching
    since = f"vLLM {'.'.join(map(str, numbers.since))}{' on ' + numbers.card if numbers.card else ''}: {numbers.source}"
    runtime = numbers.runtime_parallel_bytes if tp * stage.count > 1 else numbers.runtime_bytes
    # Only the last stage samples.
    sampled, tokens = batching.max_num_seqs if stage.last else 0, batching.max_num_batched_tokens
    split = "bytes of the checkpoint, split" + (f"; {stage}{_ends(stage)}" if stage.count > 1 else "")
    terms = [
        _term("weights", weights_bytes(start.facts, tp, stage, expert_parallel=expert_parallel), split),
        _term("activations", activation_bytes(facts, tp, sampled, tokens, numbers, start.encoders), since),
        _term("runtime", runtime, since),
    ]
    if not stage.first:
        terms.append(_term("received", received_bytes(facts, tokens), "hidden states and residuals, from the stage before"))
    if numbers.graphs_counted and not eager:
        terms.append(_term("graphs", graph_bytes(facts, 1, batching.max_num_seqs, numbers), since))
    return tuple(terms)


def _ends(stage: Stage) -> str:
    return " with the embedding" if stage.first else " with the output head" if stage.last else ""


def _term(name: str, amount: Range, source: str) -> Term:
    return Term(name, ceil(amount.expected), ceil(max(amount)), source)


def _memory(start: _Start, terms: tuple[Term, ...], kept: CacheLayout) -> VllmMemory:
    pool, low, high = _pool(start, terms)
    request = kept.request_bytes(start.context)
    concurrency = max(0, pool) / request if request else float(start.batching.max_num_seqs)
    confidence, why = _confidence(start, pool, low)
    return VllmMemory(
        terms=terms,
        cache_bytes=pool,
        cache_low_bytes=low,
        cache_high_bytes=high,
        gpu_bytes=start.gpu_bytes,
        budget_bytes=start.budget_bytes,
        context=start.context,
        request_bytes=request,
        cache_tokens=_tokens(kept, max(0, pool), concurrency, start),
        max_concurrency=concurrency,
        longest_context=_most(min(start.facts.context or _LONGEST, _LONGEST), lambda n: kept.request_bytes(n) <= low),
        verdict="fits" if request <= low else "tight" if request <= pool else "does not fit",
        confidence=confidence,
        why=why,
        batching=start.batching,
        stage=start.stage,
    )


def _pool(start: _Start, terms: tuple[Term, ...]) -> tuple[int, int, int]:
    """(expected, least, most) bytes of the cache; negative is what is missing for none at all."""
    rest = start.budget_bytes - sum(term.bytes for term in terms)
    least = start.budget_bytes - sum(term.worst_bytes for term in terms)
    asked = start.kv_cache_bytes
    if asked is None:
        return rest, least, 2 * rest - least
    # An absolute cache is had in full or, when the rest leaves no room for it, not at all.
    return asked if asked <= rest else min(0, rest - asked), asked if asked <= least else min(0, least - asked), asked


def _tokens(kept: CacheLayout, pool: int, concurrency: float, start: _Start) -> int:
    """What vLLM prints as its cache's size: whole blocks, or for mixed layers in newer versions requests x their length."""
    if not kept.uniform and (start.numbers.tokens_are == "requests" or not kept.groups):
        return int(concurrency * start.context)
    return pool // (kept.page_bytes * sum(pages.layers for pages in kept.groups)) * min(pages.block for pages in kept.groups)


def _confidence(start: _Start, pool: int, low: int) -> tuple[Confidence, str]:
    doubts = list(start.facts.doubts)
    if start.facts.vocabulary is None:
        doubts.append("the vocabulary is not known")
    if start.facts.architecture in start.encoders:
        doubts.append("its image encoder is profiled at start, of which few were measured")
    if card_key(start.card) not in start.numbers.measured:
        doubts.append(f"no start of this version was measured on {start.card or 'an unnamed card'}")
    if start.stage.count > 1:
        doubts.append("no start of a pipeline was measured")
    spread = (pool - low) / pool if pool > 0 else 1.0
    said = [f"the cache may be {spread:.0%} smaller" if pool > 0 else "no room is expected"]
    if start.facts.encoder:
        said, doubts = [], [*doubts, "no start of an embedding model was measured"]
    said += [f"corrected by {start.numbers.source}"] if start.numbers.card else []
    why = "; ".join([*said, *doubts])
    if spread > 0.25 or len(doubts) > 1:
        return "low", why
    return ("high" if spread <= 0.05 and not doubts else "medium"), why


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `limit` that fits, by bisection; 0 when none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _gib(count: float) -> str:
    return f"{count / GIB:.2f}" if abs(count) < 20 * GIB else f"{count / GIB:.1f}"


def _count(requests: int) -> str:
    return "1 request" if requests == 1 else f"{requests:,} requests"
