"""Whole benches against small servers on loopback: what is measured, and what is said of servers that misbehave."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from headrace.errors import UsageError
from headrace.measure import Load, Report, Slo, Wish, html, measured, search, shown
from headrace.measure.probe import BenchError
from headrace.measure.record import decoded, encoded, rows
from headrace.testing.fake import FakeEngine

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MODELS = b'{"object":"list","data":[{"id":"fake"}]}'
SHORT = Wish(loads=(Load("closed", 2),), prompt=60, output=8, requests=6, duration=60.0, warmup=0.0, drain=5.0, stall=20.0)


def plain(status: str, body: bytes, *lines: str) -> bytes:
    more = "".join(f"{line}\r\n" for line in lines)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def events(*payloads: str, last: bool = True) -> bytes:
    parts = [f"data: {payload}\n\n".encode() for payload in payloads]
    return SSE + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + (b"0\r\n\r\n" if last else b"")


def content(word: str) -> str:
    return json.dumps({"choices": [{"delta": {"content": word}}]})


def usage(out: int) -> str:
    return json.dumps({"choices": [], "usage": {"prompt_tokens": 60, "completion_tokens": out}})


WORDS = [content("a")] * 4
GOOD = events(*WORDS, usage(4), "[DONE]")


@asynccontextmanager
async def scripted(answer: Callable[[int, dict[str, object]], bytes | None], models: bytes = plain("200 OK", MODELS)):
    """A server that gives `answer(number of the POST from 1 on, its body)`; None: silence. Its URL."""
    count, open_ones = 0, set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        open_ones.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    writer.write(models)
                    break
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                body = json.loads(await reader.readexactly(length))
                count += 1
                raw = answer(count, body)
                if raw is None:
                    await reader.read()
                    break
                writer.write(raw)
                if not raw.endswith(b"0\r\n\r\n") and b"Content-Length" not in raw:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}/v1"
    finally:
        server.close()
        for writer in open_ones:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0.01)


def after_probe(bad: bytes | None) -> Callable[[int, dict[str, object]], bytes | None]:
    """Well for the two requests that look at the server, badly from then on."""
    return lambda number, body: GOOD if number <= 2 else bad


async def test_a_closed_loop_keeps_so_many_at_once_and_counts_real_tokens():
    async with FakeEngine("http://127.0.0.1:0", slots=8, tokens=8, token_seconds=0.005, context=1000) as engine:
        report = await measured(replace(SHORT, url=engine.address))
    (stage,) = report.stages
    assert engine.max_running == 2
    assert stage.ok == stage.requests == len(stage.rows) > 2
    assert stage.errors == {}
    assert {row.output for row in stage.rows} == {8}
    assert {row.prompt for row in stage.rows} == {60}  # the wished length, by what the server counts
    assert stage.ttft
    assert stage.tpot
    assert stage.itl
    assert stage.e2e
    assert stage.tpot.p50.value >= 0.005
    assert stage.ttft.p50.value + 7 * stage.tpot.p50.value <= stage.e2e.p99.value * 1.01
    assert stage.itl.count == 7 * stage.ok
    assert len({request.body for request in engine.received if request.body}) == stage.requests + 2  # no prompt twice


async def test_an_open_loop_does_not_wait_and_counts_from_the_intended_time():
    """One slot, ten times as many as it does: what waits at the server is in the TTFT, and the queue's growth is said."""
    async with FakeEngine("http://127.0.0.1:0", slots=1, tokens=4, token_seconds=0.01, context=1000) as engine:
        wish = replace(SHORT, url=engine.address, loads=(Load("open", 100.0, "constant"),), slo=Slo(ttft=0.1), requests=50)
        report = await measured(wish)
    (stage,) = report.stages
    assert stage.requests == 50
    assert [round(row.intended, 3) for row in stage.rows[:3]] == [0.0, 0.01, 0.02]
    assert stage.ttft
    assert stage.ttft.most > 0.5
    assert not stage.steady
    assert stage.goodput
    assert not stage.goodput.met
    assert stage.goodput.share.value < 1
    assert "The queue grew" in shown(report)


async def test_a_number_of_requests_is_enough():
    async with FakeEngine("http://127.0.0.1:0", tokens=4, context=1000) as engine:
        report = await measured(replace(SHORT, url=engine.address, requests=10))
    assert 10 <= report.stages[0].requests <= 12  # what was under way counts as well


LIES = [
    # bad answer, kind, and a word of what is said
    (plain("429 Too Many Requests", b'{"error":{"message":"slow down"}}'), "429", "slow down"),
    (plain("503 Service Unavailable", b"<html>nginx</html>"), "5xx", "an HTML page"),
    (plain("400 Bad Request", b'{"error":{"message":"too long"}}'), "4xx", "too long"),
    (plain("302 Found", b"", "Location: https://elsewhere.example/v1"), "redirect", "elsewhere.example"),
    (plain("200 OK", b"<html>welcome</html>", "Content-Type: text/html"), "not an API", "an HTML page"),
    (plain("200 OK", b'{"error":"overloaded"}', "Content-Type: application/json"), "error event", "overloaded"),
    (events(*WORDS, '{"error":{"message":"out of memory"}}'), "error event", "out of memory"),
    (events(*WORDS), "broken", "without [DONE]"),
    (events(*WORDS, last=False), "broken", "closed"),
    (events("[DONE]"), "empty", "no text"),
    (b"\x16\x03\x01 no HTTP\r\n\r\n", "broken", "no legal HTTP"),
    (SSE + b"zz\r\n", "broken", "chunked framing"),
    (None, "stalled", "Silence"),
]


