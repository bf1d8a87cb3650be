"""Trials are kept line by line and survive what breaks a file; loads are made of what was recorded."""

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.measure.base import Outcome
from headrace.tune.base import Candidate, Limits, Mix, Score, Study, Trial, Verdict
from headrace.tune.course import LEAST_RUN, MOST_SHARE, leaders, run_seconds, turns
from headrace.tune.mix import LEAST_REQUESTS, busy, recorded, said
from headrace.tune.page import html
from headrace.tune.record import encoded, line, trials
from headrace.tune.score import score, seconds
from headrace.tune.store import BusyError, Left, Stopped, Trials, alone
from headrace.tune.text import shown

SCORE = Score(rate=100, low=95, high=105, ttft=1.0, ttft_p90=None, tpot=0.05, answered=50)
TRIAL = Trial(Candidate.of({"slots": "8", "engine": "llamacpp"}), "whole", SCORE, at="2026-11-27", seconds=12.5)
REFUSED = Trial(Candidate.of({"engine": "openvino", "slots": "4"}), "refused", why="it takes 9 GiB <of 8>")


def test_a_trial_is_read_back_as_it_was() -> None:
    assert list(trials(line(TRIAL) + line(REFUSED))) == [TRIAL, REFUSED]


@pytest.mark.parametrize("broken", [b'{"cand', b"[]", b"5", b"\xff\xfe", b'{"candidate": {"engine": "x"}, "new": 1}', b""])
def test_a_line_that_a_crash_left_counts_as_none(broken: bytes) -> None:
    assert list(trials(line(TRIAL) + broken + b"\n" + line(REFUSED))) == [TRIAL, REFUSED]


def test_a_full_disk_is_said_once_and_does_not_end_a_tune(tmp_path: Path) -> None:
    told: list[str] = []
    kept = Trials(Path("/dev/full"), told.append)
    kept.add(TRIAL)
    kept.add(TRIAL)
    assert len(told) == 1
    assert "No space left" in told[0]
    good = Trials(tmp_path / "t.jsonl", told.append)
    good.add(TRIAL)
    assert good.read() == [TRIAL]
    good.forget()
    assert good.read() == []


def test_two_tunes_at_once_are_refused_by_name(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(BusyError, match=f"pid {os.getpid()}"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_what_was_stopped_is_known_until_it_is_restored(tmp_path: Path) -> None:
    kept = Stopped(tmp_path)
    assert kept.read() is None
    kept.write(Left("http://x", "chat", "2", "stopped by boss"))
    assert Stopped(tmp_path).read() == Left("http://x", "chat", "2", "stopped by boss")
    kept.clear()
    assert Stopped(tmp_path).read() is None
    for broken in ("{", "[]", "5", '{"url": "http://x"}'):
        kept.place.write_text(broken)
        assert kept.read() is None
    kept.place.write_text('{"url": "http://x", "model": "chat"}')  # by an earlier Headrace, which gave back what is planned
    assert kept.read() == Left("http://x", "chat", "auto")


def study(*found: Trial) -> Study:
    return Study("chat<b>", "2 cores", "8 users", "throughput", Limits(ttft=0.5), found, (), Verdict(None, "Nothing"), ("noisy",))


def test_a_study_as_table_page_and_json_says_what_was_not_tried_and_why() -> None:
    made = study(TRIAL, REFUSED, replace(TRIAL, end="stopped", why="stopped after 5 s"))
    assert "not tried: it takes 9 GiB <of 8>" in shown(made)
    assert "Tried 3: 1 run whole, 1 stopped early as clearly worse, 1 not tried." in shown(made)
    page = html(made)
    assert "it takes 9 GiB &lt;of 8&gt;" in page
    assert "chat<b>" not in page
    assert "<svg" in page
    assert not any(word in page for word in ("<script", "http://", "https://"))
    value = json.loads(encoded(made))
    assert value["trials"][0]["candidate"] == {"engine": "llamacpp", "slots": "8"}
    assert len(value["frontier"]) == 1


def test_a_load_of_said_lengths_varies_around_them() -> None:
    mix = said(8, 100, 40, random.Random(1).random, "asked for")
    assert 95 < mix.prompt < 105
    assert 38 < mix.output < 42
    assert 50 <= min(mix.lengths.prompt) < max(mix.lengths.prompt) <= 150


def test_a_load_of_recorded_requests_has_their_lengths_and_as_many_users_as_were_there() -> None:
    rows = [(float(second), 100, 50, 3.5) for second in range(100)]  # one a second that takes 3.5 s: four at once
    mix = recorded(rows, None)
    assert mix is not None
    assert (mix.users, mix.prompt, mix.output) == (4, 100, 50)
    assert recorded(rows, 9).users == 9  # type: ignore[union-attr]
    assert recorded(rows[: LEAST_REQUESTS - 1], None) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1e4)), max_size=60))
def test_there_are_never_more_users_than_requests(rows: list[tuple[float, int, int, float]]) -> None:
    assert 1 <= busy(rows) <= max(1, len(rows))


def outcome(at: float, stamps: list[float], kind: str = "ok") -> Outcome:
    made = Outcome(at, at, 8, kind=kind)  # type: ignore[arg-type]
    made.stamps.extend(stamps)
    made.ended = stamps[-1] if stamps else at
    return made


def test_a_score_counts_tokens_in_its_time_and_waits_from_the_first_request_on() -> None:
    outcomes = [
        outcome(0.0, [1.0, 2.0, 3.0, 4.0]),  # before the counted time, and in it
        outcome(2.5, [3.5, 4.5, 5.5], "unfinished"),  # given up at the end: no failure
        outcome(3.0, [], "unfinished"),  # still waits: has waited 3 s at least
        outcome(3.0, [], "5xx"),
    ]
    found = score(outcomes, 2.0, 6.0, random.Random(1).random)
    assert seconds(outcomes, 2.0, 6.0) == [1.0, 2.0, 2.0, 1.0]
    assert found.rate == 1.5
    assert (found.ttft, found.ttft_p90, found.tpot) == (1.0, 3.0, 1.0)
    assert (found.answered, found.failed) == (1, 1)


@given(st.floats(0, 1e5), st.floats(30, 86_400), st.integers(1, 256))
def test_a_run_is_within_its_part_of_the_budget(best: float, budget: float, users: int) -> None:
    mix = Mix(users, said(1, 9, 9, random.Random(1).random, "").lengths, "")
    assert LEAST_RUN <= run_seconds(mix, best, budget) <= max(LEAST_RUN, MOST_SHARE * budget)
    assert 2 <= turns(users, best, budget) <= 3
    assert leaders(best, budget) in (1, 2)
