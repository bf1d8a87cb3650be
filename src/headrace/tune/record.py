"""Trials as JSON lines, which a later tune goes on from, and a study as one JSON document."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import msgspec

from headrace.tune.base import Candidate, Score, Study, Trial
from headrace.tune.frontier import frontier


def line(trial: Trial) -> bytes:
    """One line, with its end."""
    return msgspec.json.encode({**asdict(trial), "candidate": trial.candidate.values}) + b"\n"


def trials(content: bytes) -> Iterator[Trial]:
    """The trials in a file; a line that cannot be read, as a crash leaves one, counts as none."""
    for raw in content.splitlines():
        try:
            yield _trial(msgspec.json.decode(raw))
        except (msgspec.MsgspecError, TypeError, KeyError, AttributeError):
            continue


def _trial(value: dict[str, Any]) -> Trial:
    score = value.pop("score")
    candidate = Candidate.of({str(name): str(one) for name, one in value.pop("candidate").items()})
    return Trial(candidate=candidate, score=Score(**score) if score else None, **value)


def encoded(study: Study) -> bytes:
    """The study for machines."""
    value = asdict(study)
    value["trials"] = [_plain(trial) for trial in study.trials]
    value["frontier"] = [_plain(trial) for trial in frontier([one for one in study.trials if not one.turn])]
    value["finalists"] = [{**asdict(one), "candidate": one.candidate.values} for one in study.finalists]
    winner = study.verdict.winner
    value["verdict"] = {"evidence": study.verdict.evidence, "winner": winner.candidate.values if winner else None}
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _plain(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "candidate": trial.candidate.values}
