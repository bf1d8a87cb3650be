"""A report as text: a table with a row for each load, and what has to be known to believe it."""

from collections.abc import Callable, Iterator, Sequence

from headrace.columns import aligned
from headrace.measure.base import Report, Slo, Stage
from headrace.measure.statistics import Estimate, Spread
from headrace.units import show_duration

_HEAD = ("LOAD", "OK", "FAILED", "TTFT p50", "", "p99", "TPOT p50", "", "p99", "ITL p99", "E2E p50", "OUTPUT tok/s", "", "REQ/s")
_NONE = "-"


def shown(report: Report) -> str:
    """All of it. In brackets are 95 % confidence intervals."""
    if not report.stages:
        return "Nothing was measured."
    slo = report.slo
    table = aligned([_HEAD + (("WITHIN LIMITS",) if slo else ()), *(_row(stage, slo) for stage in report.stages)])
    notes = dict.fromkeys(_notes(report))  # a rate that was tried three times says each thing once
    parts = ["\n".join(table), "\n".join(notes), report.found]
    parts.append("Interrupted: this is what was measured until then." if report.interrupted else "")
    return "\n\n".join(part for part in parts if part)


def limits(slo: Slo) -> str:
    """`95 % within TTFT 500ms, TPOT 50ms`."""
    each = [
        f"{name.upper()} {show_duration(value)}" for name in ("ttft", "tpot", "e2e") if (value := getattr(slo, name)) is not None
    ]
    return f"{100 * slo.share:g} % within {', '.join(each)}"


def seconds(value: float) -> str:
    """Three digits: `3.21ms`, `312ms`, `1.23s`."""
    if value < 0.0995:
        return f"{value * 1000:.3g}ms"
    return f"{value * 1000:.0f}ms" if value < 0.9995 else f"{value:.3g}s" if value < 999.5 else f"{value:.0f}s"


def number(value: float) -> str:
    """Three digits of a rate."""
    return f"{value:.3g}" if abs(value) < 99.95 else f"{value:,.0f}"


def _row(stage: Stage, slo: Slo | None) -> tuple[str, ...]:
    failed = sum(stage.errors.values())
    itl, e2e = (seconds(value) if value is not None else _NONE for value in (_at(stage.itl, "p99"), _at(stage.e2e, "p50")))
    rate = (number(stage.output_rate.value), _range(stage.output_rate, number), number(stage.request_rate.value))
    cells = (stage.label, str(stage.ok), str(failed), *_two(stage.ttft), *_two(stage.tpot), itl, e2e, *rate)
    return cells + ((_within(stage),) if slo else ())


def _two(spread: Spread | None) -> tuple[str, str, str]:
    if spread is None:
        return (_NONE, "", _NONE)
    return seconds(spread.p50.value), _range(spread.p50, seconds), seconds(spread.p99.value)


def _at(spread: Spread | None, name: str) -> float | None:
    return None if spread is None else float(getattr(spread, name).value)


def _range(one: Estimate, show: Callable[[float], str]) -> str:
    return f"({show(one.low)}–{show(one.high)})"


def _within(stage: Stage) -> str:
    if stage.goodput is None:
        return _NONE
    share = stage.goodput.share
    said = "yes" if stage.goodput.met else "no"
    return f"{said}: {100 * share.value:.0f} % ({100 * share.low:.0f}–{100 * share.high:.0f}), {number(stage.goodput.rate)}/s"


def _notes(report: Report) -> Iterator[str]:
    if report.slo:
        yield f"Limits: {limits(report.slo)}."
    for remark in report.remarks:
        yield remark
    for stage in report.stages:
        for kind, count in stage.errors.items():
            yield f"{stage.label}: {count} × {kind}: {stage.examples.get(kind, '')}"
        for remark in stage.remarks:
            yield f"{stage.label}: {remark}"
    yield _lengths(report.stages)
    yield f"This client took up to {100 * max(stage.cpu for stage in report.stages):.1f} % of a core."


def _lengths(stages: Sequence[Stage]) -> str:
    counted = sum(stage.ok for stage in stages)
    if not counted:
        return "Nothing was answered in the measured time."
    prompt, output = (sum(getattr(s, name) * s.ok for s in stages) / counted for name in ("prompt_tokens", "output_tokens"))
    told = any(stage.tokens is not None for stage in stages)
    source = "by the server's usage" if told else "by events with content: the server sends no usage"
    return f"Tokens of a request, {source}: {prompt:.0f} in, {output:.0f} out on average."
