"""Which replica gets a request: cache-aware routing beside round robin, least outstanding and affinity alone.

    python benchmarks/routing.py simulated TRACE... [--replicas 8] [--speed 1.0]   Mooncake's traces, with their prefix hashes
    python benchmarks/routing.py decisions                                         µs per decision and per KiB of prompt

`simulated` uses the production queue and routing; replicas are `headrace.simulate`'s, each with a prefix cache of its own that is
exact (LRU over blocks, `--cache` tokens), so that routing's index may be wrong about it as it may be in production.
"""

import argparse
import heapq
import json
import math
import random
import statistics
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.gateway.admission import Queue, Serve
from headrace.gateway.prefixes import BLOCK_BYTES, Prompt, chained
from headrace.gateway.routing import POLICIES, Routing
from headrace.simulate.replica import Rates, SimulatedReplica

TRACE_BLOCK = 512
"""Tokens of a block in Mooncake's traces."""
SPREAD_SECONDS = 3.0


@dataclass(frozen=True)
class Arrival:
    at: float
    prompt: int
    output: int
    chain: tuple[int, ...]


@dataclass
class Cache:
    """What a replica really has: whole blocks, the least recently used ones go."""

    blocks: int
    held: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def read(self, chain: Sequence[int]) -> int:
        """A prompt is read: returns how many of its first blocks were there."""
        hits = next((n for n, block in enumerate(chain) if block not in self.held), len(chain))
        for block in reversed(chain):
            self.held[block] = None
            self.held.move_to_end(block)
        while len(self.held) > self.blocks:
            self.held.popitem(last=False)
        return hits


