"""Models that take turns in a memory that holds a part of them: swaps and waiting times of our ledger and of others' ways.

    python benchmarks/turns.py [--requests N] [--seed N] [--patience SECONDS] [--no-bound]

Pure simulation: `headrace.control.turns` as it serves, against a strict FIFO (each request in the order of arrival, as llama-swap
does), against queues per model with eviction of the least recently used as soon as it is idle (as Ollama does), and against who
knows the trace: `knows` is a schedule that swaps as late as it can and waits no longer than ours (p99), `bound` a number of swaps
below which no schedule with our p99 can be, and `bound-fifo` the same with FIFO's p99, or 60 s (`gateway.queue.wait`) where that
is less (turns_bound.py). Eight models, two of which fit; a load takes 4 s, an answer 1 s, a replica has 4 slots. Requests that
wait are never refused here.
"""

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from turns_bound import fewest_swaps, knows

from headrace.control.accounts import RAM
from headrace.control.claims import Claim
from headrace.control.turns import Rules, grants

MODELS, FIT, LOAD_SECONDS, ANSWER_SECONDS, SLOTS = 8, 2, 4.0, 1.0, 4
LOOK_SECONDS = 0.1
RATE_SECONDS = 60.0
"""Time constant of the arrival rate, as the policy keeps it (scaling/ours.py)."""
QUEUE_WAIT = 60.0
WAITS = (5, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 35, 40)
"""Seconds of waiting for which who knows the trace makes a schedule each: the one with fewest swaps counts."""


@dataclass
class Model:
    name: str
    waiting: deque[float] = field(default_factory=deque)
    running: int = 0
    up: bool = False
    ready: bool = False
    leaving: bool = False
    since: float = 0.0
    used: float = 0.0
    left: float = 0.0
    arrivals: int = 0
    _rate: float = 0.0
    _counted: float = 0.0

    def came(self, now: float) -> None:
        """A request."""
        self.waiting.append(now)
        self.arrivals += 1
        self._rate, self._counted = self.rate(now) + 1 / RATE_SECONDS, now

    def rate(self, now: float) -> float:
        """Requests a second, about: a running mean that begins at zero."""
        return self._rate * math.exp((self._counted - now) / RATE_SECONDS)


class World:
    """Time, models and what is measured; a policy says after each event who shall be in memory."""

    def __init__(self, policy: Callable[["World"], None]) -> None:
        self.models = {f"m{n}": Model(f"m{n}") for n in range(MODELS)}
        self.order: deque[tuple[float, str]] = deque()  # all requests that wait, for the strict FIFO
        self.now, self.swaps, self.waits = 0.0, 0, [0.0][:0]
        self._policy, self._events = policy, [(0.0, 0, "", "")][:0]
        self._serial = 0

    def run(self, arrivals: Iterator[tuple[float, str]]) -> None:
        upcoming = next(arrivals, None)
        while upcoming or self._events or any(model.waiting for model in self.models.values()):
            if upcoming and (not self._events or upcoming[0] <= self._events[0][0]):
                self.now, name = upcoming
                self.models[name].came(self.now)
                self.order.append((self.now, name))
                upcoming = next(arrivals, None)
            elif self._events:
                self.now, _, what, name = heapq.heappop(self._events)
                self._happened(what, name)
            self._policy(self)
            if not self._events and not upcoming and any(model.waiting for model in self.models.values()):
                self.later(LOOK_SECONDS, "look", "")

    def later(self, seconds: float, what: str, name: str) -> None:
        self._serial += 1
        heapq.heappush(self._events, (self.now + seconds, self._serial, what, name))

    def looks(self) -> None:
        """Look again soon, once."""
        if not any(what == "look" for _, _, what, _ in self._events):
            self.later(LOOK_SECONDS, "look", "")

    def _happened(self, what: str, name: str) -> None:
        if what == "look":
            return
        model = self.models[name]
        if what == "loaded":
            model.ready, model.since = True, self.now
        elif what == "answered":
            model.running -= 1
            model.used = self.now
            if model.leaving and not model.running:
                model.leaving = False

    def load(self, model: Model) -> None:
        assert self.free > 0, "overcommitted"
        model.up, model.since = True, self.now
        self.swaps += 1
        self.later(LOAD_SECONDS, "loaded", model.name)

    def unload(self, model: Model) -> None:
        model.up = model.ready = False
        model.left = self.now
        model.leaving = model.running > 0

    @property
    def free(self) -> int:
        return FIT - sum(model.up or model.leaving for model in self.models.values())

    def serve(self, model: Model) -> None:
        since = model.waiting.popleft()
        self.waits.append(self.now - since)
        model.running += 1
        self.later(ANSWER_SECONDS, "answered", model.name)

    def serve_all(self) -> None:
        for model in self.models.values():
            while model.ready and model.waiting and model.running < SLOTS:
                self.serve(model)
                model.used = self.now


def fifo(world: World) -> None:
    """In the order of arrival: nobody overtakes; the least recently used model that is idle goes."""
    while world.order:
        _, name = world.order[0]
        model = world.models[name]
        if model.ready and model.running < SLOTS:
            world.order.popleft()
            model.used = world.now
            world.serve(model)
            continue
        if not model.up and not model.leaving:
            idle = [each for each in world.models.values() if each.ready and not each.running]
            if world.free <= 0 and idle:
                world.unload(min(idle, key=lambda each: each.used))
            if world.free > 0:
                world.load(model)
        return


def recent(world: World) -> None:
    """Queues by model; whoever waits longest gets the place of the least recently used one as soon as that is idle."""
    world.serve_all()
    asleep = [model for model in world.models.values() if model.waiting and not model.up and not model.leaving]
    for model in sorted(asleep, key=lambda each: each.waiting[0]):
        idle = [each for each in world.models.values() if each.ready and not each.running and not each.waiting]
        if world.free <= 0 and idle:
            world.unload(min(idle, key=lambda each: each.used))
        if world.free > 0:
            world.load(model)


