"""Plans as the what-if page shows them: a verdict, numbers with their ranges, memory as a picture, what was rejected and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.dashboard.bars import Bar, device, sum_bar
from headrace.dashboard.parts import parts
from headrace.engines.base import Placement
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan import offer_text, rivals
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.intent import Intent
from headrace.plan.memory import CACHE_FACTORS, cache_bytes
from headrace.plan.offer import Considered, Offer
from headrace.plan.vllm.memory import VllmMemory
from headrace.units import show_bytes, show_duration

Verdict = Literal["fits", "misses", "short", "wrong"]
"""It fits and meets what it is for; it fits and misses some of it; it does not fit; it cannot be planned as asked."""
_MOST_OTHERS, _MOST_REJECTED = 10, 30
_UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, and below it its range or what it is of."""

    name: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the page shows. `rows` are (subject, value, reason)."""

    verdict: Verdict
    headline: str
    said: str = ""
    figures: tuple[Figure, ...] = ()
    bar: Bar | None = None
    rows: tuple[tuple[str, str, str], ...] = ()
    machines: tuple[tuple[str, str, str, str, str], ...] = ()
    """The best way on each of several machines: where, tokens/s, per token, cost, what it misses."""
    others: tuple[tuple[str, str, str, str, str], ...] = ()
    """Other ways on the same machine: replicas, format, tokens/s, per token, what speaks against it."""
    rejected: tuple[tuple[str, str], ...] = ()
    engines: tuple[tuple[str, str], ...] = ()
    doubts: tuple[str, ...] = ()


def wrong(said: str) -> Answer:
    """The question cannot be answered."""
    return Answer("wrong", "This cannot be planned", said)


def on_gpus(
    considered: Sequence[Considered], best: Sequence[Offer], facts: ModelFacts, intent: Intent, preset: str | None, engine: str
) -> Answer:
    """The answer for machines that are asked about; `best` are the best offers, one a machine, none where it fits nowhere.
    `preset` is KAITO's for the model, if there is one; `engine` the one that is asked for.
    """
    rejected = tuple((_where(one, r.way, len(considered)), r.reason) for one in considered for r in one.rejected)[:_MOST_REJECTED]
    if engine not in ("auto", "vllm"):
        why = f"For machines that are asked about, vLLM is planned, and {engine} is not: plan it on the machine that has it."
        return Answer("wrong", f"{engine} is not planned there", why, engines=_engines(facts, considered[0].machine, preset))
    if not best:
        tried = [(r, offer_text.place(one)) for one in considered for r in one.rejected]
        nearest, where = min(tried, key=lambda one: one[0].shortfall_bytes or 2**62, default=(None, ""))
        memory = nearest.memory if nearest else None
        return Answer(
            "short",
            offer_text.place(considered[0]) if len(considered) == 1 else f"None of {len(considered)} machines",
            nearest.reason if nearest and len(considered) == 1 else "It fits on none of them.",
            figures=_short(memory),
            bar=_gpu_bar(memory, f"One GPU of {where}" + (", the nearest" if len(considered) > 1 else "")) if memory else None,
            rejected=rejected,
            engines=_engines(facts, considered[0].machine, preset),
            doubts=facts.doubts,
        )
    first = best[0]
    return Answer(
        "misses" if first.problems else "fits",
        offer_text.where(first),
        "; ".join(first.problems) or f"Meets what it is for: {intent}.",
        figures=tuple(_figures(first)),
        bar=_gpu_bar(first.memory, f"One {first.gpu.name}"),
        rows=tuple(_rows(first)),
        machines=tuple(map(_machine, best)) if len(considered) > 1 else (),
        others=tuple(_other(one) for one in considered[0].offers if one is not first)[:_MOST_OTHERS]
        if len(considered) == 1
        else (),
        rejected=rejected if len(considered) == 1 else (),
        engines=_engines(facts, first.machine, preset),
        doubts=facts.doubts,
    )


def here(plan: Plan, usd_per_hour: float | None = None) -> Answer:
    """The answer for the machine that we are on, for a plan of one model; what the machine costs where the file says so."""
    (model,) = plan.models
    rows = tuple((one.subject, one.value, one.reason) for one in model.decisions)
    placed = next((one for one in model.replicas if isinstance(one, Placement)), None)
    if model.refused or placed is None:
        return Answer("short", "It cannot be served here", model.refused, rows=rows)
    free, taken = plan.memory_bytes or 0, placed.memory_bytes
    said = f"{show_bytes(taken)} of {show_bytes(free)} that are free now, beside what runs"
    one = sum_bar(model)
    bar = device(
        "This machine", f"{one.said if one else show_bytes(taken)} of {show_bytes(free)} free", parts(model, placed), free
    )
    figures = (*_local_figures(model, placed, free), *_local_cost(usd_per_hour))
    return Answer("fits", f"This machine, with {placed.engine}", f"{said}.", figures=figures, bar=bar, rows=rows)


def _local_figures(model: PlannedModel, placed: Placement, free: int) -> Iterator[Figure]:
    speed = next((one for one in model.decisions if one.subject == "speed"), None)
    if speed is not None:
        each, _, _ = speed.reason.partition("; ")
        rate = speed.value.removesuffix(" tokens/s")
        yield Figure("Throughput", rate, "tokens/s", f"{each}; low confidence")
    yield Figure("Memory", show_bytes(placed.memory_bytes), "", f"of {show_bytes(free)} free now")
    yield Figure("Context", f"{placed.context:,}", "tokens", f"{placed.slots} at once")
    if longest := _longest(model, placed, free):
        yield Figure("Longest context", f"{longest:,}", "tokens", "about, with as many at once")


def _local_cost(usd_per_hour: float | None) -> Iterator[Figure]:
    if usd_per_hour is not None:
        yield Figure("Cost", f"${usd_per_hour:,.2f}", "an hour", "the whole machine, as the file says")


def _longest(model: PlannedModel, placed: Placement, free: int) -> int:
    """The most tokens a request may take in what is free, all else as it is; 0 where nothing grows with them."""
    facts, kind = model.facts, str(placed.options.get("cache_type", "f16"))
    if facts is None or not facts.cache_bytes_per_token or kind not in CACHE_FACTORS:
        return 0
    room = free - placed.memory_bytes + cache_bytes(facts, placed.context, placed.slots, kind)
    low, high = 0, facts.context or 2**20
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cache_bytes(facts, middle, placed.slots, kind) <= room else (low, middle - 1)
    return low


def _figures(offer: Offer) -> Iterator[Figure]:
    rate, token, first = offer.speed.tokens_per_second, offer.speed.tpot_seconds, offer.ttft.ttft
    yield Figure(
        "Throughput",
        f"{rate.expected:,.0f}",
        "tokens/s",
        f"{rate.low:,.0f} to {rate.high:,.0f}, {offer.speed.confidence} confidence",
    )
    if not offer.embeds:
        each = f"{token.low * 1000:.1f} to {token.high * 1000:.1f} ms"
        yield Figure("Per token", f"{token.expected * 1000:.1f}", "ms", each)
    name = "To the embedding" if offer.embeds else "First token"
    yield Figure(name, show_duration(first.p50), "", f"{show_duration(first.p90)} for nine of ten")
    if offer.memory.longest_context:
        yield Figure("Longest context", f"{offer.memory.longest_context:,}", "tokens", f"planned for {offer.memory.context:,}")
    yield _cost(offer)


def _cost(offer: Offer) -> Figure:
    if offer.usd_per_hour is None or offer.usd_per_million_tokens is None:
        return Figure("Cost", _UNKNOWN, "", "no price known")
    million = offer.usd_per_million_tokens
    return Figure(
        "Cost", f"${offer.usd_per_hour:,.2f}", "an hour", f"${million:.{2 if million >= 0.1 else 4}f} per million tokens"
    )


def _short(memory: VllmMemory | None) -> tuple[Figure, ...]:
    if memory is None:
        return ()
    longest = f"{memory.longest_context:,}" if memory.longest_context else "none"
    return (
        Figure("Missing", show_bytes(memory.shortfall_bytes), "", f"for one request of {memory.context:,}"),
        Figure("Longest context", longest, "tokens" if memory.longest_context else "", "that fits for sure"),
    )


def _gpu_bar(memory: VllmMemory, title: str) -> Bar:
    """One GPU. Where it does not fit: the parts with the cache of one request, beyond the device's end."""
    terms = {term.name: term.bytes for term in memory.terms}
    weights = terms.pop("weights", 0)
    if memory.fits:
        cache, said = (max(0, memory.cache_bytes) if memory.request_bytes else 0), str(memory)
    else:
        cache, said = memory.request_bytes, f"One request of {memory.context:,} tokens, and all else that has to be there"
    kept_free = memory.gpu_bytes - memory.budget_bytes
    taken = {"weights": weights, "cache": cache, **terms} | ({} if memory.fits else {"reserve": kept_free})
    return device(title, said, taken, memory.gpu_bytes)


