"""A look → lines of a terminal, within its size; as text and as data."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from headrace.columns import aligned
from headrace.dashboard.rows import UNKNOWN, number, seconds
from headrace.top.base import CURVE_SECONDS, WAIT_SECONDS, Look, ModelLook
from headrace.units import show_bytes, show_duration

Style = Literal["", "bold", "dim", "good", "busy", "bad"]
Line = tuple[Style, str]
"""One line in one style; the text is plain."""

_CODES: Mapping[Style, str] = {"": "", "bold": "1", "dim": "2", "good": "32", "busy": "33", "bad": "1;31"}
_STATES: Mapping[str, Style] = {"ready": "", "loading": "busy", "failed": "bad", "asleep": "dim"}
_BARS = " ▁▂▃▄▅▆▇█"
_HEAD = ("MODEL", "STATE", "REPL", "RUN", "WAIT", "P50", "P99", "TTFT", "TPOT", "IN/s", "OUT/s", "MEM")
_WIDE = 112
"""Columns from which on the curve stands beside its model, not below it."""
_LEAST_NAME, _MOST_NAME, _CURVE = 6, 32, 24
_MOST_DECISIONS, _MOST_KEYS = 6, 6


def screen(look: Look, width: int, height: int, top: int = 0) -> list[Line]:
    """At most `height` lines of at most `width` columns: models from number `top` on, then decisions and keys as far as there is
    room.
    """
    head, foot = [_title(look), ("", "")], _foot()
    blocks = _models(look, width)
    room = _room(height)
    shown = _fitting(blocks[1:], room, top)
    lines = [*head, *blocks[0], *(line for block in shown for line in block)]
    if hidden := len(blocks) - 1 - len(shown):
        lines.append(("dim", f"{hidden} more model{'' if hidden == 1 else 's'}: up and down"))
    for part in (_decisions(look), _keys(look)):
        room = height - len(lines) - len(foot)
        if len(part) > 1 and room >= 3:
            lines += [("", ""), *part[: room - 1]]
    return [(style, clipped(text, width)) for style, text in [*lines[: height - len(foot)], *foot]]


def most_top(look: Look, width: int, height: int) -> int:
    """The largest `top` that still fills the screen: the smallest from which on the rest is shown."""
    blocks, room = _models(look, width)[1:], _room(height)
    last = max(0, len(blocks) - 1)
    return next((top for top in range(last) if len(_fitting(blocks, room, top)) == len(blocks) - top), last)


def painted(lines: Sequence[Line], *, colour: bool) -> list[str]:
    """The lines with the terminal's codes; without `colour` as they are."""
    return [f"\x1b[{_CODES[style]}m{text}\x1b[0m" if colour and _CODES[style] else text for style, text in lines]


def text(look: Look) -> str:
    """A look for a pipe or a log: everything, as wide as it has to be."""
    rows = [_HEAD, *(_cells(model) for model in look.models)]
    parts = [_summary(look), *aligned([tuple(printable(cell) for cell in row) for row in rows])]
    parts += [f"{model.name} is {model.state}: {model.reason}" for model in look.models if _told(model)]
    for part in (_decisions(look), _keys(look)):
        parts += ["", *(line for _, line in part)] if len(part) > 1 else []
    return "\n".join(printable(part) for part in parts)


def data(look: Look) -> dict[str, Any]:
    """A look for machines: names say units, `_rate` is tokens a second; the curve is for eyes."""
    models = []
    for model in look.models:
        one = asdict(model)
        del one["curve"]
        models.append({f"{key}_seconds" if key in ("wait_p50", "wait_p99", "ttft", "tpot") else key: one[key] for key in one})
    return {
        "at": round(look.at, 3),
        "url": look.url,
        "error": look.lost or None,
        "draining": look.draining,
        "models": models,
        "decisions": [{"ago_seconds": ago, "decision": said} for ago, said in look.decisions],
        "keys": None if look.keys is None else [dict(key) for key in look.keys],
    }


def _summary(look: Look) -> str:
    running, waiting = (sum(getattr(model, name) for model in look.models) for name in ("running", "waiting"))
    rates = [model.tokens_out_rate for model in look.models if model.tokens_out_rate is not None]
    rate = f", {number(sum(rates))} tokens/s out" if rates else ""
    return f"{look.url}: {running} running, {waiting} waiting{rate}" + (", draining" if look.draining else "")


def _title(look: Look) -> Line:
    if look.lost:
        return "bad", f"Lost for {show_duration(round(look.lost_seconds))}, trying on: {look.lost}"
    return "bold", f"headrace top  {_summary(look)}"


def _foot() -> list[Line]:
    curve = f"curves: tokens out a second, {show_duration(CURVE_SECONDS)}"
    waits = f"P50, P99: seconds waited, last {show_duration(WAIT_SECONDS)}"
    return [("dim", f"q quits  {waits}; {curve}")]


