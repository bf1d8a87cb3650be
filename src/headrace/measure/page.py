"""A report as one HTML page: tables and plots, no script, nothing to fetch; light and dark, on a phone as well."""

from collections.abc import Callable, Iterator, Sequence
from html import escape

from headrace.measure.base import Report, Stage
from headrace.measure.plots import COLOURS, Axis, Series, plot
from headrace.measure.statistics import Estimate, Spread
from headrace.measure.text import limits, number, seconds

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_LIGHT = ("#0b6e99", "#b5480f", "#2f7d4f", "#7a4fc0", "#9a6b00", "#b3316b", "#4b5d6b", "#5f7a00")
_DARK = ("#5fb8e0", "#f0955a", "#6fc490", "#b598f0", "#e0b050", "#ee7fae", "#a5b5c2", "#b4cf5a")
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5a646d;--line:#d9dee3;--back:#fff;--card:#f6f8fa;--bad:#a3261c;%s}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecef;--soft:#a2adb6;--line:#39424a;--back:#14181c;--card:#1c2227;--bad:#ff9a8f;%s}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1200px;padding:16px;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back)}
h1{font-size:1.35rem;margin:.2em 0}h2{font-size:1.05rem;margin:1.6em 0 .4em}h3{font-size:.95rem;margin:0 0 .3em}
p{margin:.3em 0}.soft{color:var(--soft)}.bad{color:var(--bad)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%%}
th,td{padding:5px 12px 5px 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}th{font-weight:600}td small{display:block;color:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%%,340px),1fr));gap:16px}
figure{margin:0;padding:12px;background:var(--card);border-radius:8px}svg{display:block;width:100%%;height:auto}
svg text{font:10.5px system-ui,sans-serif;fill:var(--soft)}.grid{stroke:var(--line);stroke-width:1;fill:none}
.limit{stroke:var(--bad);stroke-width:1.2;stroke-dasharray:4 3;fill:none}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.dots{fill:none;stroke-width:4;stroke-linecap:round;stroke-opacity:.65}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;margin:.3em 0 .8em;padding:0;list-style:none}
.legend svg{width:14px;height:10px;display:inline-block;margin-right:6px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:.3em 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
li{margin:.15em 0}
"""


def html(report: Report) -> str:
    """The page, complete."""
    return document(f"{report.model}, measured {report.when[:10]}", "\n".join(part for part in _body(report) if part))


def document(title: str, body: str) -> str:
    """A page with our style around `body`, which is HTML."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title><style>{_style()}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _style() -> str:
    palettes = ("".join(f"--c{place}:{colour};" for place, colour in enumerate(each)) for each in (_LIGHT, _DARK))
    return _STYLE % tuple(palettes) + "".join(f".c{place}{{stroke:var(--c{place})}}" for place in range(COLOURS))


def _body(report: Report) -> Iterator[str]:
    yield f"<h1>{escape(report.model)}</h1>"
    yield f'<p class="soft">{escape(report.url)}, {escape(report.when)}, headrace {escape(report.version)}</p>'
    if report.interrupted:
        yield '<p class="bad">Interrupted: this is what was measured until then.</p>'
    if report.found:
        yield f"<p><strong>{escape(report.found)}</strong></p>"
    if not report.stages:
        yield "<p>Nothing was measured.</p>"
        return
    yield _table(report)
    yield f"<h2>Plots</h2>{_legend(report.stages)}"
    yield f'<div class="plots">{"".join(_figures(report))}</div>'
    yield from _list("What to know before believing it", _remarks(report))
    yield "<h2>How it was measured</h2>" + _settings(report)


def _table(report: Report) -> str:
    heads = [
        "Load",
        "Answered",
        "Failed",
        "TTFT p50",
        "TTFT p99",
        "TPOT p50",
        "TPOT p99",
        "ITL p99",
        "E2E p50",
        "Output tok/s",
        "Req/s",
    ]
    heads += ["Within limits"] if report.slo else []
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    rows = "".join(f"<tr>{_cells(stage, with_slo=report.slo is not None)}</tr>" for stage in report.stages)
    asked = f" Limits asked for: {limits(report.slo)}." if report.slo else ""
    return (
        f'<h2>Numbers</h2><div class="wide" tabindex="0" role="region" aria-label="Numbers"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="soft">Small: 95 % confidence intervals. Failed requests are in no '
        f"latency.{escape(asked)}</p>"
    )


def _cells(stage: Stage, *, with_slo: bool) -> str:
    failed = sum(stage.errors.values())
    cells = [str(stage.ok), f'<span class="bad">{failed}</span>' if failed else "0"]
    cells += [_spread(stage.ttft, "p50"), _spread(stage.ttft, "p99"), _spread(stage.tpot, "p50"), _spread(stage.tpot, "p99")]
    cells += [_spread(stage.itl, "p99"), _spread(stage.e2e, "p50"), _with_range(stage.output_rate, number)]
    cells.append(_with_range(stage.request_rate, number))
    if with_slo and stage.goodput:
        share = stage.goodput.share
        cells.append(f"{100 * share.value:.0f} %<small>{100 * share.low:.0f}–{100 * share.high:.0f}</small>")
    return f'<th scope="row">{escape(stage.label)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)


def _spread(spread: Spread | None, name: str) -> str:
    return "–" if spread is None else _with_range(getattr(spread, name), seconds)


def _with_range(one: Estimate, show: Callable[[float], str]) -> str:
    return f"{show(one.value)}<small>{show(one.low)}–{show(one.high)}</small>"


def _legend(stages: Sequence[Stage]) -> str:
    dash = '<svg viewBox="0 0 14 10" aria-hidden="true"><path class="line c{}" d="M0 5H14"/></svg>'
    items = (f"<li>{dash.format(place % COLOURS)}{escape(stage.label)}</li>" for place, stage in enumerate(stages))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _figures(report: Report) -> Iterator[str]:
    slo, stages = report.slo, report.stages
    ttft, tpot = (slo.ttft, slo.tpot) if slo else (None, None)
    share = Axis("share of requests", lambda value: f"{value:.0f} %")
    yield _figure("Time to first token, cumulative", _curves(stages, "ttft"), Axis("TTFT", seconds, log=True, limit=ttft), share)
    yield _figure(
        "Time per output token, cumulative", _curves(stages, "tpot"), Axis("TPOT", seconds, log=True, limit=tpot), share
    )
    pauses = Axis("share of pauses", share.show)
    yield _figure("Pauses between tokens, cumulative", _curves(stages, "itl"), Axis("ITL", seconds, log=True), pauses)
    time = Axis("seconds into the load", lambda value: f"{value:g}")
    firsts = [Series(stage.label, _firsts(stage), place) for place, stage in enumerate(stages)]
    yield _figure("Time to first token over time", firsts, time, Axis("TTFT", seconds, log=True, limit=ttft), "points")
    yield _figure("Output tokens per second over time", _slices(stages, "tokens"), time, Axis("tokens/s", number))
    yield _figure("Requests in flight over time", _slices(stages, "in_flight"), time, Axis("requests", number))
    if len(stages) > 1:
        each = [Series(s.label, [(s.output_rate.value, s.ttft.p50.value)], place) for place, s in enumerate(stages) if s.ttft]
        yield _figure(
            "Speed against waiting", each, Axis("output tokens/s", number), Axis("TTFT p50", seconds, log=True), "points"
        )


def _figure(title: str, series: Sequence[Series], x: Axis, y: Axis, mark: str = "line") -> str:
    picture = plot(title, series, x, y, "points" if mark == "points" else "line")
    return f"<figure><h3>{escape(title)}</h3>{picture}</figure>" if picture else ""


def _curves(stages: Sequence[Stage], name: str) -> list[Series]:
    found = ((place, stage, getattr(stage, name)) for place, stage in enumerate(stages))
    return [
        Series(stage.label, [(max(value, 1e-4), float(share)) for share, value in enumerate(spread.curve)], place)
        for place, stage, spread in found
        if spread is not None
    ]


def _firsts(stage: Stage) -> list[tuple[float, float]]:
    return [(row.intended, row.first - row.intended) for row in stage.rows if row.first is not None and row.kind == "ok"]


def _slices(stages: Sequence[Stage], name: str) -> list[Series]:
    return [Series(s.label, [(one.at, getattr(one, name)) for one in s.slices], place) for place, s in enumerate(stages)]


def _remarks(report: Report) -> Iterator[str]:
    yield from map(escape, report.remarks)
    for stage in report.stages:
        for kind, count in stage.errors.items():
            said = escape(stage.examples.get(kind, ""))
            yield f'<span class="bad">{escape(stage.label)}: {count} × {escape(kind)}</span>: {said}'
        yield from (escape(f"{stage.label}: {remark}") for remark in stage.remarks)


def _list(title: str, items: Iterator[str]) -> Iterator[str]:
    lines = "".join(f"<li>{item}</li>" for item in dict.fromkeys(items))
    if lines:
        yield f"<h2>{title}</h2><ul>{lines}</ul>"


def _settings(report: Report) -> str:
    rows = {**report.settings, "this client": f"up to {100 * max(s.cpu for s in report.stages):.1f} % of one core"}
    tokens = [
        f"{s.label}: {s.prompt_tokens:.0f} in, {s.output_tokens:.0f} out, {s.events} events with content" for s in report.stages
    ]
    rows["tokens of a request"] = "; ".join(tokens)
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in rows.items())}</dl>{_TERMS}"


_TERMS = """<p class="soft">TTFT: from when the request was due to the first content. TPOT: from the first content to the last, by
the output tokens after the first. ITL: pauses between events with content. E2E: from when it was due to the end of the
answer.</p>"""
