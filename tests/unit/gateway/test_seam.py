"""What can be continued at another replica, what is asked of it, and how what was given is read."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.openai import peek
from headrace.gateway.paths import ROUTES
from headrace.gateway.seam import Seam
from headrace.gateway.sofar import SoFar, gave_up, is_text

from .clients import asking
from .engines import chunk
from .test_resume import ABORT, TEXT, TOLD, answer


def seam_of(path, **more):
    ask = peek(
        ROUTES[path], json.dumps({"model": "m", "stream": True, "messages": [{"role": "user"}], "prompt": "P"} | more).encode()
    )
    so_far = SoFar()
    so_far.read(b'data: {"choices":[{"index":0,"text":"a"}]}\n\n' * 6, chunked=False)
    return Seam(so_far, ask, "it broke", chat=path == "/v1/chat/completions")


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"max_tokens": 100}, {"max_tokens": 94}),
        ({"max_tokens": 100.0}, {"max_tokens": 94}),  # engines take it for 100
        ({"max_tokens": 1e2, "min_tokens": 8}, {"max_tokens": 94, "min_tokens": 2}),
        ({}, {"max_tokens": 10}),  # of 16, the default of completions
        ({"max_tokens": None}, {"max_tokens": None}),  # as it was asked: the engine's own limit
        ({"n_predict": -1}, {"n_predict": -1}),
    ],
)
def test_what_is_left_of_the_limits_is_asked_for(asked, sent):
    seam = seam_of("/v1/completions", **asked)
    assert seam.can("final_message")
    body = json.loads(seam.body("m", "final_message"))
    assert {name: body[name] for name in ("max_tokens", "min_tokens", "n_predict") if name in body} == sent


@pytest.mark.parametrize("limit", [100.5, "100", True, [100]])
def test_a_limit_that_cannot_be_read_cannot_be_counted(limit):
    assert not seam_of("/v1/completions", max_tokens=limit).can("final_message")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, True),
        ({"logprobs": None}, True),
        ({"logprobs": False}, True),
        ({"top_logprobs": 0}, True),
        ({"n_probs": 0}, True),
        ({"logprobs": 0}, False),  # that of the token itself, with offsets from the text's beginning
        ({"prompt_logprobs": 0}, False),
    ],
)
def test_nothing_is_what_asks_for_nothing(asked, text):
    route = ROUTES["/v1/completions"]
    assert is_text(peek(route, json.dumps({"model": "m", "prompt": "P", "stream": True} | asked).encode()), route) is text


STREAMED = b": ping\n\n" + b"".join(b"event: x\n" + each for each in answer(json.loads(asking(stream_options=TOLD))))
LINES = [STREAMED, STREAMED.replace(b"\n", b"\r\n")]


def in_chunks(stream, edges):
    """What is read of `stream`, each piece between `edges` a chunk of its own."""
    so_far = SoFar()
    so_far.read(b"".join(chunk(stream[at:end]) for at, end in pairwise([0, *sorted(edges), len(stream)])), chunked=True)
    return so_far.text, so_far.finish, so_far.done, so_far.intact


@pytest.mark.parametrize("stream", LINES, ids=["lf", "crlf"])
def test_the_text_is_whole_wherever_a_chunk_ends(stream):
    """Also within `data:`, whose first letters could be the size of a chunk and whose last one the start of a comment."""
    wrong = [at for at in range(1, len(stream)) if in_chunks(stream, {at}) != (TEXT, "stop", True, True)]
    assert not wrong


@given(st.sampled_from(LINES), st.data())
def test_the_text_is_whole_wherever_chunks_end(stream, data):
    fields = [match.start() + at for match in re.finditer(b"data:", stream) for at in range(1, 6)]
    edges = data.draw(st.sets(st.integers(1, len(stream) - 1) | st.sampled_from(fields), max_size=8))
    assert in_chunks(stream, edges) == (TEXT, "stop", True, True)


@pytest.mark.parametrize(
    ("event", "aborted"),
    [
        (ABORT, True),
        (b'data: {"choices":[{"finish_reason" : "abort"}]}', True),
        (b'data: {"choices":[{"delta":{"content":"abort"},"finish_reason":null}]}', False),
        (b'data: {"choices":[{"text":"\\"finish_reason\\":\\"abort\\"","finish_reason":"stop"}]}', False),  # the text says it
    ],
)
def test_only_the_engine_gives_up(event, aborted):
    assert gave_up(event) is aborted
