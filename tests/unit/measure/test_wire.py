"""One connection, fed bytes torn anywhere: the same outcome as in one piece."""

import asyncio
from array import array
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.measure.base import Outcome
from headrace.measure.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = [
    b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n',
    *(b'data: {"choices":[{"delta":{"content":"w%d\\r\\n0"}}]}\n\n' % number for number in range(6)),
    b": waiting\n\n",
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":6}}\n\n',
    b"data: [DONE]\n\n",
]


class Transport:
    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        """Nobody is there."""

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


async def told(pieces: list[bytes]) -> tuple[Outcome, Wire]:
    wire = Wire(lambda released: None)
    wire.connection_made(Transport())  # type: ignore[arg-type]
    outcome = Outcome(0.0, 0.0, 6, array("d"))
    done = wire.ask(b"", outcome)
    for piece in pieces:
        wire.data_received(piece)
    if not done.done():
        wire.connection_lost(None)
    await done
    return outcome, wire


def seen(outcome: Outcome) -> tuple[object, ...]:
    return outcome.kind, len(outcome.stamps), outcome.output_tokens, outcome.finish, outcome.done


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(1, 2000), max_size=30), zeros=st.booleans(), together=st.booleans())
def test_an_answer_torn_anywhere_is_the_same(cuts: list[int], zeros: bool, together: bool) -> None:
    """Chunk sizes with leading zeros, and several events in one chunk, are legal as well."""
    parts = [b"".join(EVENTS[:4]), *EVENTS[4:]] if together else EVENTS
    size = b"%08x\r\n%s\r\n" if zeros else b"%x\r\n%s\r\n"
    raw = HEAD + b"".join(size % (len(part), part) for part in parts) + b"0\r\n\r\n"
    ends = sorted({min(cut, len(raw)) for cut in cuts} | {len(raw)})
    outcome, wire = asyncio.run(told([raw[start:end] for start, end in zip([0, *ends], ends, strict=False)]))
    assert seen(outcome) == ("ok", 6, 6, "length", True)
    assert not wire.closed  # it can carry the next request


def test_each_event_in_a_packet_of_its_own() -> None:
    """The quick way, which nearly all events go."""
    outcome, _ = asyncio.run(told([HEAD, *(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS), b"0\r\n\r\n"]))
    assert seen(outcome) == ("ok", 6, 6, "length", True)


def test_a_connection_that_ends_early_breaks_its_answer_and_an_extra_byte_is_not_kept() -> None:
    outcome, _ = asyncio.run(told([HEAD, b"%x\r\n%s\r\n" % (len(EVENTS[1]), EVENTS[1])]))
    assert (outcome.kind, len(outcome.stamps)) == ("broken", 1)
    _, wire = asyncio.run(told([HEAD, b"%x\r\n%s\r\n0\r\n\r\nHTTP" % (len(EVENTS[-1]), EVENTS[-1])]))
    assert wire.closed


async def test_what_is_looked_at_later_has_the_time_at_which_it_came() -> None:
    wire = Wire(lambda released: None)
    wire.connection_made(Transport())  # type: ignore[arg-type]
    outcome = Outcome(0.0, 0.0, 6, array("d"))
    done = wire.ask(b"", outcome)
    wire.data_received(HEAD)
    around: list[tuple[float, float]] = []
    for event in EVENTS[1:7]:
        before = monotonic()
        wire.data_received(b"%x\r\n%s\r\n" % (len(event), event))
        around.append((before, monotonic()))
    wire.settle()
    assert len(outcome.stamps) == 6
    assert all(before <= stamp <= after for stamp, (before, after) in zip(outcome.stamps, around, strict=True))
    wire.data_received(b"%x\r\n%s\r\n" % (len(EVENTS[1]), EVENTS[1]))
    wire.give_up("unfinished", "The bench ended.")
    await done
    assert (outcome.kind, len(outcome.stamps)) == ("unfinished", 7), "what came before it was given up counts"


async def test_bytes_that_nobody_asked_for_end_the_connection_at_once() -> None:
    _, wire = await told([HEAD, *(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS), b"0\r\n\r\n"])
    assert not wire.closed
    wire.data_received(b"%x\r\n%s\r\n" % (len(EVENTS[1]), EVENTS[1]))
    assert wire.closed
