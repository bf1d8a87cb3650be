"""Whatever gateways ask, however late or lost their letters are, together they let in no more than one would."""

from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.gateway.leases import GONE_SECONDS, Lease, Pool, Rule, Wish, granted

GATEWAYS = ("a", "b", "c")
LIMITS = {
    "refills": Rule(30, 0.5),
    "refills, few": Rule(2, 2 / 60),
    "budget": Rule(40),
    "places": Rule(4, places=True),
}


@dataclass
class World:
    """Gateways with a lease each, one pool, and letters between them that take their time or get lost."""

    rule: Rule
    now: float = 0.0
    pools: dict[str, Pool] = field(default_factory=dict)
    let_in: list[tuple[float, float]] = field(default_factory=list)
    """(when, how much) of what was let in, less what was given back."""

    def __post_init__(self) -> None:
        self.leases = {name: Lease(self.rule) for name in GATEWAYS}
        self.running: dict[str, int] = defaultdict(int)
        self.out: dict[str, Wish] = {}
        self.back: dict[str, tuple] = {}

    def request(self, name: str, amount: int) -> bool:
        lease, amount = self.leases[name], 1 if self.rule.places else amount
        lease.need = 0.0
        if lease.left < amount:
            lease.need = amount
            return False
        lease.take(amount, self.now)
        self.running[name] += 1
        self.let_in.append((self.now, amount))
        return True

    def ended(self, name: str, less: int) -> None:
        """A request is over, which took less than was estimated."""
        if self.running[name]:
            self.running[name] -= 1
            if self.rule.places:
                self.leases[name].settle(0)
            else:
                less = less if self.leases[name].spent >= less else 0
                self.leases[name].settle(-less)
                self.let_in.append((self.now, -less))

    def say(self, name: str) -> None:
        if name not in self.out and name not in self.back:  # one letter at a time, as shared_limits.py has it
            self.out[name] = self.leases[name].wish(self.running[name], 0.0, self.now)

    def arrive(self, name: str) -> None:
        if (wish := self.out.pop(name, None)) is not None:
            self.back[name] = granted(self.pools, "limit", name, wish, self.now)

    def answer(self, name: str) -> None:
        if (grant := self.back.pop(name, None)) is not None:
            self.leases[name].heard(grant, self.now)

    def lose(self, name: str) -> None:
        if self.out.pop(name, None) or self.back.pop(name, None):
            self.leases[name].lost()

    def ask(self, name: str) -> None:
        for step in (self.say, self.arrive, self.answer):
            step(name)

    def insist(self, name: str, amount: int) -> None:
        if not self.request(name, amount):
            self.ask(name)
            self.request(name, amount)

    def held_to(self) -> None:
        if self.rule.places:
            assert sum(self.running.values()) <= self.rule.capacity
            return
        taken, back = 0.0, -sum(amount for _, amount in self.let_in if amount < 0)
        for since, amount in reversed(self.let_in):  # every window that ends now
            taken += amount
            passed = self.now - since
            # What requests gave back before may be taken again, however late it was.
            assert taken <= self.rule.capacity + passed * self.rule.per_second + back + 1e-6, f"{taken} let in within {passed} s"
            back += min(0.0, amount)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insist"] * 3 + ["request", "ended", "say", "say", "arrive", "answer", "answer", "ask", "lose", "wait"]),
        st.sampled_from(GATEWAYS),
        st.integers(1, 6),
        st.floats(0, 3),
    ),
    min_size=30,
    max_size=120,
)


@pytest.mark.parametrize("limit", LIMITS)
@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_together_they_let_in_no_more_than_one_would(limit: str, steps: list) -> None:
    world = World(LIMITS[limit])
    for what, name, amount, passes in steps:
        if what == "wait":
            world.now += min(passes, GONE_SECONDS / 4)
            for each in GATEWAYS:  # whoever is heard is not gone
                world.ask(each)
        elif what in ("insist", "request", "ended"):
            getattr(world, what)(name, amount)
        else:
            world.now += passes / 100
            getattr(world, what)(name)
        if what in ("insist", "request"):
            world.held_to()


@pytest.mark.parametrize("limit", LIMITS)
def test_what_others_do_not_use_one_can_have_to_the_end(limit: str) -> None:
    world, rule = World(LIMITS[limit]), LIMITS[limit]
    for name in GATEWAYS:  # all have been used, and hold something
        world.request(name, 1) or world.ask(name)
        world.request(name, 1)
    for _ in range(1000):
        if not world.request("a", 1):
            world.ask("a")
        if len(world.let_in) >= rule.capacity:
            break
        world.now += 0.002
        if not round(world.now, 3) % 0.5:
            world.ask("b")
            world.ask("c")
    assert len(world.let_in) >= rule.capacity
    assert world.leases["b"].left == world.leases["c"].left == 0


def test_steady_traffic_does_not_wait_for_answers() -> None:
    world, waited = World(Rule(6000, 100.0)), 0
    for tick in range(3000):  # 3 gateways, 30 requests a second each, a look twice a second
        world.now += 1 / 90
        name = GATEWAYS[tick % 3]
        if not world.request(name, 1):
            waited += 1
            world.ask(name)
            assert world.request(name, 1)
        if tick % 45 == 0:
            for each in GATEWAYS:
                world.ask(each)
    assert waited < 30, "of 3000: until their pace was known"


def test_what_a_gateway_held_that_ended_is_had_again_when_it_comes_back_by_itself() -> None:
    pools: dict[str, Pool] = {}
    assert granted(pools, "x", "a", Wish(LIMITS["places"], 0, 0, 4, 0), 0.0).added == 4
    assert granted(pools, "x", "b", Wish(LIMITS["places"], 0, 0, 1, 0), GONE_SECONDS).added == 0
    assert granted(pools, "x", "b", Wish(LIMITS["places"], 0, 0, 1, 0), GONE_SECONDS + 0.1).added == 1
    granted(pools, "y", "a", Wish(LIMITS["budget"], 0, 0, 40, 0), 0.0)
    assert granted(pools, "y", "b", Wish(LIMITS["budget"], 0, 0, 1, 0), GONE_SECONDS + 0.1).added == 0, "it may have been spent"


def test_a_budget_that_the_pool_forgot_begins_where_it_was_known_to_be() -> None:
    pools: dict[str, Pool] = {}
    assert granted(pools, "x", "a", Wish(LIMITS["budget"], 10, 0, 30, 0, before=32), 0.0) == (8, 0, 32)
    assert granted(pools, "x", "b", Wish(LIMITS["budget"], 5, 0, 1, 0, before=32), 0.0).used == 37, "what it took meanwhile"
