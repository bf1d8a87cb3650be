"""What samples say, as one SVG: CPU of each gateway per request and per chunk, on a logarithmic scale."""

import math
from collections.abc import Sequence
from statistics import median
from xml.sax.saxutils import escape

from gateway_tools.load import PHASES, Sample

_COLOURS = ("#1f6feb", "#7fb2f5", "#2da44e", "#8250df", "#bf8700", "#cf7b3c", "#6e7781")
_LEFT, _WIDTH, _BAR, _GAP = 150, 520, 13, 14


def picture(samples: Sequence[Sample], targets: Sequence[str], note: str) -> str:
    """One group of bars a phase, one bar a gateway, its median in µs at its end."""
    found = {
        (phase, target): median(values)
        for phase in PHASES
        for target in targets
        if (values := [s.cpu for s in samples if (s.target, s.phase) == (target, phase) and s.cpu])
    }
    phases = [phase for phase in PHASES if any(each == phase for each, _ in found)]
    low, high = min(found.values()) / 1.5, max(found.values())
    parts, y = _legend(targets), 58
    for phase in phases:
        bars = [(target, found[phase, target]) for target in targets if (phase, target) in found]
        parts.append(_text(_LEFT - 8, y + len(bars) * _BAR / 2 + 4, f"{phase}, per {PHASES[phase].unit}", anchor="end"))
        for target, value in bars:
            width = _WIDTH * math.log(value / low) / math.log(high / low)
            colour = _COLOURS[targets.index(target) % len(_COLOURS)]
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{colour}"/>')
            parts.append(_text(_LEFT + width + 5, y + 10, f"{value:.1f}"))
            y += _BAR
        y += _GAP
    parts += [_text(10, y + 8 + 14 * number, line, small=True) for number, line in enumerate(_lines(note))]
    height = y + 20 + 14 * len(_lines(note))
    size = f'viewBox="0 0 {_LEFT + _WIDTH + 70} {height}" font-family="sans-serif" font-size="11"'
    title = _text(10, 18, "CPU of a gateway in µs (logarithmic): shorter is better")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n' + "\n".join([title, *parts]) + "\n</svg>\n"


def _legend(targets: Sequence[str]) -> list[str]:
    parts = []
    for number, target in enumerate(targets):
        x = 10 + number * 103
        parts.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        parts.append(_text(x + 14, 39, target))
    return parts


def _lines(note: str) -> list[str]:
    lines = [""]
    for word in note.split():
        if len(lines[-1]) + len(word) > 125:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _text(x: float, y: float, text: str, *, anchor: str = "start", small: bool = False) -> str:
    size = ' font-size="9"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#57606a" text-anchor="{anchor}"{size}>{escape(text)}</text>'
