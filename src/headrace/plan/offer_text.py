"""Offers → text and data: what would run where, how fast, at what cost, and why the others lose."""

from collections.abc import Iterator, Sequence
from typing import Any

from headrace.columns import aligned
from headrace.plan.intent import Intent
from headrace.plan.offer import Considered, Offer
from headrace.units import show_duration

_GIB = 2**30


def explain(name: str, considered: Sequence[Considered], best: Sequence[Offer], intent: Intent) -> str:
    """The best offers in full, the other ways on their machines in a line each, and what was rejected with its shortfall."""
    lines = [f"{name}, for {intent}:"]
    for place, offer in enumerate(best):
        lines += ["", _headline(offer, place, len(best)), *(f"  {row}" for row in _indented(list(_rows(offer))))]
    if not best:
        lines += ["", "It fits on none of the machines asked about."]
    if len(considered) == 1:
        others = [offer for offer in considered[0].offers if offer not in best]
        lines += ["", "Other ways:", *_indented([_line(offer) for offer in others])] if others else []
    rejected = [(_place(one), r.way, r.reason) for one in considered for r in one.rejected]
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


def _headline(offer: Offer, place: int, count: int) -> str:
    verdict = "meets it" if not offer.problems else "does not meet it: " + "; ".join(offer.problems)
    number = f"{place + 1}. " if count > 1 else ""
    return f"{number}{_where(offer)}: {verdict}"


def _where(offer: Offer) -> str:
    sku = offer.machine.sku
    if sku is not None:
        return f"{sku.name} ({len(offer.machine.gpus)} x {offer.gpu.name})"
    return f"{len(offer.machine.gpus)} x {offer.gpu.name}"


def _place(considered: Considered) -> str:
    machine = considered.machine
    if machine.sku is not None:
        return machine.sku.name
    return f"{len(machine.gpus)} x {machine.gpus[0].name}" if machine.gpus else "no GPU"


def _rows(offer: Offer) -> Iterator[tuple[str, str]]:
    speed, memory, ttft = offer.speed, offer.memory, offer.ttft
    used = f"{offer.gpus} of {len(offer.machine.gpus)} GPUs"
    yield "engine", f"vLLM {offer.version}, {_copies(offer)} on {used}"
    quality = f": {offer.quantization.quality}" if offer.quantization.quality else ", as the weights are"
    yield "quantization", offer.quantization.name + quality
    yield "context", f"{memory.context:,} tokens per request; the longest that fits is {memory.longest_context:,}"
    yield "memory", str(memory)
    yield "", f"confidence {memory.confidence}: {memory.why}"
    rate = speed.tokens_per_second
    yield "throughput", f"{rate.expected:,.0f} tokens/s ({rate.low:,.0f} to {rate.high:,.0f}), bound by {speed.limit}"
    token = speed.tpot_seconds
    yield "per token", f"{token.expected * 1000:.1f} ms ({token.low * 1000:.1f} to {token.high * 1000:.1f})"
    yield "first token", f"{show_duration(ttft.ttft.p50)} median, {show_duration(ttft.ttft.p90)} for nine of ten (simulated)"
    yield "", f"confidence {speed.confidence}: {speed.reason}"
    yield "cost", _cost(offer)


def _copies(offer: Offer) -> str:
    split = f" split over {offer.tensor_parallel} GPUs" if offer.tensor_parallel > 1 else ""
    return f"{offer.replicas} {'replica' if offer.replicas == 1 else 'replicas'}{split}"


def _cost(offer: Offer) -> str:
    sku = offer.machine.sku
    if sku is None or sku.price is None:
        return "no price known"
    price, million = sku.price, offer.usd_per_million_tokens
    return (
        f"${price.usd_per_hour:.2f} an hour ({price.region}, {price.date}), ${million:.2f} per million output tokens at this load"
    )


def _line(offer: Offer) -> tuple[str, ...]:
    rate = f"{offer.speed.tokens_per_second.expected:,.0f} tokens/s"
    token = f"{offer.speed.tpot_seconds.expected * 1000:.1f} ms"
    dearer = "at a loss of quality" if offer.quantization.quality else f"on {offer.gpus} GPUs"
    missed = "; ".join(offer.problems) or f"meets it, {dearer}"
    return _copies(offer), offer.quantization.name, rate, token, missed


def _indented(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows)]


def formulas(offer: Offer) -> str:
    """Every term with its number and the source of its formula."""
    lines = [f"Memory of one GPU ({_where(offer)}, vLLM {offer.version}):"]
    lines += _indented(
        [
            (term.name, f"{term.bytes / _GIB:.2f} GiB", f"at worst {term.worst_bytes / _GIB:.2f}", term.source)
            for term in offer.memory.terms
        ]
    )
    memory = offer.memory
    lines += [
        f"  budget  {memory.budget_bytes / _GIB:.2f} GiB = {memory.batching.utilization} of {memory.gpu_bytes / _GIB:.2f}",
        f"  cache   {memory.cache_bytes / _GIB:.2f} GiB = budget less the terms ({memory.cache_low_bytes / _GIB:.2f} at worst)",
        f"  places  {memory.batching.max_num_seqs} requests, {memory.batching.max_num_batched_tokens} tokens a step",
        "",
        "Speed: a roofline for the step, calibrated on published measurements; others' prefill is in the time per token.",
    ]
    step = offer.speed.step
    lines += [f"  one decode step  {step.seconds * 1000:.2f} ms with {offer.speed.batch:.0f} requests, bound by {step.limit}"]
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
            {"machine": _place(one), "way": r.way, "reason": r.reason, "shortfall_bytes": r.shortfall_bytes}
            for one in considered
            for r in one.rejected
        ],
    }


def summary(offer: Offer) -> str:
    """One line: quantization, devices, speed."""
    quality = f" ({offer.quantization.quality})" if offer.quantization.quality else ""
    speed = offer.speed
    rate, token = speed.tokens_per_second.expected, speed.tpot_seconds.expected * 1000
    split = f"{offer.tensor_parallel} x {offer.gpu.name}"
    return f"weights {offer.quantization.name}{quality}, {split}, {rate:,.0f} tokens/s, {token:.1f} ms per token"


def offer_data(offer: Offer) -> dict[str, Any]:
    """One way to run a model, for machines. Bytes, seconds, US dollars."""
    speed, memory = offer.speed, offer.memory
    return {
        "machine": _where(offer),
        "engine": "vllm",
        "version": offer.version,
        "quantization": offer.quantization.name,
        "tensor_parallel": offer.tensor_parallel,
        "replicas": offer.replicas,
        "gpus": offer.gpus,
        "context": memory.context,
        "longest_context": memory.longest_context,
        "memory_bytes": {
            **{term.name: term.bytes for term in memory.terms},
            "cache": memory.cache_bytes,
            "gpu": memory.gpu_bytes,
        },
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
