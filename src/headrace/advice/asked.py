"""Signals of what is asked: cold starts, context that nobody uses, prompts that begin alike."""

from bisect import bisect_right
from collections.abc import Sequence

from headrace.advice.base import (
    LEAST_SLICES,
    Observed,
    Request,
    Sample,
    Signal,
    by_requests,
    counted,
    percent,
    ranked,
    slices,
    steadied,
)
from headrace.advice.commands import in_force, planned, shorter
from headrace.units import show_duration

LEAST_OF_ALL = 100
"""Requests in the window that a verdict on lengths takes."""
_WAITED = 0.5
"""Seconds from which a request waited for a start rather than for a slot."""
_RESERVES = ("llamacpp",)
"""Engines that set the whole context of every slot aside."""
_PAGES = ("openvino", "sglang", "tgi", "vllm")
"""Those that page their cache: tokens nobody asks for cost nothing."""


def cold(seen: Observed) -> Signal:
    """Of a model that may sleep: the requests that waited for a start."""
    name = "cold starts dominate"
    if not seen.sleeps:
        return Signal(name, "holds not", "it never sleeps", 1.0)
    looks = sorted((one for one in seen.samples if one.ready is not None), key=lambda one: one.at)

    def share(requests: Sequence[Request]) -> float:
        woke = [one for one in requests if one.waited > _WAITED and _asleep(looks, one.at)]
        return counted(woke) / counted(requests)

    holds, sure = steadied(by_requests(seen, share, 1), 0.2, 0.1)
    waits = [(one.waited, one.count) for one in seen.requests if one.waited > _WAITED]
    middle = show_duration(ranked(waits, 0.5)) if waits else "0s"
    told = percent(share(seen.requests) if seen.requests else None)
    numbers = f"{told} of {counted(seen.requests):.0f} requests woke it, waiting {middle} in the middle"
    kept = f"1..{seen.most}" if (seen.most or 1) > 1 else "1"
    change = f"write replicas: {kept}, or a longer scale.idle, into the file"
    if seen.swaps:
        change = (
            f"write replicas: {kept} and no share: swap into the file, where memory has room for it beside the others; "
            "else fewer bits or shorter contexts, so that those that take turns fit at once"
        )
    gain = f"{middle} less for those; the memory of one replica is then always taken" if holds == "holds" else ""
    return Signal(name, holds, numbers, sure, change, gain, in_force(seen))


def context(seen: Observed) -> Signal:
    """Whether requests leave most of the context unused that is set aside for each."""
    name = "context wasted"
    if seen.engine in _PAGES:
        return Signal(name, "holds not", f"{seen.engine} pages its cache: context that nobody uses takes no memory", 1.0)
    if seen.engine and seen.engine not in _RESERVES:
        return Signal(name, "holds not", f"{seen.engine} sets no context aside", 1.0)
    known = [one for one in seen.requests if one.tokens_in]
    if seen.context is None or counted(known) < LEAST_OF_ALL:
        return Signal(name, "unknown", f"not enough data: {counted(known):.0f} of {LEAST_OF_ALL} requests with known lengths")
    whole = seen.context

    def unused(requests: Sequence[Request]) -> float:
        return 1 - _longest(requests) / whole

    holds, sure = steadied(by_requests(seen, unused), 0.75, 0.6)
    p99 = _longest(known)
    fit = max(256, 1 << (2 * max(1, p99) - 1).bit_length())
    numbers = f"99 of 100 requests have at most {p99} tokens, prompt and answer; each slot has {whole}"
    if fit >= whole:
        return Signal(name, "holds not", numbers, sure)
    gain = f"{whole / fit:.1f} times the slots in the same cache; requests of more than {fit} tokens are then refused"
    change, command = shorter(seen, fit)
    return Signal(name, holds, numbers, sure, change, gain, command)


def prefixes(seen: Observed) -> Signal:
    """Whether prompts begin alike, and engines compute them again all the same."""
    name = "prefix reuse unexploited"
    lost = [sum(one.repeated - one.cached for one in rows) / len(rows) if rows else None for rows in slices(seen.prefixes, seen)]
    if sum(one is not None for one in lost) < LEAST_SLICES:
        why = "not enough data: it takes the gateway's count of prompts that begin alike and the engine's of cached tokens"
        return Signal(name, "unknown", why + (", through --prometheus" if seen.here else ""))
    holds, sure = steadied(lost, 0.3, 0.15)
    repeated = sum(one.repeated for one in seen.prefixes) / len(seen.prefixes)
    cached = sum(one.cached for one in seen.prefixes) / len(seen.prefixes)
    numbers = f"{percent(repeated)} of the prompts' text was sent before, {percent(cached)} was found in a cache"
    change = "switch the engine's prefix caching on (vLLM: --enable-prefix-caching), or give its cache more memory"
    gain = f"up to {percent(max(0.0, repeated - cached))} of the prompt tokens need not be computed: so much less prefill"
    return Signal(name, holds, numbers, sure, change, gain, planned(seen, "--explain"))


def _longest(requests: Sequence[Request]) -> int:
    """Tokens of prompt and answer that 99 of 100 do not exceed."""
    return round(ranked([((one.tokens_in or 0) + (one.tokens_out or 0), one.count) for one in requests], 0.99))


def _asleep(looks: Sequence[Sample], at: float) -> bool:
    place = bisect_right(looks, at, key=lambda one: one.at)
    return place > 0 and looks[place - 1].ready == 0