@pytest.mark.parametrize(("bad", "kind", "word"), LIES, ids=[f"{kind}: {word}" for _, kind, word in LIES])
async def test_failures_are_counted_by_kind_and_never_averaged_in(bad: bytes | None, kind: str, word: str):
    async with scripted(after_probe(bad)) as url:
        report = await measured(replace(SHORT, url=url, stall=0.2 if bad is None else 20.0))
    (stage,) = report.stages
    assert set(stage.errors) == {kind}
    assert stage.ok == 0
    assert stage.ttft is stage.tpot is stage.e2e is None
    assert word in stage.examples[kind]
    assert f"× {kind}" in shown(report)


REMARKS = [
    # what a server does, and what is said of it
    (events(*WORDS, "[DONE]"), "without usage"),
    (events(*WORDS * 5, usage(4), "[DONE]"), "Usage cannot be right"),
    (events(*WORDS, usage(900), "[DONE]"), "more tokens by it than max_tokens"),
    (events(*WORDS, json.dumps({"choices": [{"finish_reason": "stop"}]}), usage(4)), "no [DONE]"),
    (events(*WORDS, usage(4), "[DONE]"), "ended before their limit"),
    (events(*WORDS * 3, usage(12), "[DONE]"), "buffers them"),
    (
        plain("200 OK", b'{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":60,"completion_tokens":8}}'),
        "not streamed",
    ),
    (
        events(*WORDS, usage(4).replace("}}", ', "prompt_tokens_details": {"cached_tokens": 50}}}'), "[DONE]"),
        "prefix cache",
    ),
]


@pytest.mark.parametrize(("answer", "said"), REMARKS, ids=[said for _, said in REMARKS])
async def test_what_makes_numbers_doubtful_is_said(answer: bytes, said: str):
    async with scripted(after_probe(answer)) as url:
        report = await measured(replace(SHORT, url=url))
    assert report.stages[0].ok > 0
    assert said in shown(report)
    assert said.replace("'", "&#x27;") in html(report)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (plain("401 Unauthorized", b'{"error":{"message":"Invalid API Key"}}'), ["401", "Invalid API Key", "--key env:NAME"]),
        (plain("301 Moved Permanently", b"", "Location: https://b.example/v1"), ["b.example", "not followed"]),
        (plain("200 OK", b"<!doctype html>"), ["HTML", "/v1"]),
        (plain("404 Not Found", b""), ["404", "--url"]),
        (plain("200 OK", b'{"data":[]}'), ["0 models"]),
        (plain("200 OK", b'{"data":[{"id":"a"},{"id":"b"}]}'), ["2 models", "a, b"]),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ["does not speak HTTP"]),
    ],
)
async def test_a_server_that_cannot_be_measured_is_told_at_once(models: bytes, words: list[str]):
    async with scripted(lambda number, body: GOOD, models) as url:
        with pytest.raises((BenchError, UsageError)) as caught:
            await measured(replace(SHORT, url=url))
    for word in words:
        assert word in str(caught.value)


async def test_nobody_there():
    with pytest.raises(BenchError, match=r"Nothing answers at http://127\.0\.0\.1:9/v1"):
        await measured(replace(SHORT, url="http://127.0.0.1:9"))


async def test_fields_that_a_server_refuses_are_left_out_and_that_is_said():
    def answer(number: int, body: dict[str, object]) -> bytes:
        return plain("400 Bad Request", b'{"error":{"message":"ignore_eos?"}}') if "ignore_eos" in body else GOOD

    async with scripted(answer) as url:
        report = await measured(replace(SHORT, url=url))
    assert report.stages[0].ok
    assert any("refuses ignore_eos" in remark for remark in report.remarks)


async def test_a_kept_connection_that_died_is_replaced():
    """The server closes after every answer without saying so: no request fails for that."""
    async with FakeEngine("http://127.0.0.1:0", tokens=4, context=1000, fault="reset-on-keepalive") as engine:
        report = await measured(replace(SHORT, url=engine.address))
    assert report.stages[0].errors == {}
    assert report.stages[0].ok > 2


async def test_the_search_ends_between_a_rate_that_keeps_the_limits_and_one_that_does_not():
    async with FakeEngine("http://127.0.0.1:0", slots=1, tokens=2, token_seconds=0.005, context=1000) as engine:
        wish = replace(SHORT, url=engine.address, loads=(Load("open", 50.0, "constant"),), find_rate=True, slo=Slo(ttft=0.2))
        report = await measured(replace(wish, output=2, requests=40, process="constant"))
    assert report.found_rate
    assert f"{len({stage.level for stage in report.stages})} trials" in report.found
    assert min(stage.level for stage in report.stages) <= report.found_rate < max(stage.level for stage in report.stages)


