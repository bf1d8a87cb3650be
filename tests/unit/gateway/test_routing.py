"""Routing: prompts go where their beginnings are, nobody is overloaded for it, and what is gone is forgotten."""

import json
import math
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.admission import Queue, Serve
from headrace.gateway.openai import Ask
from headrace.gateway.prefixes import BLOCK_BYTES, LEAST_KEPT, MOST_BLOCKS, MOST_KEPT, Prefixes, Prompt, chain_of, kept
from headrace.gateway.routing import BOUND, FEW, POLICIES, SCORERS, Booked, Routing

ANY: frozenset[str] = frozenset()


def ask(content: str = "", model: str = "chat", **fields: Any) -> Ask:
    messages = [{"role": "user", "content": content}]
    body = json.dumps({"model": model, "messages": messages} | fields).encode()
    return Ask(model, False, 1, msgspec.json.decode(body, type=dict[str, msgspec.Raw]), True)


def chain(*words: int) -> tuple[int, ...]:
    made, seed = [], 0
    for word in words:
        seed = hash((seed, word))
        made.append(seed)
    return tuple(made)


def fleet(count: int, slots: int = 8, policy: str = "auto") -> Routing:
    routing = Routing(policy)
    routing.resized({f"r{n}": slots for n in range(count)})
    return routing


def send(routing: Routing, prompt: Prompt, avoid: frozenset[str] = ANY) -> str:
    replica = routing.pick(prompt, routing.slots, avoid)
    assert replica is not None
    routing.began(replica, prompt)
    return replica


# ---- prompts as chains


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("a" * 2000, "a" * 2000, 3),
        ("a" * 2000, "a" * 1400 + "b" * 600, 2),  # a prefix, however alike the rest is
        ("b" + "a" * 1999, "a" * 2000, 0),
        ("a" * 100, "a" * 100, 0),  # shorter than a block: nothing to look for
    ],
)
def test_chains_share_what_their_beginnings_share(first: str, second: str, shared: int) -> None:
    one, other = chain_of(ask(first)), chain_of(ask(second))
    assert sum(a == b for a, b in zip(one, other, strict=False)) == shared
    assert one[:shared] == other[:shared]


@pytest.mark.parametrize("field", ["tools", "system", "instructions"])
def test_what_an_engine_reads_first_is_a_part_of_every_block(field: str) -> None:
    plain, other = ask("a" * 2000), ask("a" * 2000, **{field: [{"name": "x"}]})
    assert not set(chain_of(plain)) & set(chain_of(other))


def test_an_adapter_has_a_cache_of_its_own() -> None:
    assert not set(chain_of(ask("a" * 2000))) & set(chain_of(ask("a" * 2000, model="chat-lora")))


def test_a_conversation_that_goes_on_begins_as_before() -> None:
    start = [{"role": "system", "content": "s" * 1500}, {"role": "user", "content": "u" * 900}]
    more = [*start, {"role": "assistant", "content": "an answer"}, {"role": "user", "content": "u" * 900}]
    before, after = chain_of(ask(messages=start)), chain_of(ask(messages=more))
    assert after[: len(before)] == before


def test_of_a_very_long_prompt_only_so_much_is_looked_at() -> None:
    assert len(chain_of(ask("a" * (MOST_BLOCKS + 10) * BLOCK_BYTES))) == MOST_BLOCKS


@pytest.mark.parametrize("fields", [{}, {"messages": 3}, {"messages": None}, {"prompt": [1, 2]}, {"messages": "é" * 900}])
def test_any_fields_have_a_chain(fields: dict[str, Any]) -> None:
    body = json.dumps(fields).encode()
    assert isinstance(chain_of(Ask("m", False, 1, msgspec.json.decode(body, type=dict[str, msgspec.Raw]), True)), tuple)


# ---- the index


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 2), min_size=1, max_size=9)), max_size=60))
def test_the_index_is_bounded_and_only_holds_whole_beginnings(sent: list[tuple[str, list[int]]]) -> None:
    index, room = Prefixes(), {"a": 5, "b": 12}
    index.resized(room)
    for replica, words in sent:
        made = chain(*words)
        index.sent(replica, made)
        matched = index.matched(replica, made)
        assert matched == (min(len(made), room[replica]) if replica in room else 0), (
            "what was sent last is there, as far as it fits"
        )
        assert len(index) <= sum(room.values())
        for name in index.holders(made):
            assert index.matched(name, made) > 0
    index.resized({})
    assert len(index) == 0
    assert not index.holders(chain(0))


