"""A study as text: the final turns, the frontier, what was tried, and what has to be known to believe it."""

from collections.abc import Iterator, Sequence

from headrace.columns import aligned
from headrace.measure.text import number, seconds
from headrace.tune.base import Finalist, Limits, Study, Trial
from headrace.tune.frontier import frontier
from headrace.units import show_bytes, show_duration

_HEAD = ("", "tok/s", "", "TTFT p50", "p90", "TPOT", "MEMORY", "SETTINGS")
_NONE = "-"


def shown(study: Study) -> str:
    """All of it."""
    parts = [f"{study.model} on {study.machine}: {study.load}; wanted is {wanted(study)}."]
    if study.finalists:
        parts.append("By turns (median, range of the rates):\n" + "\n".join(aligned([_HEAD, *map(_final, study.finalists)])))
    if found := frontier([trial for trial in study.trials if not trial.turn]):
        parts.append("The frontier of the search (one run each):\n" + "\n".join(aligned([_HEAD, *map(row, found)])))
    parts.append(counted(study.trials))
    parts.append("\n".join(dict.fromkeys(notes(study))))
    parts.append(study.verdict.evidence + ".")
    return "\n\n".join(part for part in parts if part)


def wanted(study: Study) -> str:
    """`most tokens a second with TTFT within 500ms`."""
    goals = {"throughput": "most tokens a second", "ttft": "the soonest first token", "tpot": "the least time per token"}
    return goals[study.goal] + within(study.limits)


def within(limits: Limits) -> str:
    """The limits in words; nothing where there are none."""
    said = [f"{name.upper()} within {show_duration(value)}" for name, value in _given(limits)]
    return f" with {' and '.join(said)}" if said else ""


def counted(trials: Sequence[Trial]) -> str:
    """How many trials ended how."""
    search = [trial for trial in trials if not trial.turn]
    words = {"whole": "run whole", "stopped": "stopped early as clearly worse", "failed": "failed", "refused": "not tried"}
    counts = ((sum(trial.end == end for trial in search), said) for end, said in words.items())
    return f"Tried {len(search)}: " + ", ".join(f"{count} {said}" for count, said in counts if count) + "."


def notes(study: Study) -> Iterator[str]:
    """What has to be known."""
    yield from study.remarks
    for trial in study.trials:
        if trial.end in ("failed", "refused"):
            yield f"{trial.label}: {'not tried: ' if trial.end == 'refused' else 'failed: '}{trial.why}"


def row(trial: Trial) -> tuple[str, ...]:
    """A trial as a line of the table."""
    score = trial.score
    if score is None:
        return (trial.name or trial.end, _NONE, "", _NONE, _NONE, _NONE, _NONE, str(trial.candidate))
    spread = f"({number(score.low)}–{number(score.high)})"
    waits = (_time(score.ttft), _time(score.ttft_p90), _time(score.tpot))
    return (trial.name, number(score.rate), spread, *waits, _memory(trial.memory_bytes), str(trial.candidate))


def _final(one: Finalist) -> tuple[str, ...]:
    spread = f"({number(one.low)}–{number(one.high)})"
    waits = (_time(one.ttft), _time(one.ttft_p90), _time(one.tpot))
    return (one.name or "tuned", number(one.rate), spread, *waits, _memory(one.memory_bytes), str(one.candidate))


def _given(limits: Limits) -> Iterator[tuple[str, float]]:
    for name in ("ttft", "tpot"):
        if (value := getattr(limits, name)) is not None:
            yield name, value


def _time(value: float | None) -> str:
    return _NONE if value is None else seconds(value)


def _memory(count: int) -> str:
    return show_bytes(count) if count else _NONE
