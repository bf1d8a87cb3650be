"""Outcomes as a picture: replicas and waiting requests over time for each policy, one SVG that needs nothing else."""

from collections.abc import Callable, Sequence
from html import escape

from headrace.simulate.outcome import Outcome, Point
from headrace.units import show_duration

_WIDTH, _LEFT, _RIGHT = 920, 60, 20
_PANEL, _GAP, _TOP = 110, 46, 56
_COLOURS = ("#0b6e99", "#c4554d", "#4f9768", "#9a6dd7", "#c29343", "#787774")


def svg(title: str, outcomes: Sequence[Outcome]) -> str:
    """A panel for each outcome: replicas as steps, starting ones included, and what waits as an area behind."""
    seconds = max(outcome.seconds for outcome in outcomes)
    replicas = max(1, *(outcome.most for outcome in outcomes))
    waiting = max(1, *(point.waiting for outcome in outcomes for point in outcome.points))
    height = _TOP + len(outcomes) * (_PANEL + _GAP)
    panels = [
        _panel(outcome, _TOP + place * (_PANEL + _GAP), _COLOURS[place % len(_COLOURS)], seconds, replicas, waiting)
        for place, outcome in enumerate(outcomes)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n'
        f'<text x="{_LEFT}" y="22" font-size="14" fill="#222">{escape(title)}</text>\n' + "".join(panels) + "</svg>\n"
    )


def html(title: str, outcomes: Sequence[Outcome], text: str) -> str:
    """The picture and the table as one page."""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<body style="max-width:960px;margin:2em auto;font-family:sans-serif">\n{svg(title, outcomes)}'
        f"<pre>{escape(text)}</pre>\n</body></html>\n"
    )


def _panel(outcome: Outcome, top: float, colour: str, seconds: float, replicas: int, waiting: int) -> str:
    def x(at: float) -> float:
        return _LEFT + at / max(seconds, 1e-9) * (_WIDTH - _LEFT - _RIGHT)

    def y(share: float) -> float:
        return top + _PANEL * (1 - share)

    area = _area(outcome.points, x, lambda count: y(count / waiting), y(0))
    steps = _steps(outcome.points, x, lambda count: y(count / replicas))
    wait = show_duration(round(outcome.wait.p99, 3))
    label = f"{outcome.policy}: p99 wait {wait}, {outcome.gpu_hours:.2f} GPU-hours"
    return (
        f'<g><text x="{_LEFT}" y="{top - 6:.0f}" fill="#222">{escape(label)}</text>\n'
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(0):.1f}" y2="{y(0):.1f}" stroke="#bbb"/>\n'
        f'<path d="{area}" fill="#f3d9a4"/>\n<path d="{steps}" fill="none" stroke="{colour}" stroke-width="1.5"/>\n'
        f'<text x="{_LEFT - 6}" y="{y(1) + 10:.1f}" text-anchor="end" fill="{colour}">{replicas}</text>\n'
        f'<text x="{_LEFT - 6}" y="{y(1) + 26:.1f}" text-anchor="end" fill="#a07c2c">{waiting}</text>\n'
        f'<text x="{_LEFT}" y="{y(0) + 15:.1f}" fill="#777">0</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{y(0) + 15:.1f}" text-anchor="end" fill="#777">{show_duration(seconds)}; '
        f"line: replicas, area: waiting requests</text></g>\n"
    )


def _steps(points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    path, last = "", None
    for point in points:
        count = point.ready + point.starting
        if last is None:
            path = f"M{x(point.at):.1f} {y(count):.1f}"
        elif count != last:
            path += f"H{x(point.at):.1f}V{y(count):.1f}"
        last = count
    return path + (f"H{x(points[-1].at):.1f}" if points else "")


def _area(points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float], floor: float) -> str:
    if not points:
        return ""
    path = f"M{x(points[0].at):.1f} {floor:.1f}"
    path += "".join(f"L{x(point.at):.1f} {y(point.waiting):.1f}" for point in points)
    return path + f"L{x(points[-1].at):.1f} {floor:.1f}Z"
