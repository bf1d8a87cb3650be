"""Caches: what routing believes of replicas whose slots keep a prompt each is what llama.cpp does with them."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.caches import NO_SLOT, Slots
from headrace.gateway.prefixes import Prefixes, Prompt
from headrace.gateway.routing import Booked, Routing

from .test_routing import ANY, chain


class LlamaCpp:
    """`get_available_slot` of llama.cpp's server, word by word, over blocks instead of tokens."""

    def __init__(self, count: int) -> None:
        self.prompts: list[tuple[int, ...]] = [()] * count
        self.last, self.busy, self.clock = [-1] * count, [False] * count, 0

    def shared(self, slot: int, prompt: tuple[int, ...]) -> int:
        pairs = zip(self.prompts[slot], prompt, strict=False)
        return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(self.prompts[slot]), len(prompt)))

    def best(self, prompt: tuple[int, ...]) -> int:
        most = max((self.shared(slot, prompt) for slot in self.free()), default=0)
        return most if most / len(prompt) > 0.1 else 0

    def free(self) -> Iterator[int]:
        return (slot for slot, busy in enumerate(self.busy) if not busy)

    def take(self, prompt: tuple[int, ...]) -> int:
        chosen, best = None, 0.0
        for slot in self.free():
            if prompt and self.prompts[slot] and (alike := self.shared(slot, prompt) / len(prompt)) > max(best, 0.1):
                chosen, best = slot, alike
        if chosen is None:
            for slot in self.free():
                if chosen is None or self.last[slot] <= self.last[chosen]:
                    chosen = slot
        assert chosen is not None
        self.prompts[chosen], self.busy[chosen] = prompt, True
        return chosen

    def leave(self, slot: int) -> None:
        self.clock += 1
        self.busy[slot], self.last[slot] = False, self.clock


@given(st.integers(1, 5), st.integers(), st.integers(1, 60))
def test_every_request_is_believed_in_the_slot_that_llama_cpp_gives_it(count: int, seed: int, steps: int) -> None:
    rng, engine, index, running = random.Random(seed), LlamaCpp(count), Prefixes(), []
    index.resized({"r0": 64 * count}, {"r0": count})
    for _ in range(steps):
        if running and (len(running) == count or rng.random() < 0.5):
            slot = running.pop(rng.randrange(len(running)))
            engine.leave(slot)
            index.left("r0", slot)
            continue
        words = (rng.randrange(3), *(rng.randrange(2) for _ in range(rng.randrange(20))))
        prompt = chain(*words) if rng.random() < 0.9 else ()
        if prompt:
            assert index.matched("r0", prompt) == engine.best(prompt)
        taken = index.sent("r0", prompt)
        assert taken == engine.take(prompt)
        running.append(taken)
    assert len(index) == len({block for slot in engine.free() for block in engine.prompts[slot]})
    for prompt in engine.prompts:
        assert bool(index.holders(prompt)) == any(engine.shared(slot, prompt) for slot in engine.free())
    index.forget("r0")
    assert len(index) == 0


def test_a_prompt_that_is_being_answered_helps_nobody_and_one_that_was_does() -> None:
    routing = by_slot(2, slots=2)
    first = Prompt(chain(1, 2, 3, 4))
    home = routing.pick(first, routing.slots, ANY)
    assert home is not None
    booked = routing.began(home, first)
    other = routing.pick(first, routing.slots, ANY)
    assert other != home, "its slot is taken: to read the prompt again is as dear there, and more is in flight"
    assert routing.receipt
    assert routing.receipt.matched == 0
    routing.ended(home, booked)
    assert routing.pick(Prompt((*first.chain, 5)), routing.slots, ANY) == home
    assert routing.receipt
    assert routing.receipt.matched == 4


def test_who_takes_a_slot_for_its_beginning_ends_what_followed() -> None:
    routing = by_slot(2, slots=2)
    for words in ((1, 2, 3, 4), (1, 2, 9, 9)):
        routing.ended("r0", routing.began("r0", Prompt(chain(*words))))
    assert routing.prefixes.matched("r0", chain(1, 2, 3, 4)) == 2
    assert routing.prefixes.matched("r0", chain(1, 2, 9, 9)) == 4


def test_short_requests_take_slots_too() -> None:
    routing = by_slot(2, slots=1)
    routing.ended("r0", routing.began("r0", Prompt(chain(1, 2))))
    routing.ended("r0", routing.began("r0", Prompt()))
    assert routing.prefixes.matched("r0", chain(1, 2)) == 0


def test_a_single_replica_is_not_kept_account_of() -> None:
    routing = by_slot(1, slots=2)
    assert routing.began("r0", Prompt()) == Booked()


@pytest.mark.parametrize("how", ["restarted", "fewer slots", "gone"])
def test_requests_of_before_a_change_free_no_slot_of_after(how: str) -> None:
    routing = by_slot(2, slots=2)
    before = [routing.began("r0", Prompt(chain(n, n))) for n in range(2)]
    if how == "restarted":
        routing.forget("r0")
    else:
        routing.resized({"r0": 1, "r1": 2} if how == "fewer slots" else {"r1": 2})
    for booked in before:
        routing.ended("r0", booked)
    assert len(routing.prefixes) == 0


def test_more_requests_than_slots_are_known_of_take_none() -> None:
    slots = Slots(1)
    slots.most = 8
    assert slots.sent(chain(1))[0] == 0
    assert slots.sent(chain(2))[0] == NO_SLOT


def by_slot(count: int, slots: int) -> Routing:
    names = {f"r{n}": slots for n in range(count)}
    routing = Routing()
    routing.described(None, {}, names.keys())
    routing.resized(names)
    return routing
