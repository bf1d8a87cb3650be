"""Plots as inline SVG, small enough for a phone: lines and points with two axes. Colours come from the page's style sheet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Literal

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 22, 10, 36
COLOURS = 8
"""Classes c0 to c7; more series begin again."""
_MOST_POINTS = 600

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One load's line or points, with its name."""

    name: str
    points: Sequence[Point]
    colour: int


@dataclass(frozen=True, slots=True)
class Axis:
    """What stands along an axis, and how its values are written. `limit` is drawn across, where there is one."""

    title: str
    show: Callable[[float], str]
    log: bool = False
    limit: float | None = None


def plot(title: str, series: Sequence[Series], x: Axis, y: Axis, mark: Literal["line", "points"] = "line") -> str:
    """The SVG; empty when there is nothing to draw."""
    shown = [Series(one.name, _thinned(_drawable(one.points, x, y)), one.colour) for one in series]
    points = [point for one in shown for point in one.points]
    if not points:
        return ""
    xs, ys = (
        _Scale([px for px, _ in points], x, _LEFT, _WIDTH - _RIGHT),
        _Scale([py for _, py in points], y, _HEIGHT - _BOTTOM, _TOP),
    )
    parts = [*_grid(xs, x, vertical=True), *_grid(ys, y, vertical=False)]
    parts += [_limit(xs.at(x.limit), vertical=True)] if x.limit and xs.has(x.limit) else []
    parts += [_limit(ys.at(y.limit), vertical=False)] if y.limit and ys.has(y.limit) else []
    parts += [_drawn(one, xs, ys, mark) for one in shown]
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x.title)}</text>')
    label = escape(f"{title}: {y.title} by {x.title}, for {', '.join(one.name for one in shown)}", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


class _Scale:
    def __init__(self, values: Sequence[float], axis: Axis, start: float, end: float) -> None:
        self._log = axis.log
        seen = [*values, axis.limit] if axis.limit else list(values)
        if axis.log:
            self.ticks = _decades(min(seen), max(seen))
        else:
            self.ticks = _round_ticks(min(0.0, *seen) if len(seen) > 1 else 0.0, max(seen))
        self._low, self._high = self._of(self.ticks[0]), self._of(self.ticks[-1])
        self._start, self._span = start, end - start

    def at(self, value: float) -> float:
        return self._start + self._span * (self._of(value) - self._low) / max(1e-12, self._high - self._low)

    def has(self, value: float) -> bool:
        return self._low <= self._of(value) <= self._high

    def _of(self, value: float) -> float:
        return log10(value) if self._log else value


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5 of each decade that the values lie in, finer within one; no more than seven of them."""
    steps = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)
    all_ticks = [m * 10.0**e for e in range(floor(log10(low)) - 1, ceil(log10(high)) + 2) for m in steps]
    first = max(place for place, tick in enumerate(all_ticks) if tick <= low * (1 + 1e-9))
    last = min(place for place, tick in enumerate(all_ticks) if tick >= high * (1 - 1e-9))
    last = max(last, first + 1)
    step = ceil((last - first) / 6)
    return [all_ticks[min(place, len(all_ticks) - 1)] for place in range(first, last + step, step)]


def _round_ticks(low: float, high: float) -> list[float]:
    raw = max(high - low, 1e-9) / 4
    size = 10.0 ** floor(log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * (1 - 1e-9))
    first, last = floor(low / step + 1e-9), max(ceil(high / step - 1e-9), floor(low / step + 1e-9) + 1)
    return [place * step for place in range(first, last + 1)]


def _grid(scale: _Scale, axis: Axis, *, vertical: bool) -> list[str]:
    parts = []
    for tick in scale.ticks:
        at, text = scale.at(tick), escape(axis.show(tick))
        if vertical:
            parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
            parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{text}</text>')
        else:
            parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
    return parts


def _limit(at: float, *, vertical: bool) -> str:
    line = f"M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" if vertical else f"M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"
    return f'<path class="limit" d="{line}"><title>the limit asked for</title></path>'


def _drawn(one: Series, xs: _Scale, ys: _Scale, mark: str) -> str:
    name, colour = f"<title>{escape(one.name)}</title>", f"c{one.colour % COLOURS}"
    placed = [(xs.at(px), ys.at(py)) for px, py in one.points]
    if mark == "line" and len(placed) > 1:
        return f'<path class="line {colour}" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in placed)}">{name}</path>'
    dots = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in placed)  # round caps make dots of them
    return f'<path class="dots {colour}" d="{dots}">{name}</path>'


def _drawable(points: Sequence[Point], x: Axis, y: Axis) -> list[Point]:
    return [(px, py) for px, py in points if (px > 0 or not x.log) and (py > 0 or not y.log)]


def _thinned(points: list[Point]) -> list[Point]:
    step = -(-len(points) // _MOST_POINTS) or 1
    return points[::step]
