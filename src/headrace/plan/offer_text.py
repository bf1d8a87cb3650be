"""Offers → text and data: what would run where, how fast, at what cost, and why the others lose."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from headrace.columns import aligned
from headrace.plan.intent import Intent
from headrace.plan.offer import VERSION, Considered, Offer
from headrace.plan.vllm.memory import VllmMemory
from headrace.plan.ways import AS_THEY_ARE, Way
from headrace.units import show_duration

_GIB = 2**30
_MOST_OTHERS = 10


def explain(name: str, considered: Sequence[Considered], best: Sequence[Offer], intent: Intent) -> str:
    """The best offers in full, the other ways on their machines in a line each, and what was rejected with its shortfall."""
    lines = [f"{name}, for {intent}:"]
    for rank, offer in enumerate(best):
        lines += ["", _headline(offer, rank, len(best)), *(f"  {row}" for row in _indented(list(_rows(offer))))]
    if not best:
        lines += ["", "It fits on none of the machines asked about."]
        lines += ["A replica is not split over machines."] if any(one.pool.count > 1 for one in considered) else []
    if len(considered) == 1:
        others = [offer for offer in considered[0].offers if offer not in best]
        lines += ["", "Other ways:", *_indented([_line(offer, best[0]) for offer in others[:_MOST_OTHERS]])] if others else []
        lines += [f"  and {len(others) - _MOST_OTHERS} more"] if len(others) > _MOST_OTHERS else []
    rejected = [(place(one), r.way, r.reason) for one in considered for r in one.rejected]
    if rejected and (len(considered) == 1 or not best):
        lines += [
            "",
            "Rejected:",
            *_indented([(way, why) if len(considered) == 1 else (where, why) for where, way, why in rejected]),
        ]
    elif len(considered) > 1:
        fit = sum(bool(one.offers) for one in considered)
        priceless = sum(bool(one.offers) and one.offers[0].usd_per_hour is None for one in considered)
        order = "the cheapest that meet it first" if best and not best[0].problems else "none meets it; the nearest first"
        last = f" ({priceless} have no known price and come last)" if priceless else ""
        lines += ["", f"{fit} of {len(considered)} machines fit it{last}: {order}."]
    return "\n".join(lines) + "\n"


def _headline(offer: Offer, rank: int, count: int) -> str:
    verdict = "meets it" if not offer.problems else "does not meet it: " + "; ".join(offer.problems)
    number = f"{rank + 1}. " if count > 1 else ""
    return f"{number}{where(offer)}: {verdict}"


def missed(offer: Offer) -> str:
    """What of the intent the best offer misses, and by how much, in one line; empty when it misses nothing."""
    if not offer.problems:
        return ""
    return f"Missed: {'; '.join(offer.problems)}. At worst that is {offer.miss:.2g} times what was asked for."


def where(offer: Offer) -> str:
    """The machines in use: `2 x Standard_NC24ads_A100_v4 (1 x A100-80GB-PCIe each)`."""
    machine = offer.machine
    if machine.sku is None:
        return f"{len(machine.gpus)} x {offer.gpu.name}"
    count = f"{offer.machines} x " if offer.machines > 1 else ""
    return f"{count}{machine.sku.name} ({len(machine.gpus)} x {offer.gpu.name}{' each' if offer.machines > 1 else ''})"


def place(considered: Considered) -> str:
    """The machine that was looked at: its size, or its GPUs."""
    machine = considered.machine
    if machine.sku is not None:
        return machine.sku.name
    return f"{len(machine.gpus)} x {machine.gpus[0].name}" if machine.gpus else "no GPU"


def _rows(offer: Offer) -> Iterator[tuple[str, str]]:
    speed, memory = offer.speed, offer.memory
    used = f"{offer.gpus} of {len(offer.machine.gpus) * offer.pool.count} GPUs"
    spread = f", on {offer.machines} of {offer.pool.count} machines" if offer.pool.count > 1 else ""
    learned = f" (its start on {offer.gpu.name} was learned)" if offer.version != VERSION else ""
    yield "engine", f"vLLM {offer.version}{learned}, {copies(offer)} on {used}{spread}"
    for decision in offer.decisions:
        yield decision.subject, f"{decision.value}: {decision.reason}"
    yield "flags", " ".join(flags(offer))
    quality = f": {offer.quantization.quality}" if offer.quantization.quality else ", as the weights are"
    yield "quantization", offer.quantization.name + quality
    yield "context", f"{memory.context:,} tokens per request; the longest that fits is {memory.longest_context:,}"
    yield "memory", str(memory)
    yield "", f"confidence {memory.confidence}: {memory.why}"
    yield from _times(offer)
    yield "", f"confidence {speed.confidence}: {speed.reason}"
    yield "cost", _cost(offer)


def _times(offer: Offer) -> Iterator[tuple[str, str]]:
    rate, token, first = offer.speed.tokens_per_second, offer.speed.tpot_seconds, offer.ttft.ttft
    what = "tokens/s of texts" if offer.embeds else "tokens/s"
    yield "throughput", f"{rate.expected:,.0f} {what} ({rate.low:,.0f} to {rate.high:,.0f}), bound by {offer.speed.limit}"
    if not offer.embeds:
        yield "per token", f"{token.expected * 1000:.1f} ms ({token.low * 1000:.1f} to {token.high * 1000:.1f})"
    name = "embedding" if offer.embeds else "first token"
    yield name, f"{show_duration(first.p50)} median, {show_duration(first.p90)} for nine of ten (simulated)"


def copies(offer: Offer) -> str:
    """`2 replicas split over 4 GPUs`."""
    way = offer.way
    split = f" split over {way.gpus} GPUs" if way.gpus > 1 else ""
    split += f" in {way.pipeline_parallel} stages" if way.pipeline_parallel > 1 else ""
    return f"{offer.replicas} {'replica' if offer.replicas == 1 else 'replicas'}{split}"


def flags(offer: Offer) -> tuple[str, ...]:
    """What vLLM is to be started with, beside the model, for the memory to be as planned."""
    batching, way = offer.memory.batching, offer.way
    parallel = {"tensor": way.tensor_parallel, "pipeline": way.pipeline_parallel}
    return (
        f"--max-model-len={offer.memory.context}",
        f"--max-num-seqs={batching.max_num_seqs}",
        f"--max-num-batched-tokens={batching.max_num_batched_tokens}",
        f"--gpu-memory-utilization={batching.utilization:g}",
        *(f"--{name}-parallel-size={count}" for name, count in parallel.items() if count > 1),
        *(("--quantization=fp8",) if way.variant.name == "fp8" else ()),
    )


def _cost(offer: Offer) -> str:
    price, million = offer.machine.rent, offer.usd_per_million_tokens
    if price is None:
        return "no price known"
    each = f" for {offer.machines} machines" if offer.machines > 1 else ""
    tokens = "tokens of texts" if offer.embeds else "output tokens"
    digits = 2 if million and million >= 0.1 else 4
    return f"${offer.usd_per_hour:.2f} an hour{each} ({price.said}), ${million:.{digits}f} per million {tokens} at this load"


def _line(offer: Offer, best: Offer) -> tuple[str, ...]:
    rate = f"{offer.speed.tokens_per_second.expected:,.0f} tokens/s"
    token = "" if offer.embeds else f"{offer.speed.tpot_seconds.expected * 1000:.1f} ms"
    slower = f"on {offer.gpus} GPUs" if offer.gpus > best.gpus else "slower"
    dearer = "at a loss of quality" if offer.quantization.quality else slower
    missed = "; ".join(offer.problems) or f"meets it, {dearer}"
    return copies(offer), offer.quantization.name, rate, token, missed


def _indented(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows)]


def formulas(offer: Offer) -> str:
    """Every term with its number and the source of its formula."""
    lines, memory = [f"Memory of one GPU ({where(offer)}, vLLM {offer.version}):"], offer.memory
    for stage in memory.stages or (memory,):
        lines += [f"{stage.stage}: {stage.cache_bytes / _GIB:.2f} GiB of cache"] if memory.stages else []
        lines += _indented(
            [
                (term.name, f"{term.bytes / _GIB:.2f} GiB", f"at worst {term.worst_bytes / _GIB:.2f}", term.source)
                for term in stage.terms
            ]
        )
    lines += [f"What binds, {memory.stage}:"] if memory.stages else []
    lines += [
        f"  budget  {memory.budget_bytes / _GIB:.2f} GiB = {memory.batching.utilization} of {memory.gpu_bytes / _GIB:.2f}",
        f"  {'left ' if offer.embeds else 'cache'}   {memory.cache_bytes / _GIB:.2f} GiB = budget less the terms "
        f"({memory.cache_low_bytes / _GIB:.2f} at worst)",
        f"  places  {memory.batching.max_num_seqs} requests, {memory.batching.max_num_batched_tokens} tokens a step",
        "",
        "Speed: a roofline for the step, calibrated on published measurements; others' prefill is in the time per token.",
    ]
    step = offer.speed.step
    name = "one step       " if offer.embeds else "one decode step"
    lines += [f"  {name}  {step.seconds * 1000:.2f} ms with {offer.speed.batch:.0f} requests, bound by {step.limit}"]
    lines += [f"  one prefill      {offer.speed.prefill_seconds * 1000:.1f} ms"]
    lines += [f"  utilisation      {offer.speed.utilisation:.0%} of what batch and cache allow"]
    lines += [f"  first token      simulated: {offer.ttft.requests} requests, continuous batching, busy {offer.ttft.busy:.0%}"]
    return "\n".join(lines) + "\n"


def data(name: str, considered: Sequence[Considered], best: Sequence[Offer]) -> dict[str, Any]:
    """The same for machines. Bytes, seconds, US dollars."""
    return {
        "model": name,
        "best": [offer_data(offer) for offer in best],
        "rejected": [
            {"machine": place(one), "way": r.way, "reason": r.reason, "shortfall_bytes": r.shortfall_bytes}
            for one in considered
            for r in one.rejected
        ],
    }


def summary(offer: Offer) -> str:
    """One line: quantization, devices, speed."""
    quality = f" ({offer.quantization.quality})" if offer.quantization.quality else ""
    speed = offer.speed
    rate, token = speed.tokens_per_second.expected, speed.tpot_seconds.expected * 1000
    split = Way(AS_THEY_ARE, offer.tensor_parallel, offer.pipeline_parallel).on(offer.gpu)
    each = "" if offer.embeds else f", {token:.1f} ms per token"
    return f"weights {offer.quantization.name}{quality}, {split}, {rate:,.0f} tokens/s{each}"


def offer_data(offer: Offer) -> dict[str, Any]:
    """One way to run a model, for machines. Bytes, seconds, US dollars."""
    speed, memory = offer.speed, offer.memory
    return {
        "machine": where(offer),
        "engine": "vllm",
        "task": "embed" if offer.embeds else "generate",
        "version": offer.version,
        "quantization": offer.quantization.name,
        "tensor_parallel": offer.tensor_parallel,
        "pipeline_parallel": offer.pipeline_parallel,
        "replicas": offer.replicas,
        "gpus": offer.gpus,
        "machines": offer.machines,
        "flags": list(flags(offer)),
        "decisions": [asdict(decision) for decision in offer.decisions],
        "context": memory.context,
        "longest_context": memory.longest_context,
        "memory_bytes": _memory_data(memory),
        "stages": [{"layers": stage.stage.layers, **_memory_data(stage)} for stage in memory.stages],
        "cache_tokens": memory.cache_tokens,
        "max_num_seqs": memory.batching.max_num_seqs,
        "max_num_batched_tokens": memory.batching.max_num_batched_tokens,
        "tokens_per_second": {
            "expected": speed.tokens_per_second.expected,
            "low": speed.tokens_per_second.low,
            "high": speed.tokens_per_second.high,
        },
        "tpot_seconds": {"expected": speed.tpot_seconds.expected, "low": speed.tpot_seconds.low, "high": speed.tpot_seconds.high},
        "ttft_seconds": {"p50": offer.ttft.ttft.p50, "p90": offer.ttft.ttft.p90, "p99": offer.ttft.ttft.p99},
        "limit": speed.limit,
        "confidence": {"memory": memory.confidence, "speed": speed.confidence},
        "usd_per_hour": offer.usd_per_hour,
        "usd_per_million_tokens": offer.usd_per_million_tokens,
        "problems": list(offer.problems),
    }


def _memory_data(memory: VllmMemory) -> dict[str, int]:
    """One GPU, in bytes."""
    return {**{term.name: term.bytes for term in memory.terms}, "cache": memory.cache_bytes, "gpu": memory.gpu_bytes}
