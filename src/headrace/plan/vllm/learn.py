"""The log of a vLLM start → what it measured, and the constants for that version and card corrected by it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import ceil

from headrace.errors import PlanError
from headrace.facts.model import ModelFacts
from headrace.plan.vllm.activation import encoder_bytes, graph_bytes, hidden_bytes, mlp_bytes, sampler_entries
from headrace.plan.vllm.constants import GIB, MIB, Constants, Range, VersionConstants, card_key, release
from headrace.plan.vllm.memory import Batching, batch

_N = r"(-?\d{1,9}(?:\.\d{1,9})?)"
_COUNT = r"([\d,]{1,20})"
_GIB_LINES: dict[str, tuple[str, ...]] = {
    "weights": (rf"Model loading took {_N} GiB", rf"model weights take {_N}GiB", rf"Actual usage is {_N} GiB for weight,"),
    "consumed": (rf"Actual usage is {_N} GiB for consumed memory",),
    "activations": (rf"{_N} GiB for peak activation", rf"activation peak memory takes {_N}GiB"),
    "runtime": (rf"{_N} GiB for non-torch memory", rf"non_torch_memory takes {_N}GiB"),
    "graphs": (rf"Graph capturing finished in \d{{1,6}} secs?, took {_N} GiB", rf"{_N} GiB for CUDAGraph memory"),
    "cache": (rf"Available KV cache memory: {_N} GiB", rf"reserved for KV Cache is {_N}GiB", rf"Explicitly set \({_N}/"),
    "total": (rf"total_gpu_memory \({_N}GiB\)",),
}
"""Lines of 0.11 and 0.33 (facts/planning.md, section 2), of the CPU build (facts/engine-vllm.md, section 5), of V0."""
_COUNT_LINES = {
    "tokens": (rf"KV cache size: {_COUNT} tokens",),
    "context": (rf"Maximum concurrency for {_COUNT} tokens", r"max_seq_len=(\d{1,9})"),
    "max_num_seqs": (r"max_num_seqs'?[=:] ?(\d{1,9})",),
    "max_num_batched_tokens": (r"max_num_batched_tokens'?[=:] ?(\d{1,9})",),
    "tensor_parallel": (r"tensor_parallel_size'?[=:] ?(\d{1,4})",),
    "pipeline_parallel": (r"pipeline_parallel_size'?[=:] ?(\d{1,4})",),
}
_NUMBER_LINES = {
    "concurrency": (rf"Maximum concurrency for [\d,]{{1,20}} tokens per request: {_N}x",),
    "utilization": (rf"gpu_memory_utilization'?[=:] ?{_N}", rf"gpu_memory_utilization \({_N}\)"),
}
_VERSION = re.compile(r"(?:LLM engine \(v|version |vLLM v)(\d{1,4}\.\d{1,4}[\w.+-]{0,40})")

_LEAST_SAMPLER, _MOST_SAMPLER = 2.0, 64.0
"""Bytes per logit that can be: the 16-bit logits themselves; more than any sampler seen (38) by far."""
_SURE = 1.02
"""A measured number repeats within this on the same version and card (ids 1 to 7 of the measurements scatter by 1%)."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What one start said, in bytes per GPU; None where the log does not say.

    Several ranks: the most for what is taken, the least for the cache. `consumed_bytes` are weights and runtime together.
    """

    version: str | None = None
    weights_bytes: int | None = None
    consumed_bytes: int | None = None
    activation_bytes: int | None = None
    runtime_bytes: int | None = None
    graph_bytes: int | None = None
    cache_bytes: int | None = None
    gpu_bytes: int | None = None
    cache_tokens: int | None = None
    context: int | None = None
    max_concurrency: float | None = None
    utilization: float | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    def __str__(self) -> str:
        named = {"weights": self.weights_bytes, "cache": self.cache_bytes, "activations": self.activation_bytes}
        said = [f"{name} {count / GIB:.2f} GiB" for name, count in named.items() if count is not None]
        return ", ".join([*said, f"tensor parallel {self.tensor_parallel}"])

    @property
    def enough(self) -> bool:
        """Whether constants can be corrected by it: version, weights and cache are what every complete start logs."""
        return None not in (self.version, self.weights_bytes, self.cache_bytes)


def learn(log_text: str) -> Learned:
    """What the log of a start says. Any text is taken; what is not understood is None."""
    sizes = {name: _bytes(_numbers(log_text, patterns), max) for name, patterns in _GIB_LINES.items()}
    sizes["cache"] = _bytes(_numbers(log_text, _GIB_LINES["cache"]), min)
    counts = {name: _last(_numbers(log_text, patterns)) for name, patterns in _COUNT_LINES.items()}
    numbers = {name: _last(_numbers(log_text, patterns)) for name, patterns in _NUMBER_LINES.items()}
    version = _VERSION.search(log_text)
    runtime = sizes["runtime"]
    if runtime is None and sizes["consumed"] is not None and sizes["weights"] is not None:
        runtime = max(0, sizes["consumed"] - sizes["weights"])
    return Learned(
        version=version[1] if version else None,
        weights_bytes=sizes["weights"],
        consumed_bytes=sizes["consumed"],
        activation_bytes=sizes["activations"],
        runtime_bytes=runtime,
        graph_bytes=sizes["graphs"],
        cache_bytes=sizes["cache"],
        gpu_bytes=sizes["total"],
        cache_tokens=_whole(counts["tokens"]),
        context=_whole(counts["context"]),
        max_concurrency=numbers["concurrency"],
        utilization=numbers["utilization"],
        max_num_seqs=_whole(counts["max_num_seqs"]),
        max_num_batched_tokens=_whole(counts["max_num_batched_tokens"]),
        tensor_parallel=_whole(counts["tensor_parallel"]) or 1,
        pipeline_parallel=_whole(counts["pipeline_parallel"]) or 1,
    )


def correct(
    learned: Learned,
    facts: ModelFacts,
    card: str,
    gpu_memory_bytes: int,
    constants: Constants,
    log: str = "a start's log",
) -> VersionConstants | None:
    """The constants of that version on that card with what the start measured in them, and the `log` as their source.

    None when the log does not say enough, or is of a pipeline, whose ranks hold different parts of the model.

    What is not logged apart is told apart by the terms that are known: requested − weights − cache is runtime, peak and graphs.
    Use with `Constants.with_learned`.
    """
    if not learned.enough or learned.pipeline_parallel > 1:
        return None
    version = str(learned.version)
    try:
        known, since = constants.at(version, card), release(version)
    except PlanError:
        return None
    asked = batch(
        known,
        gpu_memory_bytes,
        card,
        learned.context or facts.context or 0,
        learned.utilization,
        learned.max_num_seqs,
        learned.max_num_batched_tokens,
    )
    runtime = _runtime(learned, known)
    graphs = _graphs(learned, facts, asked, known, runtime.expected, gpu_memory_bytes)
    taught = replace(
        known,
        since=since,
        card=card_key(card),
        version=version,
        graph_bytes=graphs,
        measured=(card_key(card),),
        source=f"{log} ({learned})",
    )
    taught = replace(taught, sampler_bytes=_sampler(learned, facts, asked, taught, runtime.expected, gpu_memory_bytes, constants))
    if learned.tensor_parallel > 1:
        return replace(taught, runtime_parallel_bytes=runtime)
    return replace(taught, runtime_bytes=runtime)


def _runtime(learned: Learned, known: VersionConstants) -> Range:
    usual = known.runtime_parallel_bytes if learned.tensor_parallel > 1 else known.runtime_bytes
    return usual if learned.runtime_bytes is None else Range(learned.runtime_bytes, learned.runtime_bytes * _SURE + 64 * MIB)


def _graphs(
    learned: Learned, facts: ModelFacts, asked: Batching, known: VersionConstants, runtime: float, gpu_memory_bytes: int
) -> Range:
    """Per layer: what the start took off the cache as its estimate, where it counts graphs and logged the peak."""
    unit = graph_bytes(facts, learned.pipeline_parallel, asked.max_num_seqs, replace(known, graph_bytes=Range(1, 1))).expected
    if not known.graphs_counted or learned.activation_bytes is None or unit <= 0:
        return known.graph_bytes
    estimated = _rest(learned, asked, runtime, gpu_memory_bytes) - learned.activation_bytes
    if not 0 <= estimated <= 8 * max(unit * known.graph_bytes.expected, MIB):
        return known.graph_bytes
    return Range(estimated / unit, _SURE * estimated / unit)


def _sampler(
    learned: Learned,
    facts: ModelFacts,
    asked: Batching,
    known: VersionConstants,
    runtime: float,
    gpu_memory_bytes: int,
    constants: Constants,
) -> Range:
    """Bytes per logit, unless something else than the sampler made the peak."""
    peak = learned.activation_bytes
    if peak is None:
        counted = graph_bytes(facts, learned.pipeline_parallel, asked.max_num_seqs, known).expected if known.graphs_counted else 0
        peak = ceil(_rest(learned, asked, runtime, gpu_memory_bytes) - counted)
    left = peak - hidden_bytes(facts, asked.max_num_batched_tokens)
    others = max(
        mlp_bytes(facts, learned.tensor_parallel, asked.max_num_batched_tokens),
        encoder_bytes(facts, known, constants.encoders)[0],
    )
    each = left / sampler_entries(facts, asked.max_num_seqs)
    if facts.vocabulary is None or left <= others or not _LEAST_SAMPLER <= each <= _MOST_SAMPLER:
        return known.sampler_bytes
    return Range(each, each * _SURE)


def _rest(learned: Learned, asked: Batching, runtime: float, gpu_memory_bytes: int) -> float:
    """Bytes of the budget that neither weights, runtime nor cache take."""
    budget = ceil((learned.gpu_bytes or gpu_memory_bytes) * asked.utilization)
    return budget - (learned.weights_bytes or 0) - runtime - (learned.cache_bytes or 0)


def _numbers(text: str, patterns: Iterable[str]) -> list[float]:
    """Every number that the first pattern found captures."""
    for pattern in patterns:
        if found := [match.replace(",", "") for match in re.findall(pattern, text)]:
            return [float(number) for number in found if number]
    return []


def _bytes(gib: list[float], choose: Callable[[list[float]], float]) -> int | None:
    return round(choose(gib) * GIB) if gib else None


def _last(numbers: list[float]) -> float | None:
    return numbers[-1] if numbers else None


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