def ours(rules: Rules) -> Callable[[World], None]:
    """The ledger."""

    def policy(world: World) -> None:
        world.serve_all()
        found = grants([_claim(model, world.now) for model in world.models.values()], {RAM: FIT}, world.now, rules)
        for name, count in found.counts.items():
            model = world.models[name]
            if model.up and not count:
                world.unload(model)
            elif count and not model.up:
                world.load(model)
        if found.blocked:
            world.looks()

    return policy


def _claim(model: Model, now: float) -> Claim:
    used = bool(model.waiting or model.running)
    return Claim(
        model.name,
        1,
        wanted=int(used or model.up),
        up=int(model.up),
        ready=int(model.ready),
        leaving=int(model.leaving),
        waiting=len(model.waiting),
        running=model.running,
        oldest=max(model.waiting[0], model.left) if model.waiting else None,
        since=model.since,
        used=now if used else model.used,
        rate=model.rate(now),
        reload_seconds=LOAD_SECONDS,
    )


def adversarial(requests: int, rate: float, seed: int) -> Iterator[tuple[float, str]]:
    """Each request for another model than the one before: the worst for whoever serves in order."""
    dice, now = random.Random(seed), 0.0
    for number in range(requests):
        now += dice.expovariate(rate)
        yield now, f"m{number % MODELS}"


def zipf(requests: int, rate: float, seed: int) -> Iterator[tuple[float, str]]:
    """A few models get most: the n-th most wanted 1/n of the first's."""
    dice, now = random.Random(seed), 0.0
    weights = [1 / (n + 1) for n in range(MODELS)]
    for _ in range(requests):
        now += dice.expovariate(rate)
        yield now, f"m{dice.choices(range(MODELS), weights)[0]}"


def bursts(requests: int, rate: float, seed: int) -> Iterator[tuple[float, str]]:
    """Zipf in bursts: agents that ask eight times within 10 s, for two models in turn."""
    dice, now, out = random.Random(seed), 0.0, []
    weights = [1 / (n + 1) for n in range(MODELS)]
    for _ in range(requests // 8):
        now += dice.expovariate(rate / 8)
        pair = dice.choices(range(MODELS), weights, k=2)
        out += [(now + dice.uniform(0, 10), f"m{pair[n % 2]}") for n in range(8)]
    return iter(sorted(out))


MIXES = {"adversarial": adversarial, "zipf": zipf, "bursts": bursts}


def at(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def simulated(policy: Callable[[World], None], arrivals: list[tuple[float, str]]) -> World:
    """The world after all of them were served."""
    world = World(policy)
    world.run(iter(arrivals))
    assert len(world.waits) == len(arrivals), "every request was served"
    return world


def clairvoyant(arrivals: list[tuple[float, str]], p99: float) -> World | None:
    """The schedule with fewest swaps that knows the trace and waits no longer than `p99` at the 99th percentile."""
    tried = [simulated(knows(arrivals, wait, LOAD_SECONDS, ANSWER_SECONDS), arrivals) for wait in WAITS if wait <= p99]
    return min((world for world in tried if at(world.waits, 0.99) <= p99), key=lambda world: world.swaps, default=None)


def rows(arrivals: list[tuple[float, str]], rules: Rules, bound: bool) -> Iterator[tuple[str, float, list[float], float]]:
    """(way, swaps, waits, the 99th percentile of waiting that a bound is for)."""
    fifo_world, ours_world = simulated(fifo, arrivals), simulated(ours(rules), arrivals)
    for way, world in (("fifo", fifo_world), ("recent", simulated(recent, arrivals)), ("ours", ours_world)):
        yield way, world.swaps, world.waits, 0.0
    if bound:
        limit = at(ours_world.waits, 0.99)
        known = clairvoyant(arrivals, limit)
        if known is not None:
            yield "knows", known.swaps, known.waits, 0.0
        yield "bound", fewest_swaps(arrivals, limit, FIT, LOAD_SECONDS), [], limit
        limit = min(QUEUE_WAIT, at(fifo_world.waits, 0.99))
        yield "bound-fifo", fewest_swaps(arrivals, limit, FIT, LOAD_SECONDS), [], limit


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=500)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--no-bound", action="store_true")
    for name in ("patience_seconds", "stay", "rest", "gather", "hold"):
        options.add_argument(f"--{name.partition('_')[0]}", type=float, default=getattr(Rules(), name))
    given = options.parse_args()
    rules = Rules(given.patience, given.stay, given.rest, given.gather, given.hold)
    print(f"{given.requests} requests, seed {given.seed}, {MODELS} models, {FIT} fit; {rules}")
    print(f"{'mix':12} {'a second':>8}  {'way':10} {'swaps':>6} {'of FIFO':>8} {'mean s':>8} {'p99 s':>8} {'max s':>8}")
    for mix, arrivals in MIXES.items():
        for rate in (0.1, 0.2, 0.4, 0.8, 1.6):
            base = 0.0
            for way, swaps, waits, limit in rows(list(arrivals(given.requests, rate, given.seed)), rules, not given.no_bound):
                base = base or swaps
                row = f"{mix:12} {rate:8}  {way:10} {swaps:6.0f} {swaps / base:8.2f} "
                if waits:
                    print(f"{row}{sum(waits) / len(waits):8.1f} {at(waits, 0.99):8.1f} {max(waits):8.1f}", flush=True)
                else:
                    print(f"{row}{'':8} {limit:8.1f}", flush=True)


if __name__ == "__main__":
    main()
