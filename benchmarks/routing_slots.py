"""Routing policies before simulated llama.cpp replicas, in a closed loop of conversations: the same every time, on any machine.

    python benchmarks/routing_slots.py [--replicas 4] [--slots 4] [--users 16] [--tenants 6] [--seeds 8]

The production queue and routing; replicas are `headrace.simulate`'s, each with slots that keep one prompt each and are chosen as
llama.cpp's server does it; they read what those do not have. Users ask four questions in a conversation under one of the tenants'
system prompts (Zipf), and think in between. `auto-blocks` is `auto` that takes slots for blocks which all prompts share.
`hottest` is the time-averaged load of the busiest replica over the mean: of all runs the mean and the worst.
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
from dataclasses import dataclass

from headrace.gateway.admission import Effect, Queue, Serve
from headrace.gateway.prefixes import BLOCK_BYTES, Prompt
from headrace.gateway.routing import Routing
from headrace.simulate.replica import Rates, SimulatedReplica

BLOCK_TOKENS = BLOCK_BYTES // 4
ALIKE = 0.1
"""llama.cpp's `--slot-prompt-similarity`: the share of a prompt that a slot must have to be chosen for it."""
TURNS, SYSTEM, TURN, ANSWER = 4, 3, 1, 16
"""Questions of a conversation; blocks of a system prompt and of a question with its answer; tokens of an answer."""
LEAST_READ = 8
"""Tokens that are read of any prompt."""

Chain = tuple[int, ...]


class Slots:
    """What a llama.cpp server has in its slots (`get_available_slot` in tools/server)."""

    def __init__(self, count: int) -> None:
        self.prompts: list[Chain] = [()] * count
        self.last, self.busy, self.clock = [-1] * count, [False] * count, 0

    def take(self, prompt: Chain) -> tuple[int, int]:
        """The slot, and how many of the prompt's blocks it has already."""
        free = [slot for slot, busy in enumerate(self.busy) if not busy]
        shared = {slot: _shared(self.prompts[slot], prompt) for slot in free}
        best = max(free, key=lambda slot: (shared[slot], -slot))
        if shared[best] <= ALIKE * len(prompt):
            best = min(free, key=lambda slot: (self.last[slot], -slot))
        self.prompts[best], self.busy[best] = prompt, True
        return best, shared[best]

    def leave(self, slot: int) -> None:
        self.clock += 1
        self.busy[slot], self.last[slot] = False, self.clock


def _shared(one: Chain, other: Chain) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass
class Talk:
    """A user's conversation."""

    tenant: int
    number: int
    turn: int = 0

    @property
    def prompt(self) -> Chain:
        made, seed = [], 0
        words = [(-1 - self.tenant, n) for n in range(SYSTEM)] + [(self.number, n) for n in range((self.turn + 1) * TURN)]
        for word in words:
            seed = hash((seed, word))
            made.append(seed)
        return tuple(made)


