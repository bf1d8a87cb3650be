"""The gateway: one address for all models. It listens, sends each request where it belongs, ticks, drains."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from time import monotonic, time

from starlette.types import ASGIApp

from headrace.errors import HeadraceError
from headrace.gateway.accounts import Account, Charge
from headrace.gateway.asgi import Call
from headrace.gateway.asking import asked
from headrace.gateway.exchange import Exchange
from headrace.gateway.http import Request, RequestHead
from headrace.gateway.judging import judge
from headrace.gateway.keys import Keys, allowed
from headrace.gateway.openai import Ask, Refusal, peek
from headrace.gateway.paths import Route
from headrace.gateway.reading import HeadMemo
from headrace.gateway.served import ServedModel
from headrace.gateway.wire import Client
from headrace.traffic import Endpoint, Finished, Load, ModelStatus

TICK_SECONDS = 0.25
"""How often deadlines are looked at."""
BUFFER_LIMIT = 512 * 1024 * 1024
"""Bytes of request bodies held at once for one model; past it requests are refused until some have left."""
_BACKLOG = 4096
_DOES = {
    "generate": ("generates text", "cannot generate text"),
    "embed": ("makes embeddings", "has no embeddings"),
    "rerank": ("ranks documents", "cannot rank documents"),
    "infer": ("takes and gives tensors", "takes no tensors"),
}


class ListenError(HeadraceError):
    """The address cannot be listened on."""

    exit_code = 69


@dataclass(frozen=True, slots=True)
class Limits:
    """What the spec allows: see its `gateway` section for meanings and units."""

    queue: int
    wait_seconds: float
    body_bytes: int
    connections: int = 1_000_000
    """Clients' connections at once: descriptors must be left for engines, probes and files."""


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
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._aliases = dict(aliases)
        self._app = app
        self._trusted = trusted
        self._server: asyncio.Server | None = None
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
        self.names = self._named()
        """Every name that clients may ask for, with its model."""
        self.keys: Keys | None = None
        """Who may use it; None asks nobody for a key. May be replaced at any time."""
        self.now = monotonic  # not the loop's: uvloop's clock stands still within a round
        self.soon = self._loop.call_soon

    # ---- its life

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Accept clients; returns the address really used, which differs for port 0. Raises ListenError."""
        try:
            self._server = await self._loop.create_server(lambda: Client(self), host, port, backlog=_BACKLOG)
        except OSError as error:
            raise ListenError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}.",
                "Stop what listens there, or choose another port: gateway.listen in the file, or --listen.",
            ) from None
        self._tick()
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

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
        answer what they have and take nothing new. Clients that are connected keep their limits on bodies.
        """
        wanted = {status.model: status for status in statuses}
        self._limits, self._aliases, self.body_limit = limits, dict(aliases), limits.body_bytes
        for name in [name for name in self.models if name not in wanted]:
            self._retired[name] = self.models.pop(name)
        for name, status in wanted.items():
            model = self.models.get(name) or self._retired.pop(name, None)
            if model is None:
                model = ServedModel(status, limits.queue, limits.wait_seconds, self._loop)
            model.queue.limited(limits.queue, limits.wait_seconds)
            self.models[name] = model
        self.names = self._named()
        self._forget_retired()

    def _named(self) -> dict[str, ServedModel]:
        aliases = {alias: self.models[name] for alias, name in self._aliases.items()}
        also = {name: model for model in self.models.values() for name in sorted(model.also)}
        return self.models | aliases | {name: model for name, model in also.items() if name not in {**self.models, **aliases}}

    def loads(self) -> dict[str, Load]:
        """What was counted, by model."""
        return {name: model.load() for name, model in self.models.items()}

    def suspects(self) -> dict[str, frozenset[str]]:
        """Replicas that took no connection since the last update, by model."""
        return {name: model.suspects for name, model in self.models.items() if model.suspects}

    def finished(self) -> list[Finished]:
        """The requests that are over since it was asked last."""
        found = []
        for model in self.models.values():
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
        if self._server is not None:
            self._server.close()
        until = self.now() + seconds
        while self.now() < until and any(not client.idle for client in self.clients):
            await asyncio.sleep(0.02)
        unfinished = sum(not client.idle for client in self.clients)
        self.close()
        return unfinished

    def close(self) -> None:
        """Close every connection now; requests that are not answered end with an error."""
        if self._server is not None:
            self._server.close()
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
        for model in (*self.models.values(), *self._retired.values()):
            model.tick(now)
        if self._retired:
            self._forget_retired()
        for client in list(self.clients):
            client.tick(now)

    def _forget_retired(self) -> None:
        for name in [name for name, model in self._retired.items() if not model.exchanges]:
            for pool in self._retired.pop(name).pools.values():
                pool.close()

    # ---- requests

    def judge(self, head: RequestHead) -> Refusal | None:
        """What can be said of a request by its head: no key, a wrong method, or a page that may not be here."""
        if self.keys is None:
            return judge(head, trusted=self._trusted)
        return self.keys.judge(head) or judge(head, trusted=True)  # no page has a key unless its user gave it one

    def admit(self, client: Client) -> bool:
        """Whether there is room for one more connection; it is among `clients` until it is closed, either way."""
        self.clients.add(client)
        return len(self.clients) <= self._limits.connections

    def request_id(self, head: RequestHead | None) -> bytes:
        """The client's own X-Request-Id, if it may be repeated in a head, else a new one."""
        given = head.known.get(b"x-request-id") if head is not None else None
        if given is not None and _sane(given):
            return given
        self._serial += 1
        return b"%s-%x" % (self._prefix, self._serial)

    def handle(self, client: Client, request: Request) -> None:
        """Answer a request, now or later: `client.finished` is called exactly once."""
        route = request.head.route
        request_id = self.request_id(request.head)
        keys, charge = self.keys, None
        if keys is not None and (refused := keys.judge(request.head)):  # a head that was known before the keys changed
            client.refuse(refused, request_id)
            client.finished()
            return
        if route is None or (route.model and self._answers(route)):
            Call(client, request, request_id, self._app, self._loop).start()
            return
        try:
            if route.model:
                ask = Ask(route.model, route.kind == "generate_stream", 1, {}, True)
            else:
                ask = asked(request) if route.special else peek(route, request.body)
            if keys is None:
                model = self._model(ask, route)
            else:
                model, charge = self._charged(client, request, ask, route, keys)
        except Refusal as refusal:
            client.refuse(refusal, request_id)
            client.finished()
            return
        Exchange(client, request, request_id, model, ask, self._loop).start(charge)

    def _charged(self, client: Client, request: Request, ask: Ask, route: Route, keys: Keys) -> tuple[ServedModel, Charge]:
        """The model asked for and what the key is charged, when it may use the model and has something left. Raises Refusal."""
        account, now = keys.account(request.head), self.now()
        assert account is not None  # `judge` has seen to it
        if (model := self.names.get(ask.model)) is None or not allowed(account, ask.model, model.name, model.also):
            raise self.unknown(ask.model, account)
        model = self._model(ask, route)
        try:
            charge = account.charge(ask, request.body, model.status.context, generates=route.task == "generate", now=now)
        except Refusal:
            client.told = account.told(now)  # the model had no part in it: its counts, which scale it, are left alone
            raise
        client.told = account.told(now)
        return model, charge

    def _answers(self, route: Route) -> bool:
        """Whether the gateway knows the answer: it knows which models are ready, but not which of one repository's are."""
        if route.kind != "ready":
            return False
        model = self.names.get(route.model)
        return model is None or model.status.phase != "ready" or route.model not in model.also  # asleep: nobody else could say

    def _model(self, ask: Ask, route: Route) -> ServedModel:
        """The model asked for, when it is one that can do this. Raises Refusal."""
        model = self.names.get(ask.model)
        if model is None:
            raise self.unknown(ask.model)
        status = model.status
        if status.task != route.task and not _can(model, route):
            raise self._wrong_task(ask.model, model, route)
        if status.phase == "failed":
            model.refused(503)
            raise model.unavailable()
        if model.held_bytes > BUFFER_LIMIT:
            model.refused(429)
            message = f'Requests for model "{model.name}" hold {model.held_bytes:,} bytes, as many as are kept. Try again.'
            raise Refusal(429, message, "too_much_waiting", "rate_limit_error", retry_after=model.queue.retry_after())
        return model

    def _wrong_task(self, name: str, model: ServedModel, route: Route) -> Refusal:
        assert model.status.task
        assert route.task
        able = [name for name, other in self.models.items() if _can(other, route)]
        message = f'Model "{name}" {_DOES[model.status.task][0]} and {_DOES[route.task][1]}. '
        message += f"Models that can: {', '.join(able)}." if able else "No model here can."
        return Refusal(400, message, "wrong_task", param="model")

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


def _can(model: ServedModel, route: Route) -> bool:
    """Whether the model does what is asked; any model whose engine has tensors, or may turn out to, can be asked for them."""
    if route.task is None or model.status.task in (None, route.task):
        return True
    known = any(pool.endpoint.speaks in route.known_by for pool in model.pools.values())
    return route.kind == "infer" and (known or (not model.pools and model.is_away))


def _sane(request_id: bytes) -> bool:
    return 0 < len(request_id) <= 128 and request_id.replace(b"-", b"").replace(b"_", b"").isalnum()
