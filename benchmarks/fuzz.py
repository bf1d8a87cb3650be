"""Fuzz the gateway: mutated heads, framings, bodies, pipelines and splits, against the real protocols without sockets.

    python benchmarks/fuzz.py [--requests 1000000] [--processes 2] [--seed 1]

Exits with 1 at the first wrong thing: an exception, a connection that hangs, an answer that is not legal or belongs to
another request, a request that reaches an engine otherwise than h11 reads it in the client's bytes, or something left behind.
It prints how to repeat that connection alone. README.md tells what is fuzzed.
"""

import argparse
import asyncio
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fuzz_tools.broken import BREAKS
from fuzz_tools.inprocess import Engines, Loop, Pipe, Wrong
from fuzz_tools.judging import answers, same_body, same_requests, seen_by_h11
from fuzz_tools.making import Made, Maker, split

from headrace.engines import llamacpp
from headrace.gateway.accounts import Key
from headrace.gateway.admin import Admin
from headrace.gateway.gateway import Gateway, Limits
from headrace.gateway.http import Request
from headrace.gateway.keys import Keys
from headrace.gateway.wire import Client
from headrace.traffic import Endpoint, ModelStatus

KEY = b"sk-fuzz-0123456789"
FAULTS = 0.03
"""Of the engines' answers, that are wrong."""
GROUP = 200
"""Connections between two looks at what was left behind."""
GROWTH_BYTES = 24 << 20
"""Memory may grow by so much after the first tenth: caches fill."""


class View:
    """No replicas are shown."""

    plan, replicas, decisions, scaled, wanted = None, (), (), {}, {}

    def logs(self, replica: str, lines: int) -> list[str]:
        return []