class World:
    """One run: users, queue, replicas."""

    def __init__(self, policy: str, asked: argparse.Namespace, seed: int) -> None:
        policy, blocks, _ = policy.partition("-blocks")
        rng = random.Random(seed)
        names = [f"r{n}" for n in range(asked.replicas)]
        rates = Rates(asked.slots, asked.prefill, 0.03, 0.006)
        self.replicas = {name: SimulatedReplica(name, rates, 0.0, 0.0) for name in names}
        self.slots = {name: Slots(asked.slots) for name in names}
        self.queue: Queue[int] = Queue(10**6, 1e9)
        self.queue.routing = Routing(policy)
        self.queue.prompt = lambda ticket: Prompt(self.prompts[ticket])
        self.queue.routing.described(asked.context, {}, frozenset() if blocks else frozenset(names))
        self.queue.resized(dict.fromkeys(names, asked.slots), 0.0)
        weights = [1 / (n + 1) ** asked.skew for n in range(asked.tenants)]
        count = asked.conversations * asked.users
        self.todo = iter([Talk(tenant, n) for n, tenant in enumerate(rng.choices(range(asked.tenants), weights, k=count))])
        self.pauses, self.think = random.Random(seed + 1), asked.think
        self.talks: dict[int, Talk] = {}
        self.prompts: dict[int, Chain] = {}
        self.users: dict[int, int] = {}  # by ticket
        self.arrived: dict[int, float] = {}
        self.places: dict[int, tuple[str, int]] = {}
        self.events: list[tuple[float, int, str | int]] = []  # when, a number, the replica that has one or the user who asks
        self.numbers = itertools.count()
        self.load, self.firsts, self.now = dict.fromkeys(names, 0.0), list[float](), 0.0
        self.hits = self.blocks = 0

    def run(self, users: int) -> dict[str, float]:
        for user in range(users):
            self._begin(user, user * 0.3)
        while self.events:
            when, _, who = heapq.heappop(self.events)
            if isinstance(who, str) and when != self.replicas[who].next:
                continue
            for name, busy in self.queue.running.items():
                self.load[name] += busy * (when - self.now)
            self.now = when
            if isinstance(who, str):
                self._happened(who)
            else:
                self._ask(who)
        firsts, routing = sorted(self.firsts), self.queue.routing
        return {
            "mean": statistics.fmean(firsts),
            "p50": firsts[len(firsts) // 2],
            "p99": firsts[int(len(firsts) * 0.99)],
            "tokens": len(firsts) * ANSWER / self.now,
            "hits": self.hits / self.blocks,
            "believed": routing.matched / max(1, routing.blocks),
            "hottest": max(self.load.values()) / statistics.fmean(self.load.values()),
        }

    def _at(self, when: float, who: str | int) -> None:
        if when < math.inf:
            heapq.heappush(self.events, (when, next(self.numbers), who))

    def _begin(self, user: int, when: float) -> None:
        if talk := next(self.todo, None):
            self.talks[user] = talk
            self._at(when, user)

    def _ask(self, user: int) -> None:
        ticket = len(self.arrived)
        self.users[ticket], self.arrived[ticket], self.prompts[ticket] = user, self.now, self.talks[user].prompt
        self._do(self.queue.arrived(ticket, self.now))

    def _do(self, effects: list[Effect[int]]) -> None:
        for effect in effects:
            assert isinstance(effect, Serve)
            prompt, replica = self.prompts[effect.ticket], self.replicas[effect.replica]
            slot, hits = self.slots[effect.replica].take(prompt)
            self.places[effect.ticket] = effect.replica, slot
            self.hits, self.blocks = self.hits + hits, self.blocks + len(prompt)
            if replica.begin(effect.ticket, max(LEAST_READ, (len(prompt) - hits) * BLOCK_TOKENS), ANSWER, self.now):
                self._at(replica.next, effect.replica)

    def _happened(self, name: str) -> None:
        first, done = self.replicas[name].advance(self.now)
        if first is not None:
            self.firsts.append(self.now - self.arrived[first])
        self._at(self.replicas[name].next, name)
        for ticket in done:
            replica, slot = self.places[ticket]
            self.slots[replica].leave(slot)
            self._do(self.queue.left(ticket, self.now))
            user = self.users[ticket]
            self.talks[user].turn += 1
            when = self.now + self.pauses.expovariate(1 / self.think)
            if self.talks[user].turn < TURNS:
                self._at(when, user)
            else:
                self._begin(user, when)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", default="round_robin,least,auto-blocks,auto")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--slots", type=int, default=4, help="of each")
    parser.add_argument("--context", type=int, default=2048, help="tokens of a slot")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--tenants", type=int, default=6)
    parser.add_argument("--skew", type=float, default=1.0, help="exponent of Zipf's law over the tenants")
    parser.add_argument("--conversations", type=int, default=10, help="of each user")
    parser.add_argument("--think", type=float, default=2.0, help="mean seconds before a question")
    parser.add_argument("--prefill", type=float, default=150.0, help="prompt tokens/s of a replica")
    parser.add_argument("--seeds", type=int, default=8)
    asked = parser.parse_args()
    print(f"{'policy':12} {'TTFT mean':>9} {'p50':>7} {'p99':>7} {'tokens/s':>8} {'cached':>7} {'believed':>8} {'hottest':>12}")
    for policy in asked.policies.split(","):
        runs = [World(policy, asked, seed).run(asked.users) for seed in range(asked.seeds)]
        mean = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
        print(
            f"{policy:12} {mean['mean']:8.2f}s {mean['p50']:6.2f}s {mean['p99']:6.2f}s {mean['tokens']:8.1f} {mean['hits']:7.1%} "
            f"{mean['believed']:8.1%} {mean['hottest']:6.2f} {max(run['hottest'] for run in runs):5.2f}"
        )


if __name__ == "__main__":
    main()