async def searched(engine: FakeEngine, wish: Wish, until: str = "") -> tuple[Report, list[str]]:
    """A search, stopped once it said `until`, and what it said."""
    said: list[str] = []
    stop = asyncio.Event()

    def say(text: str) -> None:
        said.append(text)
        if until and until in text:
            stop.set()

    return await measured(replace(wish, url=engine.address, find_rate=True), say, stop=stop), said


async def test_the_search_begins_near_what_a_slow_server_does():
    """Answers take three times as long as all that is measured of 8 users."""
    async with FakeEngine("http://127.0.0.1:0", slots=8, tokens=8, token_seconds=0.04, context=1000) as engine:
        wish = replace(SHORT, loads=(), duration=0.1, requests=None, slo=Slo(e2e=30.0))
        report, said = await searched(engine, wish, "kept the limits")
    first, trial, *_ = report.stages
    assert first.request_rate.value == 0
    assert first.requests > 0
    assert search.LEAST_RATE * 100 < trial.level < 8 / 0.32
    assert any("100.0 % of" in text for text in said)


async def test_a_slow_rate_is_tried_for_as_long_as_a_few_requests_take():
    async with FakeEngine("http://127.0.0.1:0", slots=8, tokens=2, token_seconds=0.001, context=1000) as engine:
        wish = replace(SHORT, loads=(Load("open", 32.0, "constant"),), process="constant", duration=0.04, requests=None)
        report, said = await searched(engine, replace(wish, slo=Slo(e2e=30.0)), "kept the limits")
    assert report.stages[0].requests == 10
    assert any("then 312ms" in text for text in said)


async def test_of_a_rate_at_which_nothing_was_due_nothing_is_said():
    async with FakeEngine("http://127.0.0.1:0", slots=8, tokens=2, token_seconds=0.001, context=1000) as engine:
        wish = replace(SHORT, loads=(Load("open", 0.01),), duration=0.01, requests=None, slo=Slo(e2e=30.0))
        report, said = await searched(engine, wish)
    assert {stage.requests for stage in report.stages} == {0}
    assert report.found_rate is None
    assert report.found.startswith("The highest rate is not known. At 0.01/s too few requests were due")
    assert "--duration" in said[-1]
    assert "No rate" not in shown(report)
    assert "No request was due" in shown(report)


async def test_where_nothing_is_answered_no_rate_is_searched():
    async with scripted(after_probe(plain("503 Service Unavailable", b""))) as url:
        wish = replace(SHORT, url=url, loads=(), find_rate=True, slo=Slo(e2e=30.0), requests=8)
        report = await measured(wish)
    (stage,) = report.stages
    assert set(stage.errors) == {"5xx"}
    assert "Nothing was answered with 8 at once" in report.found


@pytest.mark.parametrize(
    ("prompt", "output", "sent", "asked"),
    [
        (100, 4096, 92, 3996),  # the answer is cut, and the prompt is as long as it was (less what a count may be wrong by)
        (5000, 100, 3988, 100),  # the prompt is cut
        (3000, 3000, 2040, 2048),  # both: half of it each
        (100, 200, 100, 200),  # it fits
    ],
)
async def test_what_does_not_fit_the_context_is_cut_and_never_made_longer(prompt: int, output: int, sent: int, asked: int):
    bodies: list[dict[str, Any]] = []

    def answer(number: int, body: dict[str, object]) -> bytes:
        bodies.append(body)
        return GOOD

    async with scripted(answer) as url:
        one = replace(SHORT, url=url, requests=1, loads=(Load("closed", 1),))
        await measured(replace(one, context=4096, prompt=prompt, output=output))
    _, _, first, *_ = bodies
    assert len(first["messages"][0]["content"].split()) == sent
    assert first["max_tokens"] == asked


async def test_ctrl_c_keeps_what_was_measured():
    async with FakeEngine("http://127.0.0.1:0", slots=4, tokens=4, token_seconds=0.01, context=1000) as engine:

        def tick(label: str, run: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        wish = replace(SHORT, url=engine.address, loads=(Load("closed", 2), Load("closed", 4)), requests=None)
        report = await asyncio.wait_for(measured(wish, tick=tick), 20)
    assert report.interrupted
    (stage,) = report.stages
    assert stage.ok > 2
    assert stage.errors == {}
    assert "Interrupted" in shown(report)


async def test_a_report_survives_its_file():
    async with FakeEngine("http://127.0.0.1:0", tokens=4, context=1000) as engine:
        report = await measured(replace(SHORT, url=engine.address, slo=Slo(ttft=1.0)))
    again = decoded(encoded(report), "a.json")
    assert again == report
    assert rows(again)[0]["load"] == "2 at once"
    with pytest.raises(UsageError, match=r"x\.json: this is no report"):
        decoded(b"{}", "x.json")
    with pytest.raises(UsageError, match="format"):
        decoded(encoded(report).replace(b"headrace-bench/1", b"headrace-bench/9"), "x.json")
