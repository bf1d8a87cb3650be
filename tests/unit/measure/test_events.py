"""Streams of every engine, whole and torn anywhere: what is content, how it ended, what usage says."""

from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.measure.events import Events, TooLong, error_in, whole

RECORDED = Path(__file__).parents[2] / "contract" / "recorded"


def stream(name: str) -> bytes:
    """A recorded stream, without the head that some begin with."""
    text = (RECORDED / name).read_bytes()
    return text[text.index(b"data:") :]


def fed(pieces: list[bytes]) -> Events:
    found = Events(array("d"))
    for at, piece in enumerate(pieces):
        found.feed(piece, float(at))
    found.close()
    return found


def content(*texts: str) -> bytes:
    return b"".join(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode() for text in texts)


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":5}}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(("name", "least"), [("llamacpp_sse.txt", 2), ("vllm_sse.txt", 5), ("openvino_sse.txt", 5)])
def test_recorded_streams_are_understood(name: str, least: int) -> None:
    text = stream(name)
    found = fed([text])
    assert len(found.stamps) >= least
    assert found.done
    assert not found.error
    assert found.tokens_in
    assert found.tokens_out


@given(cuts=st.lists(st.integers(1, 3000), max_size=40))
def test_a_stream_torn_anywhere_says_the_same(cuts: list[int]) -> None:
    text = stream("llamacpp_sse.txt")
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    found, plain = fed([text[start:end] for start, end in zip([0, *ends], ends, strict=False)]), fed([text])
    assert (len(found.stamps), found.tokens_out, found.finish, found.done) == (
        len(plain.stamps),
        plain.tokens_out,
        plain.finish,
        plain.done,
    )


@pytest.mark.parametrize(
    ("event", "events"),
    [
        (b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n', 0),  # vLLM's first event
        (b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n', 0),  # llama.cpp's
        (b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', 1),  # with spaces
        (b'data:{"choices":[{"text":"a"}]}\r\n\r\n', 1),  # completions, other line ends, no space
        (b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n', 1),  # thinking is output as well
        (b'data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}]}\n\n', 1),  # so are tools' arguments
        (b'data: {"choices":[{"delta":{"x":"\\"content\\":\\"no\\""}}]}\n\n', 0),  # a text that talks of content
        (b": waiting\n\n", 0),  # a comment that keeps the connection
        (content("a", "b", "c"), 3),  # three in one read
    ],
)
def test_what_counts_as_content(event: bytes, events: int) -> None:
    assert len(fed([event]).stamps) == events
    assert len(fed([content("first"), event]).stamps) == events + 1  # and after the spelling was learned


def test_usage_finish_and_cached_tokens_are_read() -> None:
    last = b'data: {"choices":[{"delta":{"content":"c"},"finish_reason":"length"}]}\n\n'
    found = fed([content("a"), content("b"), last, USAGE, DONE])
    assert (found.tokens_in, found.tokens_out, found.cached, found.finish, found.done) == (7, 3, 5, "length", True)
    assert list(found.stamps) == [0.0, 1.0, 2.0]


def test_usage_in_the_last_content_is_read() -> None:
    usage = b'"usage":{"prompt_tokens":2,"completion_tokens":1}'
    assert fed([content("b"), b'data: {"choices":[{"delta":{"content":"a"}}],%s}\n\n' % usage]).tokens_out == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"Model is overloaded","code":503}}', "Model is overloaded"),
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', "Model is overloaded"),  # TGI
        (b'{"error":null}', ""),
        (b"not json", ""),
        (b"[]", ""),
    ],
)
def test_errors_of_many_shapes(body: bytes, message: str) -> None:
    assert error_in(body) == message
    assert fed([b"data: " + body + b"\n\n"]).error == message


def test_an_event_without_end_is_given_up() -> None:
    found = Events(array("d"))
    found.feed(b"x" * (4 << 20), 0.0)
    with pytest.raises(TooLong):
        found.feed(b"x", 0.0)


def test_an_answer_in_one_piece() -> None:
    found = whole(
        b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":4}}'
    )
    assert found
    assert (found.tokens_out, found.finish) == (4, "stop")
    assert whole(b"<html></html>") is None
    assert whole(b'{"status":"ok"}') is None