class Watched(Gateway):
    """Remembers which requests each connection's reader took."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.handled: dict[Client, list[Request]] = {}

    def handle(self, client: Client, request: Request) -> None:
        self.handled.setdefault(client, []).append(request)
        super().handle(client, request)


@dataclass
class Connection:
    """One fuzzed connection: what it sends, and what it got."""

    made: list[Made]
    pieces: list[bytes]
    client: Client
    pipe: Pipe
    got: bytearray
    leaves: bool = False
    """The client is gone before it has sent everything."""
    sent: bytearray = field(default_factory=bytearray)


class World:
    """A gateway with engines of every kind, in this process."""

    def __init__(self, loop: Loop, faults: float) -> None:
        self.loop, self.complaints = loop, []
        loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        loop.engines = self.engines = Engines(loop, Random(0), faults)
        models = (("chat", "generate"), ("folded", "generate"), ("vectors", "embed"), ("plain", None), ("tensors", "infer"))
        statuses = [ModelStatus(name, task, "ready") for name, task in models]
        admin = Admin(View(), {"gpt-4o": "chat"}, View())
        self.gateway = admin.gateway = Watched(Limits(64, 30.0, 1 << 20), statuses, {"gpt-4o": "chat"}, admin.app)
        continues = llamacpp.ENGINE.continues
        self.gateway.update(
            statuses,
            [
                *(Endpoint(f"chat-{n}", "chat", f"http://127.0.0.1:{n}", 4, "there", continues=continues) for n in (1, 2)),
                Endpoint("folded-1", "folded", "http://127.0.0.1:3", 4, "folded", folds=True, continues=continues),
                Endpoint("vectors-1", "vectors", "http://127.0.0.1:4", 4, "vectors"),
                Endpoint("plain-1", "plain", "http://127.0.0.1:5", 4, "plain", speaks="http"),
                Endpoint("tensors-1", "tensors", "http://127.0.0.1:6", 4, "tensors", speaks="v2"),
            ],
        )
        self.keys = Keys([Key("fuzz", hashlib.sha256(KEY).digest())])
        self.counts: Counter[str] = Counter()

    # ---- one round: some connections at once

    async def round(self, seed: int, index: int, faults: float) -> int:
        """Fuzz some connections at once; returns how many requests they sent. Raises Wrong."""
        draw = Random(f"{seed}:{index}")
        self.engines.draw, self.engines.faults = draw, faults if draw.random() < 0.3 else 0.0
        self.gateway.keys = self.keys if draw.random() < 0.5 else None
        connections = [self._connection(draw) for _ in range(draw.choice((1, 1, 4)))]
        while any(each.pieces for each in connections):
            for each in connections:
                await self._send(each, draw)
        for each in connections:
            each.pipe.reads_on()
        await self.loop.quiet()
        for each in connections:
            await self._judge(each, draw)
        self._forget(connections)
        return sum(len(each.made) for each in connections)

    def _connection(self, draw: Random) -> Connection:
        made = Maker(draw).requests()
        if self.gateway.keys is not None:
            made = [Made(_with_key(each.data), each.legal) for each in made]
        together = draw.random() < 0.6
        pieces = split(b"".join(each.data for each in made), draw) if together else [each.data for each in made if each.data]
        got, client = bytearray(), Client(self.gateway)
        pipe = Pipe(self.loop, got.extend, lambda: None)
        pipe.protocol, pipe.slow = client, draw.random() < 0.1
        client.connection_made(pipe)
        leaves = draw.random() < 0.1
        return Connection(made, pieces[: draw.randrange(len(pieces) + 1)] if leaves else pieces, client, pipe, got, leaves)

    async def _send(self, each: Connection, draw: Random) -> None:
        if each.pieces:
            piece = each.pieces.pop(0)
            each.sent += piece
            each.pipe.deliver(piece)
            if each.leaves and not each.pieces:
                each.pipe.leave()
            elif draw.random() < 0.5:
                await asyncio.sleep(0)

    # ---- what must be true then

    async def _judge(self, each: Connection, draw: Random) -> None:
        client, closed = each.client, each.pipe.closing or each.pipe.ended
        handled = self.gateway.handled.get(client, [])
        taken = [(request.head.method.encode(), request.head.target, request.body) for request in handled]
        seen = seen_by_h11(bytes(each.sent))
        same_requests(taken, seen)
        if self.complaints:
            raise Wrong(f"an exception: {self.complaints[0]}")
        if each.leaves:
            each.pipe.leave()
            return
        if not closed and (client._work is not None or client._reader.ready or client._backlog):
            raise Wrong("it hangs: nothing happens any more, and the answer is not complete")
        refused = client._reader.refused_head
        methods = [request.head.method for request in handled] + ([refused.method] if refused is not None else [])
        found, whole = answers(bytes(each.got), methods, closed=closed)
        if not whole and not (closed and self.engines.faults):
            raise Wrong(f"half an answer: {bytes(each.got)[-300:]!r}")
        if len(found) < len(taken) and not closed:
            raise Wrong(f"{len(taken)} requests, {len(found)} answers")
        self._own(found, handled)
        self._legal(each, found, closed)
        self.counts.update(f"{one.status}" for one in found)
        if not closed and client.idle:
            if seen.then == "more":
                raise Wrong("the gateway waits for a new request, h11 for the rest of one")
            await self._good(each.client, each.pipe, each.got, draw)
        else:
            self.counts["closed or incomplete"] += 1
        each.pipe.leave()
        if draw.random() < 0.2:
            await self._fresh(draw)

    def _own(self, found: list[Any], handled: list[Request]) -> None:
        """Each answer of an engine is the answer to the request in its place."""
        for one, request in zip(found, handled, strict=False):
            number = _number(one.body) or (int(one.fields[b"x-number"]) if b"x-number" in one.fields else 0)
            if not number or one.status != 200:
                continue
            _, request_id, body = self.engines.asked[number]
            if one.fields[b"x-request-id"] != request_id:
                raise Wrong(f"another request's answer: {one}")
            first = next(sent for _, its_id, sent in self.engines.asked.values() if its_id == request_id)
            route = request.head.route
            translated = route is not None and (route.kind in ("messages", "responses", "form") or self.engines.faults)
            if not translated and not same_body(request.body, first):
                raise Wrong(f"the engine got {body!r} for {request.body!r}")
            self.counts["forwarded and compared"] += 1

    def _legal(self, each: Connection, found: list[Any], closed: bool) -> None:
        """Legal requests are all answered, up to one that closes the connection."""
        if all(made.legal for made in each.made) and not self.engines.faults and len(found) < len(each.made) and not closed:
            raise Wrong(f"{len(each.made)} legal requests, {len(found)} answers")

    async def _good(self, client: Client, pipe: Pipe, got: bytearray, draw: Random) -> None:
        """A good request on the same connection gets its own answer."""
        faults, self.engines.faults = self.engines.faults, 0.0
        got.clear()
        body = b'{"model":"chat","messages":[{"role":"user","content":"%x"}]}' % draw.getrandbits(64)
        data = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        data = _with_key(data) if self.gateway.keys is not None else data
        before = self.engines.number
        for piece in split(data, draw):
            pipe.deliver(piece)
        await self.loop.quiet()
        found, whole = answers(bytes(got), ["POST"], closed=False)
        if not whole or len(found) != 1 or found[0].status != 200 or _number(found[0].body) != before + 1:
            raise Wrong(f"a good request on the same connection was answered {bytes(got)!r}")
        if not same_body(body, self.engines.asked[before + 1][2]):
            raise Wrong("a good request reached the engine as another")
        self.engines.faults = faults
        self.counts["good requests behind"] += 1

    async def _fresh(self, draw: Random) -> None:
        """A good request on a new connection."""
        got, client = bytearray(), Client(self.gateway)
        pipe = Pipe(self.loop, got.extend, lambda: None)
        pipe.protocol = client
        client.connection_made(pipe)
        await self._good(client, pipe, got, draw)
        pipe.leave()

    def _forget(self, connections: list[Connection]) -> None:
        self.gateway.handled.clear()
        self.engines.asked.clear()

    async def nothing_left(self) -> None:
        """Slots, requests, bytes, connections: all accounted for. Raises Wrong."""
        await self.loop.quiet()
        self.gateway.finished()  # as control asks for them
        if self.gateway.clients:
            raise Wrong(f"{len(self.gateway.clients)} connections are left")
        for name, model in self.gateway.models.items():
            left = (sum(model.queue.running.values()), len(model.queue), len(model.exchanges), model.held_bytes)
            if any(left):
                raise Wrong(f"{name}: running, waiting, requests, bytes left: {left}")
        kept = sum(len(pool._all) for model in self.gateway.models.values() for pool in model.pools.values())
        idle = sum(len(pool._idle) for model in self.gateway.models.values() for pool in model.pools.values())
        if not kept == idle == self.engines.open:
            raise Wrong(f"connections to engines: {kept} kept, {idle} idle, {self.engines.open} open")


def _number(body: bytes) -> int:
    """The engine's number for the request, in its answer; 0 where there is none."""
    _, mark, rest = body.partition(b'"number":')
    if mark:
        digits = rest.partition(b",")[0].partition(b"}")[0]
        return int(digits) if digits.isdigit() else 0
    return 0