def _rows(offer: Offer) -> Iterator[tuple[str, str, str]]:
    memory, speed, price = offer.memory, offer.speed, offer.machine.rent
    for decision in offer.decisions:
        yield decision.subject, decision.value, decision.reason
    yield "engine", f"vLLM {offer.version}", offer_text.copies(offer)
    yield "format", offer.quantization.name, offer.quantization.quality or "as the weights are"
    yield "cache", f"{memory.requests:,} at once", f"{memory.cache_tokens:,} tokens: as many requests of {memory.context:,}"
    yield "memory", f"{memory.confidence} confidence", memory.why
    yield "speed", f"{speed.confidence} confidence", f"bound by {speed.limit}; {speed.reason}"
    if price is not None:
        yield "price", f"${price.usd_per_hour:g} an hour", price.said
    yield "flags", "", " ".join(offer_text.flags(offer))


def _machine(offer: Offer) -> tuple[str, str, str, str, str]:
    rate, token = _numbers(offer)
    cost = _UNKNOWN if offer.usd_per_hour is None else f"${offer.usd_per_hour:,.2f}/h"
    return offer_text.where(offer), rate, token, cost, "; ".join(offer.problems) or "meets it"


def _other(offer: Offer) -> tuple[str, str, str, str, str]:
    rate, token = _numbers(offer)
    lost = f"meets it, at a loss of quality ({offer.quantization.quality})" if offer.quantization.quality else "meets it"
    return offer_text.copies(offer), offer.quantization.name, rate, token, "; ".join(offer.problems) or lost


def _numbers(offer: Offer) -> tuple[str, str]:
    token = _UNKNOWN if offer.embeds else f"{offer.speed.tpot_seconds.expected * 1000:.1f} ms"
    return f"{offer.speed.tokens_per_second.expected:,.0f}", token


def _where(considered: Considered, way: str, machines: int) -> str:
    sku = considered.machine.sku
    return sku.name if machines > 1 and sku else way


def _engines(facts: ModelFacts, machine: Machine, preset: str | None) -> tuple[tuple[str, str], ...]:
    return tuple((one.value, one.reason) for one in rivals.engine(facts, machine, preset))
