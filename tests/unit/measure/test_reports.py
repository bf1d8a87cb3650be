"""Reports as tables, pages and comparisons, made of outcomes that are written by hand."""

import re
from array import array
from random import Random
from xml.etree import ElementTree

import pytest

from headrace.errors import UsageError
from headrace.measure.base import Load, Outcome, Report, Slo, Stage
from headrace.measure.compare import compared, verdict
from headrace.measure.page import html
from headrace.measure.plots import Axis, Series, plot
from headrace.measure.statistics import Estimate
from headrace.measure.summary import Window, meets, summary
from headrace.measure.text import limits, number, seconds, shown


def answered(at: float, ttft: float, tpot: float, tokens: int = 11) -> Outcome:
    stamps = array("d", [at + ttft + place * tpot for place in range(tokens)])
    return Outcome(
        at, at, tokens, stamps, stamps[-1] + 0.001, done=True, prompt_tokens=100, output_tokens=tokens, finish="length"
    )


def failed(at: float, kind: str, detail: str) -> Outcome:
    return Outcome(at, at, 11, array("d"), at + 9.0, kind=kind, detail=detail)  # type: ignore[arg-type]


def stage(level: float = 8, scale: float = 1.0, extra: tuple[Outcome, ...] = (), slo: Slo | None = None) -> Stage:
    """100 requests in 10 s after 1 s of warm-up; every tenth is three times as slow."""
    random = Random(1)
    ok = [answered(100 + n * 0.11, scale * (0.3 if n % 10 else 0.9) * random.uniform(0.9, 1.1), 0.02) for n in range(100)]
    return summary(Load("closed", level), [*ok, *extra], Window(100.0, 101.0, 111.0), slo, 0.02, Random(1).random)


def report(*stages: Stage, **more: object) -> Report:
    return Report("1", "2026-11-27T00:00:00+00:00", "http://h/v1", "chat", {"seed": "1"}, None, stages, **more)  # type: ignore[arg-type]


def test_only_what_was_sent_in_the_measured_time_counts() -> None:
    found = stage()
    assert found.requests == 90  # ten were sent in the warm-up
    assert (found.started, found.seconds) == (1.0, 10.0)
    assert found.ttft
    assert found.ttft.p50.value == pytest.approx(0.3, rel=0.1)
    assert found.ttft.p99.value == pytest.approx(0.9, rel=0.1)
    assert found.tpot
    assert found.tpot.p50.value == pytest.approx(0.02)
    assert found.output_rate.value == pytest.approx(100, rel=0.05)  # tokens of the warm-up's requests that came later as well


def test_failures_are_in_no_latency() -> None:
    plain, found = stage(), stage(extra=(failed(105.0, "stalled", "Silence."), failed(106.0, "429", "busy")))
    assert found.errors == {"stalled": 1, "429": 1}
    assert (found.ttft and found.ttft.most) == (plain.ttft and plain.ttft.most)
    assert (found.e2e and found.e2e.most) == (plain.e2e and plain.e2e.most)


def test_goodput_counts_failures_as_missed() -> None:
    found = stage(slo=Slo(ttft=0.5), extra=(failed(105.0, "429", "busy"),))
    assert found.goodput
    assert found.goodput.share.value == pytest.approx(81 / 91)
    assert found.goodput.rate == pytest.approx(8.1)
    assert not found.goodput.met


@pytest.mark.parametrize(
    ("slo", "kept"),
    [
        (Slo(ttft=0.3), True),
        (Slo(ttft=0.29), False),
        (Slo(tpot=0.021), True),
        (Slo(tpot=0.019), False),
        (Slo(e2e=0.6), True),
        (Slo(e2e=0.5), False),
    ],
)
def test_each_limit(slo: Slo, kept: bool) -> None:
    assert meets(answered(0.0, 0.3, 0.02), slo) is kept
    assert not meets(failed(0.0, "5xx", ""), slo)


UNMEASURED = [
    # what came, and whether it keeps a limit of TPOT
    (Outcome(0.0, 0.0, 10, streamed=False, stamps=array("d", [0.6]), output_tokens=10), False),  # not streamed
    (Outcome(0.0, 0.0, 10, streamed=False, stamps=array("d", [0.6])), False),  # nor counted: one event, any number of tokens
    (Outcome(0.0, 0.0, 10, stamps=array("d", [0.6]), output_tokens=10), False),  # all of it in one event
    (Outcome(0.0, 0.0, 1, stamps=array("d", [0.6]), output_tokens=1), True),  # one token: there is no time per token
    (Outcome(0.0, 0.0, 1, streamed=False, stamps=array("d", [0.6]), output_tokens=1), True),
]