def _with_key(data: bytes) -> bytes:
    first, mark, rest = data.partition(b"\r\n")
    return first + mark + b"Authorization: Bearer " + KEY + b"\r\n" + rest if mark else data


# ---- the run


def worker(seed: int, requests: int, seconds: float, only: int | None, broken: str) -> tuple[int, Counter[str], str, int, int]:
    """Fuzz in this process; returns requests sent, counts, what was wrong, and memory after a tenth and at the end."""
    until = time.monotonic() + seconds
    if broken:
        BREAKS[broken]()
    loop = Loop()
    asyncio.set_event_loop(loop)
    world = loop.run_until_complete(_made(loop))
    sent, early = 0, 0
    for index in _indices(only):
        try:
            sent += loop.run_until_complete(asyncio.wait_for(world.round(seed, index, FAULTS), 60))
            if index % GROUP == 0 or only is not None:
                loop.run_until_complete(world.nothing_left())
        except Exception as error:
            again = f"python benchmarks/fuzz.py --seed {seed} --only {index}"
            return sent, world.counts, f"{type(error).__name__}: {error}\nAlone: {again}", early, _memory()
        early = early or (_memory() if sent > requests / 10 else 0)
        if sent >= requests or time.monotonic() > until or only is not None:
            break
    return sent, world.counts, "", early, _memory()


async def _made(loop: Loop) -> World:
    return World(loop, FAULTS)


def _indices(only: int | None) -> Iterator[int]:
    index = only or 0
    while True:
        yield index
        index += 1


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Fuzz and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=7200.0, help="stop after so long, whatever was reached")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one round, to repeat it")
    parser.add_argument("--broken", choices=sorted(BREAKS), default="", help="break the gateway so, to see that it is noticed")
    asked = parser.parse_args()
    began, sent, wrong, counts = time.monotonic(), 0, [], Counter[str]()
    each = -(-asked.requests // asked.processes)
    processes = 1 if asked.only is not None else asked.processes
    with ProcessPoolExecutor(processes) as pool:
        rest = (each, asked.seconds, asked.only, asked.broken)
        jobs = [pool.submit(worker, asked.seed + number, *rest) for number in range(processes)]
        for job in as_completed(jobs):
            count, found, error, early, late = job.result()
            sent, counts = sent + count, counts + found
            faults = [error] if error else []
            faults += [f"memory grew from {early:,} to {late:,} bytes"] if early and late - early > GROWTH_BYTES else []
            print(f"{count:,} requests; memory {early / 1e6:.1f} MB after a tenth, {late / 1e6:.1f} MB at the end", flush=True)
            print("".join(f"{fault}\n" for fault in faults), end="", file=sys.stderr, flush=True)
            wrong += faults
    seconds = time.monotonic() - began
    print(f"{sent:,} requests in {seconds:.0f} s, {sent / seconds:,.0f} a second: {len(wrong)} wrong")
    print("\n".join(f"{name:24}{count:10,}" for name, count in sorted(counts.items())))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