def test_a_replica_keeps_as_much_as_its_slots_hold() -> None:
    assert kept(4, 4096) == 128
    assert kept(1, 1) == LEAST_KEPT
    assert kept(512, 1_000_000) == MOST_KEPT


# ---- choosing


@given(st.lists(st.integers(0, 4), min_size=1, max_size=120), st.integers(2, 40))
def test_nobody_has_more_than_the_bound_of_the_mean(tenants: list[int], replicas: int) -> None:
    """However skewed: with every request in flight, and all slots free enough."""
    routing = fleet(replicas, slots=200)
    for sent, tenant in enumerate(tenants):
        send(routing, Prompt(chain(tenant, *range(6))))
        assert max(routing.running.values()) <= max(1, math.ceil(BOUND * (sent + 1) / replicas)) or replicas > FEW
    assert sum(routing.running.values()) == len(tenants)


def test_a_skewed_mix_leaves_no_replica_above_the_bound() -> None:
    rng = random.Random(3)
    routing, flying = fleet(4, slots=64), []
    loads: Counter[str] = Counter()
    for _ in range(4000):
        prompt = Prompt(chain(min(int(rng.expovariate(0.8)), 20), *range(8)))
        replica = routing.pick(prompt, routing.slots, ANY)
        assert replica is not None
        flying.append((replica, routing.began(replica, prompt)))
        if len(flying) > 60:
            routing.ended(*flying.pop(rng.randrange(len(flying))))
        loads.update(routing.running)
    assert max(loads.values()) <= BOUND * sum(loads.values()) / 4
    assert routing.matched / routing.blocks > 0.9


def test_conversations_stay_where_their_cache_is() -> None:
    routing = fleet(4)
    for turn in range(1, 8):
        for talk in range(8):
            prompt = Prompt(chain(talk, *range(turn)))
            replica = routing.pick(prompt, routing.slots, ANY)
            assert replica is not None
            assert turn == 1 or routing.receipt
            assert turn == 1 or (routing.receipt and routing.receipt.matched == turn), "all but what is new"
            routing.ended(replica, routing.began(replica, prompt))


def test_without_a_prompt_it_goes_by_outstanding_work_then_by_turns() -> None:
    routing = fleet(3)
    assert [send(routing, Prompt()) for _ in range(6)] == ["r0", "r1", "r2"] * 2
    assert routing.receipt is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("replicas", [1, 3, FEW + 1, 200])
def test_every_slot_is_used_before_a_request_waits_and_none_twice(policy: str, replicas: int) -> None:
    routing = fleet(replicas, slots=2, policy=policy)
    taken = [send(routing, Prompt(chain(1, *range(5)))) for _ in range(replicas * 2)]
    assert set(Counter(taken).values()) == {2}
    assert routing.is_full
    assert routing.pick(Prompt(chain(1)), routing.slots, ANY) is None
    routing.ended(taken[0], Booked())
    assert routing.pick(Prompt(chain(1)), routing.slots, ANY) == taken[0], "also where the prompt is unknown"


@pytest.mark.parametrize("replicas", [4, 200])
def test_the_same_events_lead_to_the_same_choices(replicas: int) -> None:
    def choices() -> list[str]:
        routing = fleet(replicas)
        return [send(routing, Prompt(chain(n % 7, *range(n % 5)))) for n in range(replicas * 4)]

    assert choices() == choices()


def test_of_many_replicas_the_one_with_the_cache_is_found() -> None:
    routing = fleet(1000)
    prompt = Prompt(chain(*range(40)))
    home = send(routing, prompt)
    routing.ended(home, Booked())
    for _ in range(50):
        assert send(routing, Prompt((*prompt.chain, 7))) == home
        routing.ended(home, Booked())


def test_many_short_requests_are_spread_over_many_replicas() -> None:
    routing = fleet(200, slots=64)
    for _ in range(2000):
        send(routing, Prompt())
    assert max(routing.running.values()) <= 16, "two choices of 200: a few above the mean of 10"


def test_what_failed_a_request_is_its_last_choice() -> None:
    routing, prompt = fleet(2), Prompt(chain(1, 2, 3))
    home = send(routing, prompt)
    other = ({"r0", "r1"} - {home}).pop()
    assert routing.pick(prompt, routing.slots, frozenset({home})) == other
    assert routing.pick(prompt, routing.slots, frozenset({home, other})) is not None


