"""A drill as one HTML page: requests over time by how they ended, how long each took, and what was done meanwhile."""

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil

from headrace.drill.base import ENDS, Asked, End, Event, Kind, Report
from headrace.measure.page import document

_WIDTH, _LEFT, _RIGHT = 960.0, 44.0, 12.0
_BARS, _DOTS, _TOP, _GAP, _BOTTOM = 170.0, 170.0, 26.0, 26.0, 24.0
_HEIGHT = _TOP + _BARS + _GAP + _DOTS + _BOTTOM
_BINS = 120
_COLOURS: dict[End, str] = {"whole": "c2", "told": "c1", "dropped": "c5"}
_WORDS: dict[End, str] = {"whole": "whole", "told": "ended in a clear error", "dropped": "dropped"}
_KINDS: dict[Kind, str] = {"kill": "c5", "scale": "c0", "roll": "c3", "swap": "c4", "reload": "c7", "graduate": "c6"}
_NEAR = 38.0
"""Marks nearer to each other than so many units share one label: its width."""


def html(report: Report) -> str:
    """The page, complete: nothing to fetch, no script."""
    return document(f"Drill of {report.model}", "\n".join(part for part in _body(report) if part))


def svg(report: Report) -> str:
    """The picture alone."""
    seconds = max(1.0, report.seconds, *(one.at + one.seconds for one in report.asked))
    parts = [
        *_axes(report, seconds),
        *_bars(report.asked, seconds),
        *_dots(report.asked, seconds),
        *_marks(report.events, seconds),
    ]
    label = escape(f"{report.line} Above: requests that ended, by time. Below: how long each took.", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _body(report: Report) -> Iterator[str]:
    yield f"<h1>Drill of {escape(report.model)}</h1>"
    bad = ' class="bad"' if report.ends["dropped"] else ""
    yield f"<p{bad}><strong>{escape(report.line)}</strong></p>"
    yield "".join(f"<p>{escape(said)}</p>" for said in report.remarks())
    if report.asked:
        yield f"<figure>{svg(report)}</figure>{_legend()}"
    if report.words:
        rows = "".join(f"<li>{count} × {escape(words)}</li>" for words, count in report.words.most_common())
        yield f"<h2>What did not end whole</h2><ul>{rows}</ul>"
    rows = "".join(f"<li>{one.at:.1f} s: {escape(one.said)}</li>" for one in report.events)
    yield f"<h2>What was done</h2><ol>{rows}</ol>"


def _legend() -> str:
    dot = '<svg viewBox="0 0 14 10" aria-hidden="true"><path class="dots {}" d="M7 5h0"/></svg>'
    bar = '<svg viewBox="0 0 14 10" aria-hidden="true"><path class="line {}" d="M7 0V10"/></svg>'
    items = [f"<li>{dot.format(_COLOURS[end])}{_WORDS[end]}</li>" for end in ENDS]
    items += [f"<li>{bar.format(colour)}{kind}</li>" for kind, colour in _KINDS.items()]
    return f'<ul class="legend">{"".join(items)}</ul><p class="soft">The numbers are those of the list below.</p>'


def _axes(report: Report, seconds: float) -> Iterator[str]:
    for at in _ticks(seconds):
        x = _x(at, seconds)
        yield f'<path class="grid" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM:.0f}"/>'
        yield f'<text x="{x:.1f}" y="{_HEIGHT - 8:.0f}" text-anchor="middle">{at:g} s</text>'
    most, longest = max(map(sum, _bins(report.asked, seconds))), max(one.seconds for one in report.asked)
    for top, height, value in ((_TOP, _BARS, f"{most}"), (_TOP + _BARS + _GAP, _DOTS, f"{longest:.1f} s")):
        yield f'<path class="grid" d="M{_LEFT} {top}H{_WIDTH - _RIGHT}M{_LEFT} {top + height}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 4}" y="{top + 9}" text-anchor="end">{value}</text>'
        yield f'<text x="{_LEFT - 4}" y="{top + height}" text-anchor="end">0</text>'


def _bars(asked: Sequence[Asked], seconds: float) -> Iterator[str]:
    """How many ended in each part of the time, those that did not end well on top."""
    bins = _bins(asked, seconds)
    most, width = max(map(sum, bins)), (_WIDTH - _LEFT - _RIGHT) / _BINS
    for place, counts in enumerate(bins):
        floor = _TOP + _BARS
        for end, count in zip(ENDS, counts, strict=True):
            if count:
                height = max(2.0 if end != "whole" else 0.0, _BARS * count / most)
                x = _LEFT + (place + 0.5) * width
                d, stroke = f"M{x:.1f} {floor:.1f}V{floor - height:.1f}", f'stroke-width="{width - 1:.1f}"'
                title = f"<title>{count} {_WORDS[end]}, {seconds * place / _BINS:.0f} s</title>"
                yield f'<path class="{_COLOURS[end]}" fill="none" {stroke} d="{d}">{title}</path>'
                floor -= height


def _dots(asked: Sequence[Asked], seconds: float) -> Iterator[str]:
    """Each request where it began, as high as it took long."""
    longest, floor = max(one.seconds for one in asked), _HEIGHT - _BOTTOM
    for end in ENDS:
        places = (
            f"M{_x(one.at, seconds):.1f} {floor - _DOTS * one.seconds / max(longest, 1e-9):.1f}h0"
            for one in asked
            if one.end == end
        )
        if d := "".join(places):
            yield f'<path class="dots {_COLOURS[end]}" d="{d}"><title>{_WORDS[end]}</title></path>'


def _marks(events: Sequence[Event], seconds: float) -> Iterator[str]:
    """A line for each event, with its number in the list; those close to each other share one label."""
    placed = [(_x(one.at, seconds), number, one) for number, one in enumerate(events, 1)]
    for x, number, one in placed:
        title = f"<title>{number}: {escape(one.said)}</title>"
        yield f'<path class="line {_KINDS[one.kind]}" d="M{x:.1f} {_TOP - 4}V{_HEIGHT - _BOTTOM:.0f}">{title}</path>'
    for near in _grouped(placed):
        first, last = near[0][1], near[-1][1]
        text = f"{first}" if first == last else f"{first}–{last}"
        yield f'<text x="{near[0][0]:.1f}" y="{_TOP - 10}" text-anchor="middle">{text}</text>'


def _grouped(placed: Sequence[tuple[float, int, Event]]) -> list[list[tuple[float, int, Event]]]:
    """Those that would write over each other, together."""
    groups: list[list[tuple[float, int, Event]]] = []
    for one in placed:
        if groups and one[0] - groups[-1][0][0] < _NEAR:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _bins(asked: Sequence[Asked], seconds: float) -> list[tuple[int, ...]]:
    found = [[0] * len(ENDS) for _ in range(_BINS)]
    for one in asked:
        place = min(_BINS - 1, int((one.at + one.seconds) / seconds * _BINS))
        found[place][ENDS.index(one.end)] += 1
    return [tuple(counts) for counts in found]


def _ticks(seconds: float) -> list[float]:
    step = next(size for size in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 86_400) if seconds / size <= 10)
    return [float(step * place) for place in range(ceil(seconds / step))]


def _x(at: float, seconds: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(1.0, at / seconds)
