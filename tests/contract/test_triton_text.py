"""Text from the real tritonserver: a GGUF behind Triton's `generate`, as the vLLM backend answers it."""

import http.client
import json
import os
import signal
import threading
import time

import pytest
from triton_process import INSTALL, Runner, at_once, interpreter

from headrace.engines.triton import ENGINE

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.skipif(interpreter() is None, reason=f"no environment with Triton: {INSTALL}; HEADRACE_TRITON=FOLDER"),
]


@pytest.fixture(scope="module")
def text(weights):
    """A text model of two slots."""
    runner = Runner.started(interpreter(), "gguf", weights("generate")).ready()
    yield runner
    runner.close()


def prompt(tokens: int, **more) -> dict:
    sampling = {"max_tokens": tokens, "seed": 1, "temperature": 0, **more.pop("sampling", {})}
    return {
        "text_input": "Once upon a time",
        "sampling_parameters": json.dumps(sampling),
        "exclude_input_in_output": True,
        **more,
    }


def events(text: str) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


COUNTS = {"return_finish_reason": True, "return_num_input_tokens": True, "return_num_output_tokens": True}


def test_text_streams_token_by_token_and_says_what_it_took(text):
    status, body = text.request("POST", "/v2/models/m/generate_stream", prompt(6, stream=True, **COUNTS))
    found = events(body)
    assert status == 200
    assert len(found) == 7
    last = found[-1]
    assert (last["finish_reason"], last["num_input_tokens"], last["num_output_tokens"]) == ("length", 4, 6)
    assert {event["finish_reason"] for event in found[:-1]} == {"None"}
    _, whole = text.request("POST", "/v2/models/m/generate", prompt(6))
    assert whole["text_output"] == "".join(event["text_output"] for event in found)


def test_the_prompt_is_given_back_unless_it_is_excluded(text):
    """As Triton's vLLM backend does it."""
    _, answer = text.request("POST", "/v2/models/m/generate", prompt(2, exclude_input_in_output=False))
    assert answer["text_output"].startswith("Once upon a time")


def test_sampling_comes_as_json_or_as_parameters_of_the_request(text):
    _, one = text.request("POST", "/v2/models/m/generate", prompt(3))
    body = {"text_input": "Once upon a time", "exclude_input_in_output": True, "max_tokens": 3, "temperature": 0, "seed": 1}
    assert text.request("POST", "/v2/models/m/generate", body)[1]["text_output"] == one["text_output"]


def test_a_stop_string_stops(text):
    _, whole = text.request("POST", "/v2/models/m/generate", prompt(12))
    word = whole["text_output"].split()[3]
    _, cut = text.request("POST", "/v2/models/m/generate", prompt(12, sampling={"stop": [word]}, **COUNTS))
    assert word not in cut["text_output"]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (prompt(4) | {"sampling_parameters": "nothing"}, "sampling_parameters is not a JSON object"),
        (prompt(4) | {"sampling_parameters": "[1]"}, "sampling_parameters is not a JSON object"),
        (prompt(4) | {"text_input": "word " * 1000}, "exceeds the available context size"),
        (prompt(4, stream=True) | {"exclude_input_in_output": False}, "a stream cannot give the input back"),
    ],
)
def test_text_that_cannot_be_is_an_error(text, body, cause):
    status, answer = text.request("POST", "/v2/models/m/generate", body)
    assert status >= 400
    assert cause in answer["error"]


def reading(runner):
    return ENGINE.read(runner.request("GET", "/metrics", port=runner.port + 2)[1], "m")


def opened(runner, body) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", runner.port, timeout=60)
    connection.request("POST", "/v2/models/m/generate_stream", json.dumps(body))
    return connection


def test_what_waits_is_counted_although_triton_does_not_and_whoever_leaves_frees_a_slot(text):
    """Triton's own count of pending requests is 0 for models that answer later: llama.cpp's page is read."""
    before = reading(text)
    streams = [opened(text, prompt(200, stream=True, sampling={"seed": n})) for n in range(3)]
    text.until(lambda: (reading(text).running, reading(text).waiting) == (2, 1), "two that run and one that waits")
    for stream in streams:
        stream.close()
    left = time.monotonic()
    text.until(lambda: (reading(text).running, reading(text).waiting) == (0, 0), "nothing that runs")
    assert time.monotonic() - left < 10, "they were computed to their end"
    assert reading(text).tokens_in_total >= before.tokens_in_total


def test_many_short_ones_at_once_do_not_crash_it(text):
    """tritonserver 2.51 does crash within seconds of this where models set metrics of their own."""
    for _ in range(4):
        answers = at_once(*[lambda: text.request("POST", "/v2/models/m/generate_stream", prompt(3, stream=True, **COUNTS))] * 16)
        assert [events(body)[-1]["num_output_tokens"] for _, body in answers] == [3] * 16


def test_more_than_may_wait_are_refused(weights):
    runner = Runner.started(interpreter(), "gguf", weights("generate"), slots=1, queue=1).ready()
    answers = at_once(*[lambda: runner.request("POST", "/v2/models/m/generate", prompt(60))] * 6)
    assert {status for status, _ in answers} == {200, 400}  # `generate` answers every error of a model with 400
    assert all(answer["error"] == "Exceeds maximum queue size" for status, answer in answers if status == 400)
    runner.close()


def test_sigterm_finishes_streams(weights):
    runner = Runner.started(interpreter(), "gguf", weights("generate"), slots=4).ready()
    bodies = []
    threads = [
        threading.Thread(
            target=lambda: bodies.append(
                runner.request("POST", "/v2/models/m/generate_stream", prompt(60, stream=True, return_finish_reason=True))[1]
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    runner.until(lambda: reading(runner).waiting == 4, "a queue")
    os.killpg(runner.process.pid, signal.SIGTERM)  # as Headrace does: models' processes get it too
    assert runner.ended(270)[0] == 0
    for thread in threads:
        thread.join()
    assert [events(body)[-1]["finish_reason"] for body in bodies] == ["length"] * 8
    runner.close()
