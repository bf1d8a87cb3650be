"""Shares are exact, conversations stay where they began, and the trial's failures go back to where it came from."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.admission import Queue, Serve
from headrace.gateway.openai import Ask
from headrace.gateway.split import Trial, opened
from headrace.traffic import Split

NEW = frozenset({"chat-2"})
SLOTS = {"chat-1": 2, "chat-2": 2}


class Request:
    """What the trial looks at of an exchange."""

    def __init__(self, ask: Ask, tried: frozenset[str] = frozenset()) -> None:
        self.ask, self.tried = ask, tried


def ask(*contents: str, **fields: Any) -> Ask:
    """A chat whose messages alternate between user and assistant."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]
    body = json.dumps({"model": "chat", "messages": messages, **fields}).encode()
    return Ask("chat", False, 1, msgspec.json.decode(body, type=dict[str, msgspec.Raw]), True)


@given(st.floats(0.0, 1.0), st.integers(1, 500))
def test_shares_are_exact_however_alike_requests_are(share: float, count: int) -> None:
    trial = Trial(Split(NEW, share))
    dealt = sum(trial.deal(ask("the same")) for _ in range(count))
    assert abs(dealt - share * count) <= 1


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30, unique=True))
def test_a_conversation_stays_where_it_began(openings: list[str]) -> None:
    trial = Trial(Split(NEW, 0.5))
    first = [trial.deal(ask(text)) for text in openings]
    trial.split = Split(NEW, 0.75)
    assert [trial.deal(ask(text, "an answer", "and then?")) for text in openings] == first


@pytest.mark.parametrize(("share", "side"), [(0.0, False), (1.0, True)])
def test_none_and_all_need_no_dealing(share: float, side: bool) -> None:
    trial = Trial(Split(NEW, share))
    assert [trial.deal(ask(str(n), "answer", "more")) for n in range(50)] == [side] * 50


def test_a_user_of_the_client_tells_equal_openings_apart() -> None:
    assert opened(ask("hello", user="a")) != opened(ask("hello", user="b"))
    assert opened(ask("hello")) == opened(ask("hello"))


@pytest.mark.parametrize("messages", ["no list", [1, 2], {}, [], [{"role": 1}]])
def test_what_is_no_conversation_is_dealt_too(messages: Any) -> None:
    assert Trial(Split(NEW, 0.5)).deal(ask(messages=messages)) in (True, False)


def test_whoever_the_trial_failed_goes_back() -> None:
    trial = Trial(Split(NEW, 1.0))
    fresh, failed = Request(ask("a")), Request(ask("a"), tried=NEW)
    trial.enter(fresh)  # type: ignore[arg-type]
    trial.enter(failed)  # type: ignore[arg-type]
    assert trial.slots(fresh, SLOTS) == {"chat-2": 2}  # type: ignore[arg-type]
    assert trial.slots(failed, SLOTS) == {"chat-1": 2}  # type: ignore[arg-type]
    assert trial.slots(fresh, {"chat-1": 2}) == {"chat-1": 2}, "no replica of its side is left"  # type: ignore[arg-type]


def test_who_waits_for_one_side_does_not_hold_up_the_other() -> None:
    queue: Queue[str] = Queue(10, 60.0)
    queue.among = lambda ticket, slots: {name: n for name, n in slots.items() if name.endswith(ticket[0])}
    queue.resized({"chat-1": 1, "chat-2": 1}, 0.0)
    assert queue.arrived("1a", 0.0) == [Serve("1a", "chat-1")]
    assert queue.arrived("1b", 0.0) == []
    assert queue.arrived("2a", 0.0) == [Serve("2a", "chat-2")], "1b waits for chat-1"
    assert queue.arrived("2b", 0.0) == []
    assert queue.left("2a", 1.0) == [Serve("2b", "chat-2")]
    assert queue.left("1a", 1.0) == [Serve("1b", "chat-1")]
