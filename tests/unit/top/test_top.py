"""`headrace top` without a terminal: what looks say together, and how they are laid out."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.stats import SECONDS, Histogram
from headrace.top.base import Look, ModelLook, Watched, quantile
from headrace.top.view import clipped, columns, data, most_top, painted, printable, screen, sparkline, text

MODEL = ModelLook("chat", "ready", "1 of 1 replicas ready", 1, 2, 3, 8, 4, 0.05, 1.25, 0.2, 0.03, 800.0, 1234.0, 5 * 2**30)
LOOK = Look(1e9, "http://127.0.0.1:8000", (MODEL,))
KEY = {"name": "team", "running": 1, "requests": 2, "tokens_in": 3, "tokens_out": 4, "refused": {"rpm": 5}}
LETTERS = st.text(st.sampled_from("ab 中é\u0301\x1b\n\u202e█"), max_size=40)


def status(tokens_in: int, tokens_out: int, waits: list[float]) -> dict[str, Any]:
    histogram = Histogram(SECONDS)
    for wait in waits:
        histogram.observe(wait)
    load = {"tokens_in": tokens_in, "tokens_out": tokens_out, "running": {"chat-1": 1, "chat-2": 2}, "waiting": 5,
            "ttft_seconds": 0.2, "tpot_seconds": None}  # fmt: skip
    replicas = [{"state": "ready", "memory_bytes": 7}, {"state": "loading", "memory_bytes": None}]
    model = {"name": "chat", "phase": "ready", "reason": "", "slots": 8, "load": load, "replicas": replicas}
    return {"draining": False, "models": [model | {"waits": json.loads(json.dumps(histogram.buckets()))}]}


def test_rates_and_waiting_are_of_the_last_moments_and_not_since_the_start() -> None:
    watched = Watched("u")
    first = watched.seen(100, status(50, 1000, [30.0] * 9), [], None).models[0]
    assert (first.tokens_out_rate, first.wait_p99) == (None, None)
    second = watched.seen(110, status(70, 1500, [30.0] * 9 + [0.2] * 100), [], None).models[0]
    assert (second.tokens_in_rate, second.tokens_out_rate) == (2.0, 50.0)
    assert second.wait_p99 is not None
    assert 0.1 <= second.wait_p99 <= 0.25, "the long waits were before"
    assert (second.running, second.replicas_ready, second.replicas, second.memory_bytes) == (3, 1, 2, 7)


def test_a_single_snapshot_tells_waiting_since_the_start() -> None:
    one = Watched("u", whole=True).seen(0, status(0, 0, [0.3] * 3), [], None).models[0]
    assert one.wait_p50 is not None
    assert 0.25 <= one.wait_p50 <= 0.5


def test_a_gateway_that_starts_anew_gives_no_negative_rates() -> None:
    watched = Watched("u")
    watched.seen(0, status(10, 1000, [1.0]), [], None)
    after = watched.seen(5, status(0, 10, []), [], None).models[0]
    assert (after.tokens_out_rate, after.wait_p50) == (None, None)
    assert watched.seen(6, status(0, 20, []), [], None).models[0].tokens_out_rate == 10.0


def test_a_curve_begins_with_what_was_recorded() -> None:
    watched = Watched("u")
    watched.seen(1000, status(0, 0, []), [], None)
    watched.seen(1001, status(0, 7, []), [], None)
    # Rows of five seconds with 10 tokens/s; before 900 nobody watched, and what is later than the looks is not taken.
    times = [700.0, 702.0, *range(900, 1100, 5)]
    watched.before(1001, "chat", times, [50.0, None, *[10.0] * 40])
    curve = watched.seen(1002, status(0, 14, []), [], None).models[0].curve
    assert len(curve) == 300
    assert curve[-2:] == (7.0, 7.0), "the looks' own"
    assert curve[-80:-2] == (10.0,) * 78
    assert curve[-200:-130] == (0.0,) * 70
    for second in range(1003, 1400):
        curve = watched.seen(second, status(0, 14 + 7 * (second - 1002), []), [], None).models[0].curve
    assert curve == (7.0,) * 300, "what is old goes"


def test_a_curve_without_a_history_begins_with_the_looks() -> None:
    watched = Watched("u")
    watched.before(1000, "chat", [], [])
    watched.seen(1000, status(0, 0, []), [], None)
    assert watched.seen(1001, status(0, 7, []), [], None).models[0].curve == (7.0,)


def test_what_was_known_stays_while_the_gateway_is_away() -> None:
    watched = Watched("u")
    watched.seen(10, status(0, 0, []), [{"ago_seconds": 3, "decision": "more"}], [KEY])
    lost = watched.lost(15, "gone")
    assert (lost.lost, lost.lost_seconds, lost.models[0].name, lost.decisions) == ("gone", 5, "chat", ((3.0, "more"),))


@given(st.lists(st.floats(0, 250), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_in_the_bucket_of_the_value_that_it_stands_for(values: list[float], share: float) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    found = quantile([(float(bound), count) for bound, count in histogram.buckets()], share)
    assert found is not None
    rank = next(place for place in range(1, len(values) + 1) if place >= share * len(values))
    true = sorted(values)[rank - 1]
    low = max((bound for bound in (0.0, *SECONDS) if bound < true), default=0.0)
    high = next(bound for bound in SECONDS if bound >= true)
    assert low <= found <= high


@given(st.integers(20, 200), st.integers(6, 60), st.integers(0, 30), LETTERS, LETTERS, st.sampled_from(["", "gone"]))
def test_a_picture_never_leaves_the_window(width: int, height: int, count: int, name: str, reason: str, lost: str) -> None:
    models = tuple(replace(MODEL, name=f"{name}{n}", reason=reason, state=("ready", "failed")[n % 2]) for n in range(count))
    look = Look(0, "http://h", models, False, ((1, reason),) * 9, (KEY | {"name": name},) * 9, lost)
    for top in (0, most_top(look, width, height)):
        lines = screen(look, width, height, top)
        assert len(lines) <= height
        for _, line in lines:
            assert columns(line) <= width
            assert line == printable(line)


def test_eighty_by_twenty_four_shows_everything_of_five_models() -> None:
    models = tuple(replace(MODEL, name=f"model-{n}", curve=(1.0, 2.0)) for n in range(5))
    look = replace(LOOK, models=models, decisions=((60.0, "model-1 1 → 2 replicas: 5 waiting"),), keys=(KEY,))
    picture = "\n".join(line for _, line in screen(look, 80, 24))
    for shown in ("model-0", "model-4", "1/2", "3/8", "50ms", "1.2s", "200ms", "30ms", "800", "1200", "5.00G",
                  "1m ago  model-1 1 → 2 replicas", "team", "q quits"):  # fmt: skip
        assert shown in picture.replace("5G", "5.00G"), (shown, picture)


def test_models_beyond_the_window_are_counted_and_can_be_reached() -> None:
    look = replace(LOOK, models=tuple(replace(MODEL, name=f"model-{n}") for n in range(40)))
    first = "\n".join(line for _, line in screen(look, 80, 24))
    assert "model-0 " in first
    assert "more models: up and down" in first
    last = "\n".join(line for _, line in screen(look, 80, 24, most_top(look, 80, 24)))
    assert "model-39" in last


def test_colour_is_around_lines_and_nothing_without_it() -> None:
    assert painted([("bad", "x"), ("", "y")], colour=True) == ["\x1b[1;31mx\x1b[0m", "y"]
    assert painted([("bad", "x")], colour=False) == ["x"]


def test_what_a_server_says_does_not_steer_the_terminal() -> None:
    evil = replace(MODEL, name="a\x1b[2J", state="failed", reason="\x1b]0;title\x07")
    told = replace(LOOK, models=(evil,), decisions=((1.0, "\x9b31m"),))
    for said in (text(told), *(line for _, line in screen(told, 80, 24))):
        assert not any(letter in said for letter in "\x1b\x07\x9b")


def test_a_curve_is_as_tall_as_its_most_and_as_wide_as_asked() -> None:
    assert sparkline([0.0] * 298 + [50.0, 100.0], 300)[-3:] == " ▄█"
    assert len(sparkline([1.0] * 1000, 24)) == 24
    assert sparkline([], 5) == "     "


@pytest.mark.parametrize(("said", "width", "shown"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("中中", 3, "中…"), ("ab", 0, "")])
def test_texts_are_cut_by_columns(said: str, width: int, shown: str) -> None:
    assert clipped(said, width) == shown


def test_data_says_units_and_keeps_what_is_unknown_null() -> None:
    told = json.loads(json.dumps(data(replace(LOOK, models=(replace(MODEL, tpot=None),)))))
    (model,) = told["models"]
    assert (model["wait_p99_seconds"], model["tpot_seconds"], model["memory_bytes"]) == (1.25, None, 5 * 2**30)
    assert "curve" not in model


@pytest.mark.parametrize(("width", "height"), [(140, 24), (80, 24), (140, 8)])
def test_models_that_take_more_lines_can_all_be_reached(width: int, height: int) -> None:
    """Each that failed has a line with its reason below it, also where the curves stand beside the models."""
    failed = replace(MODEL, state="failed", reason="no memory")
    look = replace(LOOK, models=tuple(replace(failed, name=f"model-{n}") for n in range(30)))
    top = most_top(look, width, height)
    assert "model-29 " in "\n".join(line for _, line in screen(look, width, height, top))
    assert "model-29 " not in "\n".join(line for _, line in screen(look, width, height, top - 1)), "the screen is full"


@pytest.mark.parametrize("after", [status(3, 0, [1.0] * 9), status(90, 0, [])], ids=["fewer tokens in", "fewer waits"])
def test_a_gateway_that_starts_anew_is_seen_by_every_counter(after: dict[str, Any]) -> None:
    """An embedder never makes tokens."""
    watched = Watched("u")
    watched.seen(0, status(80, 0, [1.0] * 5), [], None)
    assert watched.seen(5, after, [], None).models[0].tokens_in_rate is None