@pytest.mark.parametrize("gone", ["restarted", "away"])
def test_what_a_replica_had_is_forgotten_with_it(gone: str) -> None:
    routing, prompt = fleet(3), Prompt(chain(1, 2, 3))
    home = send(routing, prompt)
    routing.ended(home, Booked())
    if gone == "restarted":
        routing.forget(home)
    else:
        routing.resized({name: 8 for name in routing.slots if name != home})
        routing.resized(dict.fromkeys(("r0", "r1", "r2"), 8))
    routing.pick(prompt, routing.slots, ANY)
    assert routing.receipt
    assert routing.receipt.matched == 0
    assert len(routing.prefixes) == 0


def test_an_adapter_goes_where_it_is() -> None:
    routing = Routing()
    routing.described(None, {"r0": frozenset(), "r1": frozenset({"law"}), "r2": frozenset()})
    routing.resized(dict.fromkeys(("r0", "r1", "r2"), 4))
    assert [send(routing, Prompt((), "law")) for _ in range(4)] == ["r1"] * 4
    assert routing.pick(Prompt((), "law"), routing.slots, ANY) is None, "it waits: the others do not know the name"


def test_who_waits_for_an_adapter_does_not_hold_up_others() -> None:
    queue: Queue[str] = Queue(10, 60.0)
    queue.prompt = lambda ticket: Prompt((), "law" if ticket.startswith("law") else "")
    queue.routing.described(None, {"r0": frozenset(), "r1": frozenset({"law"})})
    queue.resized({"r0": 1, "r1": 1}, 0.0)
    assert queue.arrived("law 1", 0.0) == [Serve("law 1", "r1")]
    assert queue.arrived("law 2", 0.0) == []
    assert queue.arrived("plain", 0.0) == [Serve("plain", "r0")]
    assert queue.left("law 1", 1.0) == [Serve("law 2", "r1")]


def test_one_replica_needs_no_look_at_prompts() -> None:
    queue: Queue[int] = Queue(10, 60.0)
    queue.prompt = lambda ticket: pytest.fail("it was read")
    queue.resized({"only": 2, "drains": 0}, 0.0)
    assert [effect.ticket for number in range(3) for effect in queue.arrived(number, 0.0)] == [0, 1]


def test_a_prompt_is_read_once_however_long_it_waits() -> None:
    read: list[int] = []
    queue: Queue[int] = Queue(10, 60.0)
    queue.prompt = lambda ticket: read.append(ticket) or Prompt(chain(ticket))  # type: ignore[func-returns-value]
    queue.resized({"r0": 1, "r1": 1}, 0.0)
    for number in range(5):
        queue.arrived(number, 0.0)
    for number in range(5):
        queue.left(number, 1.0)
    assert read == [0, 1, 2, 3, 4]


def test_every_policy_is_made_of_scorers() -> None:
    assert all(name in SCORERS for names in POLICIES.values() for name in names)


# ---- through the gateway


def question(text: str, *lines: bytes) -> bytes:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": text}]}).encode()
    head = [b"POST /v1/chat/completions HTTP/1.1", b"Host: localhost", b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def test_a_client_that_asks_is_told_where_its_prompt_went_and_why(world):
    for name in ("chat-1", "chat-2"):
        await world.engine(name=name)
    silent = await world.ask(question("a" * 3000))
    assert not [name for name in silent.headers if name.startswith("x-headrace-")]
    told = (await world.ask(question("a" * 3000 + "b" * 600, b"x-headrace-explain: 1"))).headers
    assert told["x-headrace-replica"] == "chat-1"
    assert told["x-headrace-matched"] == "5/7"
    assert float(told["x-headrace-score"]) == 2
    page = (await world.ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")).body.decode()
    assert 'headrace_prompt_blocks_total{model="chat"} 12.0' in page
    assert 'headrace_prompt_blocks_matched_total{model="chat"} 5.0' in page


async def test_a_short_prompt_has_a_replica_and_no_score(world):
    await world.engine()
    told = (await world.ask(question("hi", b"X-Headrace-Explain: yes"))).headers
    assert told["x-headrace-replica"] == "chat-1"
    assert "x-headrace-score" not in told
