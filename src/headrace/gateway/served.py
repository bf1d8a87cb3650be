"""One served model inside the gateway: its queue, its replicas' connections, its counters, what stands in its way."""

import asyncio
from collections.abc import Sequence, Set
from time import monotonic
from typing import TYPE_CHECKING, Literal

from headrace.gateway.admission import Effect, Queue, Serve
from headrace.gateway.openai import Refusal
from headrace.gateway.stats import Stats
from headrace.gateway.upstream import Pool
from headrace.traffic import Endpoint, Load, ModelStatus

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
        self._loop = loop
        self._suspects: set[str] = set()

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
        self.pools = kept
        self._resize(now)
        if status.phase == "failed":
            for exchange in self.queue.waiting():
                exchange.refuse(self.unavailable())

    def there(self, endpoint: Endpoint, name: str) -> str:
        """What the engine at `endpoint` calls what clients ask for as `name`."""
        return name if name in self.also else endpoint.model_there

    def has_other_than(self, replicas: Set[str]) -> bool:
        """Whether there is a replica besides these that takes requests."""
        return any(pool.endpoint.slots and name not in replicas for name, pool in self.pools.items())

    def enter(self, exchange: "Exchange") -> None:
        """A request for this model, from now on until it leaves."""
        self.exchanges.add(exchange)
        self.held_bytes += len(exchange.request.body)

    def leave(self, exchange: "Exchange") -> None:
        """The request is over."""
        self.exchanges.discard(exchange)
        self.held_bytes -= len(exchange.request.body)

    def suspect(self, replica: str, now: float) -> None:
        """A replica does not accept connections: send it nothing until control has looked again."""
        self._suspects.add(replica)
        self._resize(now)

    def tick(self, now: float) -> None:
        """Time passed, for the queue and for every request."""
        carry_out(self.queue.tick(now), now)
        for exchange in list(self.exchanges):
            exchange.tick(now)

    def unavailable(self) -> Refusal:
        """Why the model cannot answer."""
        return Refusal(503, f'Model "{self.name}" cannot be served: {self.status.reason}', "model_unavailable", "server_error")

    def overloaded(self, cause: Literal["full", "expired"], retry_after: int) -> Refusal:
        """Why the queue refuses a request, with its numbers."""
        name, depth = self.name, len(self.queue)
        if self.status.phase != "ready":
            message = f'Model "{name}" is still loading: {self.status.reason or "no replica is ready"}.'
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
        stats = self.stats
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


def carry_out(effects: "Sequence[Effect[Exchange]]", now: float) -> None:
    """Do what the queue decided."""
    for effect in effects:
        if isinstance(effect, Serve):
            effect.ticket.serve(effect.replica, now)
        else:
            effect.ticket.reject(effect)