def mooncake(path: Path, speed: float) -> list[Arrival]:
    """The trace, its batches spread over their 3 s as its page says; `speed` times as fast."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    batches: dict[int, list[dict]] = {}
    for row in rows:
        batches.setdefault(row["timestamp"], []).append(row)
    found = []
    for at, batch in batches.items():
        for n, row in enumerate(batch):
            when = (at / 1000 + (n * SPREAD_SECONDS / len(batch) if len(batch) > 1 else 0)) / speed
            found.append(Arrival(when, row["input_length"], max(1, row["output_length"]), _chain(row["hash_ids"])))
    return sorted(found, key=lambda one: one.at)


def skewed(count: int, rate: float, tenants: int = 150, seed: int = 1) -> list[Arrival]:
    """Tenants with 6,000 tokens of instructions each, a few of whom send most requests (Zipf, exponent 1)."""
    rng, at, found = random.Random(seed), 0.0, []
    weights = [1 / (n + 1) for n in range(tenants)]
    for n, tenant in enumerate(rng.choices(range(tenants), weights, k=count)):
        at += rng.expovariate(rate)
        chain = [tenant * 100 + k for k in range(12)] + [10**8 + n * 100 + k for k in range(2)]
        found.append(Arrival(at, len(chain) * TRACE_BLOCK, max(1, int(rng.expovariate(1 / 150))), _chain(chain)))
    return found


def _chain(ids: Sequence[int]) -> tuple[int, ...]:
    made, seed = [], 0
    for one in ids:
        seed = hash((seed, one))
        made.append(seed)
    return tuple(made)


def simulated(
    arrivals: Sequence[Arrival], policy: str, replicas: int, rates: Rates, cache_tokens: int, index_tokens: int
) -> dict[str, float]:
    """The trace through the production queue onto simulated replicas under this policy."""
    queue: Queue[int] = Queue(10**6, 1e9)
    queue.routing = Routing(policy)
    queue.prompt = lambda ticket: Prompt(arrivals[ticket].chain)
    names = [f"r{n}" for n in range(replicas)]
    there = {name: SimulatedReplica(name, rates, 0.0, 0.0) for name in names}
    caches = {name: Cache(cache_tokens // TRACE_BLOCK) for name in names}
    # As the gateway would: what the slots hold; its block is 128 tokens, the trace's 512.
    queue.routing.described(index_tokens // rates.slots // (TRACE_BLOCK // 128), {})
    queue.resized(dict.fromkeys(names, rates.slots), 0.0)
    events: list[tuple[float, int, str]] = []
    serial, now, coming, hits, blocks = 0, 0.0, 0, 0, 0
    firsts, load, since = [math.nan] * len(arrivals), dict.fromkeys(names, 0.0), 0.0

    def do(effects: Sequence) -> None:
        nonlocal serial, hits, blocks
        for effect in effects:
            assert isinstance(effect, Serve)
            one, replica = arrivals[effect.ticket], there[effect.replica]
            hit = caches[effect.replica].read(one.chain)
            hits, blocks = hits + hit, blocks + len(one.chain)
            if replica.begin(effect.ticket, max(1, one.prompt - hit * TRACE_BLOCK), one.output, now):
                serial += 1
                heapq.heappush(events, (replica.next, serial, effect.replica))

    while coming < len(arrivals) or any(queue.running.values()):
        arrival = arrivals[coming].at if coming < len(arrivals) else math.inf
        event = events[0][0] if events else math.inf
        upcoming = min(arrival, event)
        for name, busy in queue.running.items():
            load[name] += busy * (upcoming - since)
        now = since = upcoming
        if arrival <= event:
            do(queue.arrived(coming, now))
            coming += 1
            continue
        when, _, name = heapq.heappop(events)
        if when != there[name].next:
            continue
        first, done = there[name].advance(now)
        if first is not None:
            firsts[first] = now - arrivals[first].at
        if there[name].next < math.inf:
            serial += 1
            heapq.heappush(events, (there[name].next, serial, name))
        for ticket in done:
            do(queue.left(ticket, now))
    firsts.sort()
    mean = statistics.fmean(load.values())
    return {
        "hit": hits / blocks,
        "believed": queue.routing.matched / max(1, queue.routing.blocks),
        "mean": statistics.fmean(firsts),
        "p50": firsts[len(firsts) // 2],
        "p99": firsts[int(len(firsts) * 0.99)],
        "tokens_per_second": sum(one.output for one in arrivals) / now,
        "hottest": max(load.values()) / mean,
    }


def table(rows: Iterator[tuple[str, dict[str, float]]]) -> None:
    print(f"{'policy':12} {'hit':>6} {'index says':>10} {'TTFT mean':>10} {'p50':>8} {'p99':>8} {'tokens/s':>9} {'hottest':>8}")
    for name, row in rows:
        print(
            f"{name:12} {row['hit']:6.1%} {row['believed']:10.1%} {row['mean']:9.2f}s {row['p50']:7.2f}s {row['p99']:7.2f}s "
            f"{row['tokens_per_second']:9.0f} {row['hottest']:8.2f}",
            flush=True,
        )


def decisions() -> None:
    """CPU time of one decision, the best of several runs: what other programs add is not ours."""
    print(f"{'replicas':>8} {'caches':>8} {'prompt':>8} {'µs pick':>8} {'µs with booking':>16}")
    for replicas in (2, 4, 16, 32, 64, 256, 1000):
        for caches, slots in (("blocks", 64), ("slots", 8)):
            for blocks in (0, 8, 128):
                picked, whole = _timed(replicas, blocks, slots, by_slot=caches == "slots")
                kib = blocks * BLOCK_BYTES / 1024
                print(f"{replicas:8} {caches:>8} {kib:5.0f}KiB {picked:8.1f} {whole:16.1f}", flush=True)
    text = random.Random(1).randbytes(1 << 16)
    best = math.inf
    for _ in range(50):
        start = time.thread_time()
        chained(0, text)
        best = min(best, time.thread_time() - start)
    print(f"hashing: {best * 1e6 / 64:.2f} µs per KiB")


def _timed(replicas: int, blocks: int, slots: int, *, by_slot: bool) -> tuple[float, float]:
    """µs to pick a replica, and to pick one and book the request there, from its begin to its end."""
    routing, names = Routing(), [f"r{n}" for n in range(replicas)]
    routing.described(None, {}, set(names) if by_slot else set())
    routing.resized(dict.fromkeys(names, slots))
    rng = random.Random(7)
    prompts = [Prompt(_chain([rng.randrange(50), *range(blocks - 1)]) if blocks else ()) for _ in range(200)]
    picked = whole = math.inf
    for _ in range(7):
        for prompt in prompts:
            name = routing.pick(prompt, routing.slots, frozenset())
            routing.ended(name, routing.began(name, prompt))
        start = time.thread_time()
        for prompt in prompts:
            routing.pick(prompt, routing.slots, frozenset())
        picked = min(picked, time.thread_time() - start)
        start = time.thread_time()
        for prompt in prompts:
            name = routing.pick(prompt, routing.slots, frozenset())
            routing.ended(name, routing.began(name, prompt))
        whole = min(whole, time.thread_time() - start)
    return picked / 200 * 1e6, whole / 200 * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_subparsers(dest="way", required=True)
    traces = ways.add_parser("simulated")
    traces.add_argument("traces", nargs="*", type=Path)
    traces.add_argument("--replicas", type=int, default=8)
    traces.add_argument("--speed", type=float, default=1.0, help="times as fast as recorded")
    traces.add_argument("--slots", type=int, default=64)
    traces.add_argument("--cache", type=int, default=500_000, help="tokens that a replica's prefix cache holds")
    traces.add_argument("--index", type=int, help="tokens that routing believes it holds; default: the truth")
    traces.add_argument("--prefill", type=float, default=8_000, help="tokens/s")
    traces.add_argument("--policies", default="round_robin,least,work,affinity,auto")
    ways.add_parser("decisions")
    asked = parser.parse_args()
    if asked.way == "decisions":
        decisions()
    else:
        rates = Rates(asked.slots, asked.prefill, 0.02, 0.0004)
        mixes = {str(path): mooncake(path, asked.speed) for path in asked.traces}
        mixes["150 tenants, skewed"] = skewed(6_000, 1.6 * asked.replicas * asked.speed)
        for name, arrivals in mixes.items():
            print(f"\n{name}: {len(arrivals)} requests, {asked.replicas} replicas, {asked.speed:g} times as fast")
            names = asked.policies.split(",")
            table(
                (each, simulated(arrivals, each, asked.replicas, rates, asked.cache, asked.index or asked.cache))
                for each in names
                if each in POLICIES
            )


if __name__ == "__main__":
    main()