@pytest.mark.parametrize(("one", "kept"), UNMEASURED)
def test_a_time_per_token_that_was_not_measured_keeps_no_limit(one: Outcome, kept: bool) -> None:
    assert meets(one, Slo(tpot=60.0)) is kept
    assert meets(one, Slo(e2e=60.0))


def test_latency_counts_from_when_a_request_was_due() -> None:
    late = answered(0.0, 0.3, 0.02)
    late.sent = 0.2
    found = summary(Load("open", 1), [late], Window(0.0, 0.0, 1.0), None, 0.0, Random(1).random)
    assert found.ttft
    assert found.ttft.p50.value == pytest.approx(0.3)
    assert (found.late, round(found.late_most, 3)) == (1, 0.2)
    assert "sent late, up to 200ms" in shown(report(found))


def test_a_table_has_a_row_for_each_load_and_says_what_failed() -> None:
    text = shown(report(stage(1), stage(8, extra=(failed(105.0, "429", "busy"),))))
    assert re.search(r"^1 at once +90 +0 +\d+ms +\(\d+ms–\d+ms\)", text, re.MULTILINE)
    assert "8 at once: 1 × 429: busy" in text
    assert "100 in, 11 out" in text
    assert shown(report()) == "Nothing was measured."


def test_nothing_measured_is_said_and_not_averaged() -> None:
    empty = summary(Load("closed", 1), [], Window(0.0, 1.0, 2.0), Slo(ttft=1.0), 0.0, Random(1).random)
    text = shown(report(empty))
    assert "No request was sent in the measured time" in text
    assert "Nothing was answered" in text


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    page = html(report(stage(1), stage(8, slo=Slo(ttft=0.5)), interrupted=True))
    assert not re.search(r"(\bsrc=|href|@import|url\()", page)
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme:dark" in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 9  # seven plots and the legend
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "nan" not in picture


def test_what_a_server_says_is_text_in_the_page() -> None:
    page = html(report(stage(1, extra=(failed(105.0, "4xx", "<img src=x onerror=alert(1)>"),))))
    assert "<img" not in page
    assert "&lt;img" in page


@pytest.mark.parametrize("points", [[(1.0, 1.0)], [(0.0, 0.0), (0.0, 0.0)], [(1e-9, 1e9), (5.0, 3.0)], [(2.0, 2.0)] * 5000])
@pytest.mark.parametrize("log", [True, False])
def test_plots_take_any_values(points: list[tuple[float, float]], log: bool) -> None:
    picture = plot("t", [Series("a & b", points, 0)], Axis("x", str, log=log, limit=3.0), Axis("y", str, log=log))
    if picture:
        found = ElementTree.fromstring(picture)
        places = [float(value) for path in found.iter("path") for value in re.findall(r"-?\d+\.\d", path.get("d", ""))]
        assert all(-1 <= place <= 361 for place in places)
        assert len(picture) < 40_000
    else:
        assert log


def test_a_comparison_tells_better_worse_and_noise() -> None:
    text = compared(report(stage(8)), report(stage(8, scale=2.0)))
    assert re.search(r"TTFT p50 .* worse", text)
    assert re.search(r"TPOT p50 .* within noise", text)
    assert "not what changed on the machine between them" in text


def test_a_comparison_says_when_things_were_not_alike() -> None:
    other = Report("1", "2026", "http://h/v1", "chat", {"seed": "2"}, None, (stage(8),))
    assert "not measured alike: seed: 1 / 2" in compared(report(stage(8)), other)
    with pytest.raises(UsageError, match="no load in common"):
        compared(report(stage(1)), report(stage(8)))


def test_verdicts() -> None:
    assert verdict(Estimate(1.2, 1.1, 1.3), more_is_better=True) == "better"
    assert verdict(Estimate(1.2, 1.1, 1.3), more_is_better=False) == "worse"
    assert verdict(Estimate(1.2, 0.9, 1.5), more_is_better=False) == "within noise"


def test_numbers_have_three_digits() -> None:
    assert [seconds(value) for value in (0.00321, 0.0312, 0.312, 1.234, 12.34, 1234.0)] == [
        "3.21ms",
        "31.2ms",
        "312ms",
        "1.23s",
        "12.3s",
        "1234s",
    ]
    assert [number(value) for value in (0.1234, 12.34, 123.4, 12345.6)] == ["0.123", "12.3", "123", "12,346"]
    assert limits(Slo(ttft=0.5, e2e=10)) == "95 % within TTFT 500ms, E2E 10s"
