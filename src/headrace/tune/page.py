"""A study as one HTML page that needs nothing else: the frontier as plots, the turns, every trial."""

from collections.abc import Iterator, Sequence
from html import escape

from headrace.measure.page import document
from headrace.measure.plots import Axis, Series, plot
from headrace.measure.text import number, seconds
from headrace.tune.base import Finalist, Study, Trial
from headrace.tune.frontier import frontier
from headrace.tune.text import counted, notes, wanted
from headrace.units import show_bytes

_HEADS = ("", "Tokens/s", "TTFT p50", "TTFT p90", "TPOT", "Memory", "Settings")


def html(study: Study) -> str:
    """The page, complete."""
    return document(f"{study.model}, tuned {study.when[:10]}", "\n".join(part for part in _body(study) if part))


def _body(study: Study) -> Iterator[str]:
    yield f"<h1>{escape(study.model)}, tuned</h1>"
    yield f'<p class="soft">{escape(study.machine)}, {escape(study.when)}, headrace {escape(study.version)}</p>'
    yield f"<p>{escape(study.load)}; wanted is {escape(wanted(study))}.</p>"
    yield f"<p><strong>{escape(study.verdict.evidence)}.</strong></p>"
    if study.finalists:
        yield "<h2>By turns</h2>" + _table([_final(one) for one in study.finalists])
        yield '<p class="soft">Medians of the turns; small: the range of the rates.</p>'
    search = [trial for trial in study.trials if not trial.turn]
    yield f'<h2>Frontier</h2>{_legend()}<div class="plots">{"".join(_figures(search))}</div>'
    yield _table([_trial(trial) for trial in frontier(search)])
    yield f"<h2>Every trial</h2><p>{escape(counted(study.trials))}</p>" + _table([_trial(trial) for trial in search])
    told = "".join(f"<li>{escape(one)}</li>" for one in dict.fromkeys(notes(study)))
    yield f"<h2>What to know before believing it</h2><ul>{told}</ul>" if told else ""
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    yield f'<p class="soft">Engines here: {escape(versions)}. A run that was stopped or failed is on no frontier.</p>'


def _figures(trials: Sequence[Trial]) -> Iterator[str]:
    whole = [trial for trial in trials if trial.end == "whole" and trial.score]
    best, named = frontier(whole), [trial for trial in whole if trial.name]
    others = [trial for trial in whole if trial not in best and not trial.name]
    rate = Axis("output tokens/s", number)
    for title, part in (("Time to first token", "ttft"), ("Time per output token", "tpot")):
        series = [Series("others", _points(others, part), 6), Series("defaults", _points(named, part), 1)]
        series.append(Series("frontier", _points(best, part), 0))
        if picture := plot(f"{title} against speed", series, rate, Axis(title, seconds, log=True), "points"):
            yield f"<figure><h3>{title} against speed</h3>{picture}</figure>"


def _points(trials: Sequence[Trial], part: str) -> list[tuple[float, float]]:
    found = ((trial.score.rate, getattr(trial.score, part)) for trial in trials if trial.score)
    return [(rate, value) for rate, value in found if value]


def _legend() -> str:
    dot = '<svg viewBox="0 0 14 10" aria-hidden="true"><path class="dots c{}" d="M7 5h0"/></svg>'
    names = ((0, "frontier"), (1, "defaults"), (6, "others"))
    return f'<ul class="legend">{"".join(f"<li>{dot.format(colour)}{name}</li>" for colour, name in names)}</ul>'


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{text}</th>' for text in _HEADS)
    lines = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="Numbers"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _trial(trial: Trial) -> tuple[str, ...]:
    score = trial.score
    name = escape(trial.name or {"whole": "", "stopped": "stopped early", "failed": "failed", "refused": "not tried"}[trial.end])
    if score is None:
        return (name, "–", "–", "–", "–", "–", escape(str(trial.candidate)))
    rate = f"{number(score.rate)}<small>{number(score.low)}–{number(score.high)}</small>"
    waits = (_time(score.ttft), _time(score.ttft_p90), _time(score.tpot))
    return (name, rate, *waits, _memory(trial.memory_bytes), escape(str(trial.candidate)))


def _final(one: Finalist) -> tuple[str, ...]:
    rate = f"{number(one.rate)}<small>{number(one.low)}–{number(one.high)}</small>"
    waits = (_time(one.ttft), _time(one.ttft_p90), _time(one.tpot))
    return (escape(one.name or "tuned"), rate, *waits, _memory(one.memory_bytes), escape(str(one.candidate)))


def _time(value: float | None) -> str:
    return "–" if value is None else seconds(value)


def _memory(count: int) -> str:
    return show_bytes(count) if count else "–"
