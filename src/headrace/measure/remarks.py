"""What a reader has to know before believing the numbers of a stage, in sentences."""

from collections.abc import Iterator, Sequence
from statistics import median

from headrace.measure.base import Load, Outcome, Slice
from headrace.units import show_duration

FEW, FEW_FOR_P99 = 30, 100
_GROWTH = 1.5
_DRIFT = 1.25
_BUSY = 0.8
_LATE_SHARE = 0.01
_EARLY_SHARE = 0.1
_CACHED_SHARE = 0.1
_MOST_TOKENS_PER_EVENT = 4.0
"""More come of speculative decoding, of a buffer on the way, or of a count that is wrong: worth a look in any case."""
_EVENTS_PER_TOKEN = 1.1
_PIECES = 10


def remarks(
    load: Load, measured: Sequence[Outcome], slices: Sequence[Slice], late: int, late_most: float, cpu: float
) -> Iterator[str]:
    """Every reason for doubt, the gravest first."""
    good = [one for one in measured if one.kind == "ok"]
    if not measured:
        why = "sent in the measured time: answers take longer than all of it"
        yield f"No request was {why if load.kind == 'closed' else 'due in the measured time'}. Take a longer --duration."
        return
    yield from _client(len(measured), late, late_most, cpu)
    if found := growth(load, good, slices) or (_drift(slices) if load.kind == "closed" else ""):
        yield found
    yield from _counts(good)
    yield from _shape(good)
    yield from _lengths(good)
    yield from _numbers(len(measured))


def growth(load: Load, good: Sequence[Outcome], slices: Sequence[Slice]) -> str:
    """Says that the server did not keep pace with a load that does not wait for it; empty when it did."""
    firsts = [one.ttft for one in good if one.ttft is not None]
    third, quarter = len(firsts) // 3, max(1, len(slices) // 4)
    if load.kind == "closed" or third < 3:
        return ""
    early, end = median(firsts[:third]), median(firsts[-third:])
    before, after = (sum(one.in_flight for one in part) / quarter for part in (slices[:quarter], slices[-quarter:]))
    if end < _GROWTH * early or after < _GROWTH * before + 1:
        return ""
    return (
        f"The queue grew all the time: TTFT from {show_duration(early)} to {show_duration(end)}, in flight from {before:.0f} to "
        f"{after:.0f}. The server does not keep pace with this load, and a longer run would show worse."
    )


def _drift(slices: Sequence[Slice]) -> str:
    half = len(slices) // 2
    before, after = (sum(one.tokens for one in part) / max(1, half) for part in (slices[:half], slices[-half:]))
    if not before or not after or 1 / _DRIFT < after / before < _DRIFT:
        return ""
    return (
        f"Not steady: {before:.4g} tokens/s in the first half, {after:.4g} in the second. A longer --warmup or --duration tells."
    )


def _client(count: int, late: int, late_most: float, cpu: float) -> Iterator[str]:
    if cpu > _BUSY:
        yield f"This client took {100 * cpu:.0f} % of a core: its own slowness is in these numbers."
    if late > _LATE_SHARE * max(1, count):
        yield (
            f"{late} of {count} requests were sent late, up to {show_duration(late_most)}: this client or machine could not keep "
            "the schedule. Latencies count from the intended time all the same."
        )


def _counts(good: Sequence[Outcome]) -> Iterator[str]:
    """What usage says beside what came."""
    told = [one for one in good if one.output_tokens is not None]
    if good and len(told) < len(good):
        yield f"{len(good) - len(told)} of {len(good)} answers came without usage: events with content are counted as tokens."
    tokens, events = sum(one.tokens for one in told), sum(len(one.stamps) for one in told if one.streamed)
    beyond = sum(one.tokens > one.asked for one in told)
    if beyond:
        yield f"Usage cannot be right: {beyond} answers have more tokens by it than max_tokens allowed. Do not trust tokens/s."
    elif events > _EVENTS_PER_TOKEN * tokens + len(told):
        yield f"Usage cannot be right: {tokens} tokens by it, but {events} events with content came. Do not trust tokens/s."
    elif events and tokens > _MOST_TOKENS_PER_EVENT * events:
        yield (
            f"{tokens / events:.1f} tokens in each event by usage ({tokens} in {events}): speculative decoding, a buffer on the "
            "way, or a wrong count."
        )
    unended = sum(one.streamed and not one.done for one in good)
    if unended:
        yield f"{unended} streams had a finish reason and no [DONE]."


def _shape(good: Sequence[Outcome]) -> Iterator[str]:
    whole = sum(not one.streamed for one in good)
    if whole:
        yield f"{whole} of {len(good)} answers were not streamed: they have no TTFT and no TPOT."
    at_once = sum(len(one.stamps) >= _PIECES and len(set(one.stamps)) <= 2 for one in good)
    if at_once > len(good) / 2:
        yield "Most streams came in one or two pieces: something on the way buffers them. TTFT and ITL are the buffer's."


def _lengths(good: Sequence[Outcome]) -> Iterator[str]:
    early = [one for one in good if one.tokens < one.asked and one.finish != "length"]
    if len(early) > _EARLY_SHARE * len(good):
        mean, asked = (sum(getattr(one, name) for one in good) / len(good) for name in ("tokens", "asked"))
        yield f"{len(early)} of {len(good)} answers ended before their limit: {mean:.0f} tokens on average of {asked:.0f} asked."
    prompts, cached = sum(one.prompt_tokens or 0 for one in good), sum(one.cached_tokens for one in good)
    if prompts and cached > _CACHED_SHARE * prompts:
        yield f"{100 * cached / prompts:.0f} % of the prompts came out of the server's prefix cache, it says: TTFT flatters."


def _numbers(count: int) -> Iterator[str]:
    if count < FEW:
        many = "requests were" if count > 1 else "request was"
        yield f"Only {count} {many} measured: take a longer --duration before comparing anything."
    elif count < FEW_FOR_P99:
        yield f"p99 of {count} requests is their slowest one or two."
