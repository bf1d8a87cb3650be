"""Remembering heads changes nothing: whatever is sent, split anywhere, is read as if every head were new."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.gateway.http import Request, RequestHead
from headrace.gateway.openai import Refusal
from headrace.gateway.reading import HeadMemo, Reader

from .test_http import cut

LIMIT = 100


def judge(head: RequestHead) -> Refusal | None:
    return Refusal(405, "no", "method_not_allowed") if head.method == "PUT" else None


def read(memo: HeadMemo, pieces: list[bytes]) -> list[object]:
    """Everything that is read up to a request that ends the connection, and what the connection was told meanwhile."""
    seen: list[object] = []
    reader = Reader(memo, judge, LIMIT, lambda: seen.append("continue"))
    for piece in pieces:
        reader.feed(piece)
        while reader.ready:
            each = reader.ready.popleft()
            seen.append((each.status, each.code) if isinstance(each, Refusal) else shown(each))
            if isinstance(each, Request) and not each.head.keep_alive:
                return [*seen, "end"]
    return [*seen, reader.phase]


def shown(request: Request) -> object:
    """All of a request but its Content-Length, which the body has told."""
    head = request.head
    headers = [field for field in head.headers if field[0] != b"content-length"]
    return head.method, head.target, headers, head.http10, head.keep_alive, head.lines_for_engine(), request.body


def fresh(pieces: list[bytes]) -> list[object]:
    return read(HeadMemo(), pieces)


fields = st.lists(
    st.sampled_from(
        [
            b"Host: localhost",
            b"Host: other",
            b"X-A: content-length: 5",
            b"X-A: 1",
            b"Connection: close",
            b"Connection: keep-alive, X-A",
            b"Expect: 100-continue",
            b"Content-Encoding: gzip",
            b"Transfer-Encoding: chunked",
            b"Upgrade: h2c\r\nConnection: Upgrade",
            b"Content-Length: 5",
        ]
    ),
    max_size=3,
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A request from a small world, so that heads come again; sometimes illegal, sometimes with another length than its body."""
    body = draw(st.sampled_from([b"", b"hello", b"hello world", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"x" * (LIMIT + 1)]))
    name = draw(st.sampled_from([b"Content-Length: ", b"content-length:", b"Content-Length:  "]))
    method = draw(st.sampled_from([b"POST", b"POST", b"PUT"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    length = len(body) + draw(st.sampled_from([0, 0, 0, 1, -1]))
    lines = [b"Host: localhost", *draw(fields), name + b"%d" % max(0, length)]
    return method + b" /v1 HTTP/" + version + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body


@settings(max_examples=300)
@given(st.lists(messages(), min_size=1, max_size=6), st.data())
def test_a_remembered_head_reads_as_a_new_one(requests, data):
    """One memo for all connections, against a new one for each."""
    memo = HeadMemo()
    for request in requests * 2:
        pieces = data.draw(st.sampled_from([[request], cut(request, [len(request) // 2]), [request + requests[0]]]))
        assert read(memo, pieces) == fresh(pieces)


@settings(max_examples=300)
@given(st.lists(messages(), min_size=1, max_size=4), st.lists(st.integers(0, 2000), max_size=6))
def test_one_connection_reads_the_same_however_it_is_split(requests, places):
    memo = HeadMemo()
    whole = b"".join(requests)
    for request in requests:
        read(memo, [request])
    split, at_once = read(memo, cut(whole, places)), fresh([whole])
    assert split.count("continue") >= at_once.count("continue")  # what came with the requests before it needs no leave
    assert _without_continue(split) == _without_continue(at_once)


def _without_continue(seen: list[object]) -> list[object]:
    """The requests and refusals; leave to send a body is given when its head is read, whatever was popped by then."""
    return [each for each in seen[:-1] if each != "continue"]


CHAT = b"POST /v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (CHAT % (5, b"hello"), CHAT % (LIMIT + 1, b"x" * (LIMIT + 1))),  # the limit of bodies holds for known heads as well
        (CHAT % (5, b"hello"), CHAT % (5, b"hello") + b"GET"),  # more than the request
        (CHAT % (5, b"hello"), CHAT % (6, b"hello")),  # less than the request
        (CHAT % (5, b"hello"), CHAT.replace(b"%d", b"+%d") % (5, b"hello")),  # a length that is no number
        (CHAT % (5, b"hello"), CHAT.replace(b"%d", b"") % b"hello"),  # no length at all
        (CHAT % (5, b"hello"), CHAT.replace(b": %d", b": %d\r\nContent-Length: 5") % (5, b"hello")),  # two of them
        (CHAT % (5, b"hello"), b"\r\n" + CHAT % (5, b"hello")),  # an empty line in front
        (CHAT % (0, b""), CHAT % (24, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[:24])),  # a body that looks like a request
    ],
)
def test_a_head_that_is_nearly_known_is_judged_anew(first, second):
    memo = HeadMemo()
    read(memo, [first])
    assert read(memo, [second]) == fresh([second])


def test_heads_are_remembered_without_bound_in_number_of_requests_but_not_in_memory():
    memo = HeadMemo()
    for number in range(3000):
        read(memo, [b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % number])
    assert len(memo._heads) <= 1024
