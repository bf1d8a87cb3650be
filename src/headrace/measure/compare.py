"""Two reports side by side: ratios with intervals, and whether a difference is more than noise."""

from collections.abc import Callable, Iterator

from headrace.columns import aligned
from headrace.errors import UsageError
from headrace.measure.base import Report, Stage
from headrace.measure.statistics import Estimate, ratio
from headrace.measure.text import number, seconds

_Get = Callable[[Stage], Estimate | None]
_HEAD = ("LOAD", "", "BEFORE", "AFTER", "RATIO", "95 % interval", "")


def _of(spread: str, name: str) -> _Get:
    def get(stage: Stage) -> Estimate | None:
        found = getattr(stage, spread)
        return None if found is None else getattr(found, name)

    return get


_MEASURES: tuple[tuple[str, _Get, Callable[[float], str], bool], ...] = (
    ("TTFT p50", _of("ttft", "p50"), seconds, False),
    ("TTFT p99", _of("ttft", "p99"), seconds, False),
    ("TPOT p50", _of("tpot", "p50"), seconds, False),
    ("TPOT p99", _of("tpot", "p99"), seconds, False),
    ("ITL p99", _of("itl", "p99"), seconds, False),
    ("E2E p50", _of("e2e", "p50"), seconds, False),
    ("output tok/s", lambda stage: stage.output_rate, number, True),
    ("requests/s", lambda stage: stage.request_rate, number, True),
)
"""Name, value, how it is shown, and whether more is better."""


def compared(before: Report, after: Report) -> str:
    """A table: after ÷ before for each load that both have. Raises UsageError when they share none."""
    old = {stage.label: stage for stage in before.stages}
    pairs = [(old[stage.label], stage) for stage in after.stages if stage.label in old]
    if not pairs:
        raise UsageError("The two reports have no load in common.", f"The first has {', '.join(old) or 'none'}.")
    rows = [_HEAD] + [row for one, other in pairs for row in _rows(one, other)]
    return "\n".join([*_differences(before, after), *aligned(rows), "", _CAVEAT])


_CAVEAT = (
    "Intervals cover the noise within each run, not what changed on the machine between them: measure both by turns, more than "
    "once, before believing less than 5 %."
)


def _rows(before: Stage, after: Stage) -> Iterator[tuple[str, ...]]:
    for name, get, show, more in _MEASURES:
        one, other = get(before), get(after)
        if one is None or other is None:
            continue
        found = ratio(other, one)
        if found is not None:
            words = (f"{found.value:.3f}", f"{found.low:.3f}–{found.high:.3f}", verdict(found, more_is_better=more))
            yield (after.label, name, show(one.value), show(other.value), *words)
    failed = [sum(stage.errors.values()) for stage in (before, after)]
    if any(failed):
        yield (after.label, "failed", f"{failed[0]} of {before.requests}", f"{failed[1]} of {after.requests}", "", "", "")


def verdict(found: Estimate, *, more_is_better: bool) -> str:
    """`better`, `worse`, or `within noise` where the interval has 1 in it."""
    if found.low <= 1 <= found.high:
        return "within noise"
    return "better" if (found.value > 1) == more_is_better else "worse"


def _differences(before: Report, after: Report) -> Iterator[str]:
    yield f"Before: {before.model} at {before.url}, {before.when}. After: {after.model} at {after.url}, {after.when}."
    for name in sorted(before.settings.keys() | after.settings.keys()):
        one, other = before.settings.get(name, "nothing"), after.settings.get(name, "nothing")
        if one != other:
            yield f"They were not measured alike: {name}: {one.rstrip('.')} / {other.rstrip('.')}."
    yield ""
