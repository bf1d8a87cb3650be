"""The gateway: one address for all models. It listens, sends each request where it belongs, ticks, drains."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from time import monotonic, time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from headrace.gateway.access_log import AccessLog, tell_refused
from headrace.gateway.accounts import Account, Short
from headrace.gateway.asgi import Call
from headrace.gateway.asking import asked
from headrace.gateway.certificate import Certificate
from headrace.gateway.charging import charged, hold
from headrace.gateway.connections import Connections
from headrace.gateway.connections import Limits as Limits
from headrace.gateway.door import Door
from headrace.gateway.exchange import Exchange
from headrace.gateway.http import Request, RequestHead
from headrace.gateway.judging import judge
from headrace.gateway.keys import Keys, allowed
from headrace.gateway.openai import Ask, Refusal, peek
from headrace.gateway.paths import Route
from headrace.gateway.reading import HeadMemo
from headrace.gateway.served import ServedModel, wrong_task
from headrace.gateway.wire import Client
from headrace.money import Price
from headrace.traffic import Endpoint, Finished, Load, ModelStatus

if TYPE_CHECKING:
    from headrace.gateway.tracing import Tracing

TICK_SECONDS = 0.25
"""How often deadlines are looked at."""
LEAVE_SECONDS = 5.0
"""How long idle connections stay open once another process has the listening sockets: their next answer ends them."""
BUFFER_LIMIT = 512 * 1024 * 1024
"""Bytes of request bodies held at once for one model; past it requests are refused until some have left."""


class Gateway:
    """Everything between clients and replicas. `app` is the ASGI application that answers what is not the data path.

    `trusted` says that whoever can reach the address may use it whatever page or name it comes through; without it, pages of
    other origins than loopback are refused (see `http.origin_allowed`).
    """

    def __init__(
        self,
        limits: Limits,
        statuses: Iterable[ModelStatus],
        aliases: Mapping[str, str],
        app: ASGIApp,
        *,
        trusted: bool = False,
        certificate: Certificate | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._aliases = dict(aliases)
        self._app = app
        self._trusted = trusted
        self.connections = Connections(limits)
        self.door = Door(lambda: Client(self), certificate, self.connections)
        self._timer: asyncio.TimerHandle | None = None
        self._prefix = secrets.token_hex(4).encode()
        self._serial = 0
        self.created = int(time())
        self.body_limit = limits.body_bytes
        self.heads = HeadMemo()
        self.clients: set[Client] = set()
        self.draining = False
        self.models = {status.model: ServedModel(status, limits.queue, limits.wait_seconds, self._loop) for status in statuses}
        self._retired: dict[str, ServedModel] = {}
        """Models that are served no more, while requests for them are still under way."""
        self._last: list[Finished] = []
        """The last requests of models that are gone."""
        self.names = self._named()
        """Every name that clients may ask for, with its model."""
        self.log: AccessLog | None = None
        """Where it is told how requests ended."""
        self.tracing: Tracing | None = None
        """What makes spans of them."""
        self.keys: Keys | None = None
        """Who may use it; None asks nobody for a key. May be replaced at any time."""
        self.prices: Mapping[str, Price] = {}
        """What tokens cost, by model; the same."""
        self.currency = "USD"
        self.now = monotonic  # not the loop's: uvloop's clock stands still within a round
        self.soon = self._loop.call_soon

    # ---- its life

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept clients; returns the address really used, which differs for port 0. Raises ListenError."""
        await self.door.open(host, port)
        self._tick()
        return self.door.address

    async def listen_on(self, sockets: list[socket.socket]) -> None:
        """Accept clients from sockets that listen already."""
        self.door.sockets = sockets
        await self.door.start()
        self._tick()

    def update(self, statuses: Iterable[ModelStatus], endpoints: Sequence[Endpoint]) -> None:
        """What control knows now of models and of all their replicas that may be used; a model that is served no more is none."""
        by_model: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            by_model.setdefault(endpoint.model, []).append(endpoint)
        for status in statuses:
            if (model := self.models.get(status.model)) is not None:
                model.update(status, by_model.get(status.model, []))
        self.names = self._named()

    def replace(self, limits: Limits, statuses: Iterable[ModelStatus], aliases: Mapping[str, str]) -> None:
        """Other limits, models and names from now on. Models that stay keep their requests, replicas and counts; those that go
        answer what they have and take nothing new; who waits for one that has no replica is told. Clients that are connected keep
        their limits on bodies.
        """
        wanted = {status.model: status for status in statuses}
        self._aliases, self.body_limit = dict(aliases), limits.body_bytes
        self.connections.limits = limits
        for name in [name for name in self.models if name not in wanted]:
            self._retired[name] = self.models.pop(name)
        for name, status in wanted.items():
            served = self.models.get(name) or self._retired.pop(name, None)
            if served is None:
                served = ServedModel(status, limits.queue, limits.wait_seconds, self._loop)
            served.queue.limited(limits.queue, limits.wait_seconds)
            self.models[name] = served
        self.names = self._named()
        self._forget_retired()

    def _named(self) -> dict[str, ServedModel]:
        aliases = {alias: self.models[name] for alias, name in self._aliases.items()}
        also = {name: model for model in self.models.values() for name in sorted(model.also)}
        return self.models | aliases | {name: model for name, model in also.items() if name not in {**self.models, **aliases}}

    def loads(self) -> dict[str, Load]:
        """What was counted, by model; of those that are served no more, while they answer what they have."""
        return {name: model.load() for name, model in (*self._retired.items(), *self.models.items())}

    def suspects(self) -> dict[str, frozenset[str]]:
        """Replicas that took no connection since the last update, by model."""
        return {name: model.suspects for name, model in self.models.items() if model.suspects}

    def finished(self) -> list[Finished]:
        """The requests that are over since it was asked last."""
        found, self._last = self._last, []
        for model in (*self.models.values(), *self._retired.values()):
            while model.finished:
                found.append(model.finished.popleft())
        return found

    def when_needed(self, look: Callable[[], None]) -> None:
        """`look` is called when control should look at once (see `ServedModel.needed`)."""
        for model in self.models.values():
            model.needed = look

    async def drain(self, seconds: float) -> int:
        """Stop accepting connections and wait, at most `seconds`, until every request is answered. Returns how many were not."""
        self.draining = True
        await asyncio.sleep(0)  # connections that the kernel has accepted already are seen before the door closes
        self.door.close()
        await self._answered(seconds)
        unfinished = sum(not client.idle for client in self.clients)
        self.close()
        return unfinished

    async def leave(self, seconds: float) -> None:
        """The same for a gateway whose sockets another process has by now. Cancelled, it can `come_back`: nothing is closed."""
        self.draining = True
        self.door.stop()
        since = self.now()
        await self._answered(seconds)
        while self.clients and self.now() < since + LEAVE_SECONDS:  # who asks meanwhile is told to come over another connection
            await asyncio.sleep(0.02)
            await self._answered(seconds)

    async def come_back(self) -> None:
        """Accept clients again."""
        self.draining = False
        await self.door.start()

    async def _answered(self, seconds: float) -> None:
        """Until nothing is being asked or answered, at most `seconds`."""
        until = self.now() + seconds
        while self.now() < until and (self.door.handshakes or any(not client.idle for client in self.clients)):
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Close every connection now; requests that are not answered end with an error."""
        self.door.close()
        self.door.abort()
        if self._timer is not None:
            self._timer.cancel()
        stopped = Refusal(503, "Headrace was stopped before the answer was complete.", "stopped", "server_error")
        for model in (*self.models.values(), *self._retired.values()):
            for exchange in list(model.exchanges):
                exchange.refuse_or_break(stopped)
            for pool in model.pools.values():
                pool.abort()
        for client in list(self.clients):
            client.transport.close()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        now = self.now()
        if self.door.certificate is not None:
            self.door.certificate.look()
        for model in (*self.models.values(), *self._retired.values()):
            model.tick(now)
        if self._retired:
            self._forget_retired()
        for client in list(self.clients):
            client.tick(now)
        if self.log is not None:
            self.log.flush()

    def _forget_retired(self) -> None:
        for name, model in self._retired.items():
            if not model.queue.capacity:  # it drains, or took no connection, and control tells of it no more
                for exchange in model.queue.waiting():
                    exchange.refuse(Refusal(404, f'The model "{name}" is served no more.', "model_not_found", param="model"))
        for name in [name for name, model in self._retired.items() if not model.exchanges]:
            model = self._retired.pop(name)
            self._last += model.finished
            for pool in model.pools.values():
                pool.close()

    # ---- requests

    def judge(self, head: RequestHead) -> Refusal | None:
        """What can be said of a request by its head: no key, a wrong method, or a page that may not be here."""
        if self.keys is None:
            return judge(head, trusted=self._trusted)
        return self.keys.judge(head) or judge(head, trusted=True)  # no page has a key unless its user gave it one

    def admit(self, client: Client) -> Refusal | None:
        """Why there is no room for one more connection; it is among `clients` until it is closed, either way."""
        self.clients.add(client)
        return self.connections.opened(client.place)

    def request_id(self, head: RequestHead | None) -> bytes:
        """The client's own X-Request-Id, if it may be repeated in a head, else a new one."""
        if head is not None and head.request_id:
            return head.request_id
        self._serial += 1
        return b"%s-%x" % (self._prefix, self._serial)

    def handle(self, client: Client, request: Request, *, others: bool = False) -> None:
        """Answer a request, now or later: `client.finished` is called exactly once."""
        now, head = self.now(), request.head
        route, keys, charge = head.route, self.keys, None
        request_id = head.request_id or self.request_id(None)
        if (
            keys is not None
            and (head.passed is not keys or client.account is not head.holder[1])  # it may be known since before the keys changed
            and (refused := keys.judge(head) or client.uses(keys.account(head)))
        ):
            self._refuse(client, request, request_id, refused)
            return
        if route is None or (route.model and self._answers(route)):
            Call(client, request, request_id, self._app, self._loop).start()
            return
        ask = None
        try:
            if route.model:
                ask = Ask(route.model, route.kind == "generate_stream", 1, {}, True)
            else:
                ask = asked(request) if route.special else peek(route, request.body)
            if keys is None:
                model = self.asked_for(ask, route)
            else:
                model, charge = charged(self, client, request, ask, route, now, others)
        except Short as short:
            assert keys is not None
            hold(self, keys, client, request, short)
            return
        except Refusal as refusal:
            self._refuse(client, request, request_id, refusal, ask)
            return
        exchange = Exchange(client, request, request_id, model, ask, route, now)
        if self.tracing is not None:
            exchange.trace = self.tracing.begin(exchange, now)
        exchange.start(charge)

    def _refuse(self, client: Client, request: Request, request_id: bytes, refusal: Refusal, ask: Ask | None = None) -> None:
        client.refuse(refusal, request_id)
        tell_refused(self, client, request.head, request_id, refusal, ask, len(request.body))
        client.finished(self.now())

    def _answers(self, route: Route) -> bool:
        """Whether the gateway knows the answer: it knows which models are ready, but not which of one repository's are."""
        if route.kind != "ready":
            return False
        model = self.names.get(route.model)
        return model is None or model.status.phase != "ready" or route.model not in model.also  # asleep: nobody else could say

    def asked_for(self, ask: Ask, route: Route, account: Account | None = None) -> ServedModel:
        """The model asked for, when it is one that can do this, and may be asked for with a key. Raises Refusal."""
        name, limited = ask.model, account is not None and account.key.models
        model = self.names.get(name)
        if model is None or (limited and not allowed(account, name, model.name, model.also)):
            raise self.unknown(name, account)
        status = model.status
        if status.task != route.task and not model.can(route):
            raise wrong_task(ask.model, model, route, [name for name, other in self.models.items() if other.can(route)])
        if status.phase == "failed":
            model.refused(503)
            raise model.unavailable()
        if model.held_bytes > BUFFER_LIMIT:
            model.refused(429)
            message = f'Requests for model "{model.name}" hold {model.held_bytes:,} bytes, as many as are kept. Try again.'
            raise Refusal(429, message, "too_much_waiting", "rate_limit_error", retry_after=model.queue.retry_after())
        return model

    def visible(self, account: Account | None) -> dict[str, ServedModel]:
        """Every name that may be asked for with a key, or without keys."""
        return {name: model for name, model in self.names.items() if allowed(account, name, model.name, model.also)}

    def unknown(self, name: str, account: Account | None = None) -> Refusal:
        """The answer to a name that is none here, or none for this key: which of them is not said."""
        names = sorted(self.visible(account))
        near = get_close_matches(name, names, 1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        missing = "does not exist here" + (", or this key may not use it" if account is not None else "")
        message = f'The model "{name[:200]}" {missing}.{hint} Models: {", ".join(names[:50]) or "none"}.'
        return Refusal(404, message, "model_not_found", param="model")
