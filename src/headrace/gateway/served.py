"""One served model inside the gateway: its queue, its replicas' connections, its counters, what stands in its way."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence, Set
from time import monotonic
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from headrace.gateway.admission import Effect, Queue, Serve
from headrace.gateway.openai import Refusal
from headrace.gateway.paths import Route
from headrace.gateway.prefixes import BLOCK_BYTES, SHORT, Prompt, chain_of
from headrace.gateway.split import Trial
from headrace.gateway.stats import Stats
from headrace.gateway.upstream import Pool
from headrace.traffic import Endpoint, Finished, Load, ModelStatus, Split

MOST_FINISHED = 65_536
"""Requests that are remembered until control asks for them; older ones are forgotten when nobody asks."""

EXPLAIN = b"x-headrace-explain"
"""The header with which a client asks which replica answers, and why."""

_DOES = {
    "generate": ("generates text", "cannot generate text"),
    "embed": ("makes embeddings", "has no embeddings"),
    "rerank": ("ranks documents", "cannot rank documents"),
    "infer": ("takes and gives tensors", "takes no tensors"),
}

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange


class ServedModel:
    """A model that clients may name. `status` and the endpoints come from control; everything else is counted here."""

    def __init__(self, status: ModelStatus, limit: int, wait: float, loop: asyncio.AbstractEventLoop) -> None:
        self.name = status.model
        self.status = status
        self.queue: Queue[Exchange] = Queue(limit, wait)
        self.stats = Stats()
        self.pools: dict[str, Pool] = {}
        self.exchanges: set[Exchange] = set()
        self.also = status.also
        """Names that its engines know themselves: requests for them keep the name."""
        self.held_bytes = 0
        """Bytes of the bodies of these requests."""
        self.arrived = 0
        self.finished: deque[Finished] = deque(maxlen=MOST_FINISHED)
        self.needed: Callable[[], None] = lambda: None
        """Called when control should look at once: somebody asks for a model that is asleep, or a drained replica is free."""
        self._loop = loop
        self._suspects: set[str] = set()
        self._drains = False
        self.trial: Trial | None = None
        """Which requests go to replicas on trial, while the model graduates."""
        self._lost: dict[str, int] = {}
        self.queue.prompt = self._prompt

    def update(self, status: ModelStatus, endpoints: Sequence[Endpoint]) -> None:
        """What control knows now. Replicas that could not be reached are believed again."""
        self.status = status
        self.also = status.also.union(*(endpoint.also for endpoint in endpoints))
        self._suspects.clear()
        now = monotonic()
        kept = {endpoint.replica: self._pool(endpoint) for endpoint in endpoints}
        for replica, pool in self.pools.items():
            if kept.get(replica) is not pool:
                pool.close()
                self.queue.routing.forget(replica)
        self.pools = kept
        self._drains = any(not endpoint.slots for endpoint in endpoints)
        self._lost = {name: count for name, count in self._lost.items() if name in kept}
        self._split(status.split)
        by_slot = {endpoint.replica for endpoint in endpoints if endpoint.caches == "slots"}
        self.queue.routing.described(status.context, {endpoint.replica: endpoint.also for endpoint in endpoints}, by_slot)
        self._resize(now)
        if status.phase == "failed":
            for exchange in self.queue.waiting():
                exchange.refuse(self.unavailable())

    def _prompt(self, exchange: "Exchange") -> Prompt:
        """What routing should know of a request, where there are several replicas."""
        if len(exchange.request.body) < BLOCK_BYTES and not self.queue.routing.partial:
            return SHORT
        ask = exchange.ask
        adapter = ask.model if self.queue.routing.partial and ask.model in self.also else ""
        if exchange.route.task == "generate":
            return Prompt(chain_of(ask), adapter)
        return Prompt((), adapter) if adapter else SHORT

    def _split(self, split: Split | None) -> None:
        if split is None:
            self.trial = self.queue.among = None
        elif self.trial is None:
            self.trial = Trial(split)
            self.queue.among = self.trial.slots
        else:
            self.trial.split = split

    def is_on_trial(self, replica: str) -> bool:
        """Whether a replica only may be worse than the others: they are asked when it fails, whatever it says."""
        return self.trial is not None and replica in self.trial.split.replicas

    def lost(self, replica: str) -> None:
        """A replica failed a request before its first byte, which is tried again."""
        self._lost[replica] = self._lost.get(replica, 0) + 1

    @property
    def suspects(self) -> frozenset[str]:
        """Replicas that did not accept a connection since control looked last."""
        return frozenset(self._suspects)

    def there(self, endpoint: Endpoint, name: str) -> str:
        """What the engine at `endpoint` calls what clients ask for as `name`."""
        return name if name in self.also else endpoint.model_there

    def has_other_than(self, replicas: Set[str]) -> bool:
        """Whether there is a replica besides these that takes requests."""
        return any(pool.endpoint.slots and name not in replicas for name, pool in self.pools.items())

    def enter(self, exchange: "Exchange", now: float) -> None:
        """A request for this model, from now on until it leaves: it is served, or waits."""
        self.arrived += 1
        self.exchanges.add(exchange)
        self.held_bytes += len(exchange.request.body)
        if self.trial is not None:
            self.trial.enter(exchange)
        if self.status.phase == "asleep":
            self._loop.call_soon(self.needed)  # once it is in the queue
        queue = self.queue
        replica = queue.at_once(exchange, now, exchange.charge)
        if replica is None:
            carry_out(queue.kept_waiting(exchange, now, exchange.charge), now)
        elif EXPLAIN in exchange.request.head.known:
            carry_out((Serve(exchange, replica, queue.routing.receipt),), now)
        else:
            exchange.serve(replica, now)

    def leave(self, exchange: "Exchange", finished: Finished) -> None:
        """The request is over."""
        self.stats.finished(finished.status, finished.seconds)
        self.finished.append(finished)
        self.exchanges.discard(exchange)
        self.held_bytes -= len(exchange.request.body)
        if self.trial is not None:
            self.trial.leave(exchange)
        if exchange.charge is not None:
            more = exchange.charge.account.settle(exchange.charge, finished, exchange.chunks_seen)
            if finished.replica:  # only who was served was charged by the queue
                self.queue.settled(exchange.charge.share, more)
        if self._drains:
            self._loop.call_soon(self.needed)  # once its slot is free

    def refused(self, status: int) -> None:
        """A request was refused before it could wait."""
        self.arrived += 1
        self.stats.finished(status, 0.0)
        self.finished.append(Finished(monotonic(), self.name, "", status, None, None, 0.0, None, 0.0))

    def suspect(self, replica: str, now: float) -> None:
        """A replica does not accept connections: send it nothing until control has looked again."""
        self._suspects.add(replica)
        self._resize(now)

    def tick(self, now: float) -> None:
        """Time passed, for the queue and for every request."""
        self.stats.tick()
        carry_out(self.queue.tick(now), now)
        for exchange in list(self.exchanges):
            exchange.tick(now)

    def can(self, route: Route) -> bool:
        """Whether it does what is asked; any model whose engine has tensors, or may turn out to, can be asked for them."""
        if route.task is None or self.status.task in (None, route.task):
            return True
        known = any(pool.endpoint.speaks in route.known_by for pool in self.pools.values())
        return route.kind == "infer" and (known or (not self.pools and self.is_away))

    @property
    def is_away(self) -> bool:
        """Whether no replica is ready, though one may come."""
        return self.status.phase in ("loading", "asleep")

    @property
    def away(self) -> str:
        """Why it does not answer yet, in words."""
        return "asleep and is being woken" if self.status.phase == "asleep" else "still loading"

    def unavailable(self) -> Refusal:
        """Why the model cannot answer."""
        return Refusal(503, f'Model "{self.name}" cannot be served: {self.status.reason}', "model_unavailable", "server_error")

    def overloaded(self, cause: Literal["full", "expired"], retry_after: int) -> Refusal:
        """Why the queue refuses a request, with its numbers."""
        name, depth = self.name, len(self.queue)
        if self.is_away:
            message = f'Model "{name}" is {self.away}: {self.status.reason or "no replica is ready"}.'
            if self.status.ready_in is not None:
                retry_after = min(600, max(1, math.ceil(self.status.ready_in)))
            return Refusal(503, message, "model_loading", "server_error", retry_after=retry_after)
        if not self.queue.capacity:
            message = f'No replica of model "{name}" can be reached.'
            return Refusal(503, message, "model_unavailable", "server_error", retry_after=retry_after)
        if cause == "full":
            message = f'Model "{name}" has {depth} requests waiting, as many as its queue holds'
        else:
            message = f'No slot of model "{name}" became free in time; {depth} requests still wait'
        message += f" for {self.queue.capacity} slots. Try again in {retry_after} s."
        return Refusal(429, message, "queue_" + cause, "rate_limit_error", retry_after=retry_after)

    def load(self) -> Load:
        """What control may know."""
        stats, oldest = self.stats, self.queue.oldest()
        return Load(
            model=self.name,
            waiting=len(self.queue),
            running=dict(self.queue.running),
            requests=sum(stats.requests.values()),
            refused=stats.refused,
            failed=stats.failed,
            tokens_in=stats.tokens_in,
            tokens_out=stats.tokens_out,
            service_seconds=self.queue.service_seconds,
            ttft_seconds=stats.ttft_seconds,
            arrived=self.arrived,
            oldest_seconds=None if oldest is None else max(0.0, monotonic() - oldest),
            tpot_seconds=stats.tpot_seconds,
            lost=dict(self._lost),
        )

    def _pool(self, endpoint: Endpoint) -> Pool:
        pool = self.pools.get(endpoint.replica)
        if pool is None or pool.endpoint.address != endpoint.address or pool.endpoint.key != endpoint.key:
            return Pool(endpoint, self._loop)
        pool.endpoint = endpoint
        return pool

    def _resize(self, now: float) -> None:
        slots = {name: pool.endpoint.slots for name, pool in self.pools.items() if name not in self._suspects}
        carry_out(self.queue.resized(slots, now), now)


def wrong_task(name: str, model: ServedModel, route: Route, able: Sequence[str]) -> Refusal:
    """Why a model that was asked for as `name` cannot do what is asked; `able` are those that can."""
    assert model.status.task
    assert route.task
    message = f'Model "{name}" {_DOES[model.status.task][0]} and {_DOES[route.task][1]}. '
    message += f"Models that can: {', '.join(able)}." if able else "No model here can."
    return Refusal(400, message, "wrong_task", param="model")


def carry_out(effects: "Sequence[Effect[Exchange]]", now: float) -> None:
    """Do what the queue decided."""
    for effect in effects:
        if isinstance(effect, Serve):
            if EXPLAIN in effect.ticket.request.head.known:
                _explain(effect)
            effect.ticket.serve(effect.replica, now)
        else:
            effect.ticket.reject(effect)


def _explain(effect: "Serve[Exchange]") -> None:
    """Tell the client that asks where its request went and why, in lines of its answer's head; the last attempt counts."""
    client, receipt = effect.ticket.client, effect.receipt
    told = b"x-headrace-replica: %s\r\n" % quote(effect.replica, safe=":/").encode()
    if receipt is not None:
        told += b"x-headrace-matched: %d/%d\r\n" % (receipt.matched, receipt.blocks)
        told += b"x-headrace-score: %g\r\n" % receipt.cost
    client.told = client.told.partition(b"x-headrace-replica:")[0] + told