def _models(look: Look, width: int) -> list[list[Line]]:
    """The heading, then each model's lines."""
    rows = [_HEAD, *(tuple(printable(cell) for cell in _cells(model)) for model in look.models)]
    gap = "  " if width >= _WIDE else " "
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    beside = _CURVE + len(gap) if width >= _WIDE else 0
    spare = width - beside - sum(widths[1:]) - len(gap) * (len(widths) - 1)
    widths[0] = max(_LEAST_NAME, min(widths[0], spare, _MOST_NAME))
    made = [gap.join(_placed(row, widths)).rstrip() for row in rows]
    whole = sum(widths) + len(gap) * (len(widths) - 1)
    blocks: list[list[Line]] = [[("dim", made[0])]]
    for model, line in zip(look.models, made[1:], strict=True):
        style: Style = "dim" if look.lost else _STATES.get(model.state, "")
        if beside:
            below: list[Line] = [(style, f"  {_told(model)}")] if _told(model) else []
            blocks.append([(style, f"{line}{' ' * (whole - columns(line))}{gap}{sparkline(model.curve, _CURVE)}"), *below])
        else:
            told = _told(model) or sparkline(model.curve, min(width - 2, int(CURVE_SECONDS)))
            blocks.append([(style, line), (style if model.state != "ready" else "dim", f"  {told}")])
    return blocks


def _told(model: ModelLook) -> str:
    """In one line why a model is not ready; nothing of one that is."""
    return printable(model.reason.splitlines()[0]) if model.reason and model.state not in ("ready", "asleep") else ""


def _placed(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Names to the left, numbers to the right."""
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
        cut = clipped(cell, width)
        blank = " " * (width - columns(cut))
        yield cut + blank if place < 2 else blank + cut


def _cells(model: ModelLook) -> tuple[str, ...]:
    rates = (UNKNOWN if rate is None else number(rate) for rate in (model.tokens_in_rate, model.tokens_out_rate))
    times = (seconds(value).replace(" ", "") for value in (model.wait_p50, model.wait_p99, model.ttft, model.tpot))
    memory = UNKNOWN if model.memory_bytes is None else show_bytes(model.memory_bytes).replace(" ", "").removesuffix("iB")
    counts = (f"{model.replicas_ready}/{model.replicas}", f"{model.running}/{model.slots}", str(model.waiting))
    return (model.name, model.state, *counts, *times, *rates, memory)


def _room(height: int) -> int:
    """Lines for models, beside the title, a blank, the heading and the foot."""
    return height - 4


def _fitting(blocks: Sequence[list[Line]], room: int, top: int) -> list[list[Line]]:
    """As many blocks from `top` on as there is room for, a line kept for what is not shown."""
    if sum(map(len, blocks)) <= room:
        return list(blocks)
    shown: list[list[Line]] = []
    for block in blocks[top:]:
        if sum(map(len, shown)) + len(block) > room - 1:
            break
        shown.append(block)
    return shown


def _decisions(look: Look) -> list[Line]:
    last = look.decisions[-_MOST_DECISIONS:][::-1]
    return [("dim", "DECISIONS"), *(("", printable(f"{show_duration(round(ago)):>6} ago  {said}")) for ago, said in last)]


def _keys(look: Look) -> list[Line]:
    used = sorted(look.keys or (), key=lambda key: (-key["running"], -key["tokens_out"]))[:_MOST_KEYS]
    rows = [("KEY", "NOW", "REQUESTS", "TOKENS IN", "TOKENS OUT", "REFUSED")]
    for key in used:
        counts = (str(key[name]) for name in ("running", "requests", "tokens_in", "tokens_out"))
        rows.append((printable(key["name"]), *counts, str(sum(key["refused"].values()))))  # type: ignore[arg-type]
    lines = aligned(rows)
    return [("dim", lines[0]), *(("", line) for line in lines[1:])]


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as bars, the newest at the right, CURVE_SECONDS in `width` columns; the tallest is the most of them."""
    step = max(1, round(CURVE_SECONDS / width))
    recent = list(values)[-step * width :]
    pieces = [recent[max(0, end - step) : end] for end in range(len(recent), 0, -step)][::-1]
    most = max(recent, default=0.0)
    tall = [max(piece) for piece in pieces]
    bars = "".join(_BARS[-(-int(value * 800 / most) // 100)] if most > 0 else _BARS[0] for value in tall)
    return bars.rjust(width)


def printable(said: str) -> str:
    """Without control characters: names and reasons come from elsewhere, and a terminal obeys what it is sent."""
    return "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") else letter for letter in said)


def columns(said: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(_width(letter) for letter in said)


def clipped(said: str, width: int) -> str:
    """The text within so many columns, an ellipsis where something is left out."""
    if columns(said) <= width:
        return said
    taken, kept = 0, ""
    for letter in said:
        taken += _width(letter)
        if taken > width - 1:
            break
        kept += letter
    return kept + "…" if width > 0 else ""


def _width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1
