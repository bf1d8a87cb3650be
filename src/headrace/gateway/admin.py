"""Everything that is not the data path: models, health, readiness, metrics, status and logs, as an ASGI application."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headrace import __version__
from headrace.gateway import metrics, openai
from headrace.gateway.accounts import Account, summary
from headrace.gateway.asgi import INTERNAL_ERROR
from headrace.gateway.door import Door
from headrace.gateway.gateway import Gateway
from headrace.gateway.graduations import Asked
from headrace.gateway.judging import nothing_at
from headrace.gateway.openai import Refusal
from headrace.gateway.reloads import Reloading
from headrace.plan.plan import Plan
from headrace.spec.addresses import joined
from headrace.targets.base import Replica

_ANSWERS = ("ready", "asleep")
_EXTENSIONS = ("binary_tensor_data", "generate", "model_configuration", "statistics")  # as far as a model's engine has them
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
LOG_LINES = 200
"""Lines of a log that are shown when the request does not say how many; at most 10,000."""


class View(Protocol):
    """What control lets others see."""

    @property
    def plan(self) -> Plan | None:
        """What should run; None while weights are still being fetched."""

    @property
    def replicas(self) -> Sequence[Replica]:
        """What was observed last."""

    def logs(self, replica: str, lines: int) -> list[str]:
        """The last lines that a replica wrote."""


class Scaling(Protocol):
    """What a View shows besides, where control scales."""

    @property
    def decisions(self) -> Sequence[tuple[float, str, str]]:
        """(monotonic seconds, model, sentence) of what changed a number of replicas, the newest last."""

    @property
    def scaled(self) -> Mapping[tuple[str, str], int]:
        """How often that happened, by model and move."""

    @property
    def wanted(self) -> Mapping[str, int]:
        """Replicas that there shall be, by model that follows the load."""

    @property
    def wants(self) -> Mapping[str, str]:
        """What administrators asked for and what stands of it, by model: a number, `asleep` or `stopped`."""


class Admin:
    """The application; `gateway` is set once there is one."""

    def __init__(self, view: View, aliases: Mapping[str, str], scaling: Scaling | None = None) -> None:
        self._view, self._scaling = view, scaling
        self._aliases = aliases
        self.graduations = Asked()
        self.reloading = Reloading()
        self.served = ""
        """What is served, a file or a source, as the history knows it."""
        self.gateway: Gateway = None  # type: ignore[assignment]  # each needs the other: set right after the gateway is made
        self.app = Starlette(
            routes=[
                Route("/", self._root),
                Route("/v2", self._server),
                Route("/v2/health/live", self._live),
                Route("/v2/health/ready", self._all_ready),
                Route("/v2/models/{name:path}/versions/{version}/ready", self._model_ready),
                Route("/v2/models/{name:path}/ready", self._model_ready),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                Route("/admin/status", self._status),
                Route("/admin/decisions", self._scaled),
                Route("/admin/keys", self._keys),
                Route("/admin/logs/{name:path}", self._logs),
                *self.graduations.routes(),
                *self.reloading.routes(),
                Route("/{path:path}", self._others, methods=["GET", "OPTIONS"]),
            ],
            exception_handlers={HTTPException: _http_error, Refusal: _refused, Exception: _bug},  # type: ignore[dict-item]
        )

    async def _root(self, request: Request) -> Response:
        return _json({"headrace": True, "models": "/v1/models", "status": "/admin/status", "metrics": "/metrics"})

    async def _models(self, request: Request) -> Response:
        names = self.gateway.visible(_account(request))
        return Response(openai.model_list(map(self._card, names)), media_type="application/json")

    async def _model(self, request: Request) -> Response:
        name, account = request.path_params["name"], _account(request)
        if name not in self.gateway.visible(account):
            raise self.gateway.unknown(name, account)
        return _json(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        model = self.gateway.names[name]
        parent = model.name if name in model.also else None
        return openai.model_card(name, model.status.context, self.gateway.created, parent)

    async def _server(self, request: Request) -> Response:
        return _json({"name": "headrace", "version": __version__, "extensions": list(_EXTENSIONS)})

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _all_ready(self, request: Request) -> Response:
        return Response(status_code=200 if self._is_ready() else 400)  # as Triton; the protocol wants 4xx

    async def _model_ready(self, request: Request) -> Response:
        name, account = request.path_params["name"], _account(request)
        model = self.gateway.visible(account).get(name)
        if model is None:
            refusal = self.gateway.unknown(name, account)
        elif model.status.phase in _ANSWERS:
            return Response()
        else:
            refusal = Refusal(400, f'Model "{name}" is not ready: {model.status.reason}', "model_not_ready")
        return Response(refusal.envelope(plain=True), refusal.status, media_type="application/json")

    def _is_ready(self) -> bool:
        """Models that sleep count: they answer whoever asks, after waking."""
        return not self.gateway.draining and all(model.status.phase in _ANSWERS for model in self.gateway.models.values())

    async def _others(self, request: Request) -> Response:
        """A browser asks whether a page may ask: that its origin may was judged before, and is said by the connection."""
        if request.method != "OPTIONS":
            raise HTTPException(404)
        allow = {"Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE", "Access-Control-Max-Age": "600"}
        if asked := request.headers.get("access-control-request-headers"):
            allow["Access-Control-Allow-Headers"] = asked
        return Response(headers=allow)

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        phases = {name: model.status.phase for name, model in self.gateway.models.items()}
        ready = self._is_ready()
        open_to_all = {"ready": ready, "draining": self.gateway.draining}  # probes have no keys, and need no names
        return _json(open_to_all if self.gateway.keys else open_to_all | {"models": phases}, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        gateway = self.gateway
        moves, wanted = (self._scaling.scaled, self._scaling.wanted) if self._scaling else ({}, {})
        accounts = gateway.keys.accounts if gateway.keys is not None else {}
        tls = gateway.door.tls
        refused, lost = gateway.connections.refused, gateway.log.lost if gateway.log is not None else 0
        snapshot = metrics.Snapshot(
            gateway.models, self._view.replicas, len(gateway.clients), moves, wanted, accounts, tls, refused, lost,
            currency=gateway.currency, shared=gateway.keys.shared if gateway.keys is not None else None,
        )  # fmt: skip
        return Response(metrics.page(snapshot), media_type=_PROMETHEUS)

    async def _status(self, request: Request) -> Response:
        return _json(self.status())

    def status(self) -> dict[str, Any]:
        """What /admin/status says."""
        now = self.gateway.now()
        models = [self._model_status(name, now) for name in self.gateway.models]
        return {"draining": self.gateway.draining, "url": _url(self.gateway.door), "served": self.served, "models": models}

    async def _keys(self, request: Request) -> Response:
        keys = self.gateway.keys
        return _json({"keys": None if keys is None else [summary(account) for account in keys.accounts.values()]})

    def _model_status(self, name: str, now: float) -> dict[str, Any]:
        model = self.gateway.models[name]
        status, load = model.status, model.load()
        return {
            "name": name,
            "task": status.task,
            "phase": status.phase,
            "reason": status.reason,
            "wish": self._scaling.wants.get(name, "auto") if self._scaling else "auto",
            "context": status.context,
            "also": sorted(model.also),
            "aliases": [alias for alias, target in self._aliases.items() if target == name],
            "slots": model.queue.capacity,
            "queue_limit": model.queue.limit,
            "planned": _planned(self._view.plan, name),
            "load": msgspec.to_builtins(load),
            "waits": model.stats.wait.buckets(),
            "replicas": [_replica_status(replica, load, now) for replica in self._view.replicas if replica.model == name],
            "decisions": self._decisions(name),
        }

    async def _scaled(self, request: Request) -> Response:
        now, model = self.gateway.now(), request.query_params.get("model")
        model = self._aliases.get(model, model) if model else None
        if model is not None and model not in self.gateway.models:
            raise self.gateway.unknown(model)
        rows = self._scaling.decisions if self._scaling else ()
        told = [{"ago_seconds": round(now - at, 3), "model": name, "decision": said} for at, name, said in rows]
        return _json({"decisions": [row for row in told if model in (None, row["model"])]})

    def _decisions(self, name: str) -> list[str]:
        plan = self._view.plan
        return [str(decision) for model in plan.models if model.name == name for decision in model.decisions] if plan else []

    async def _logs(self, request: Request) -> Response:
        name = request.path_params["name"]
        lines = _count(request.query_params.get("lines", str(LOG_LINES)))
        named = [replica for replica in self._view.replicas if replica.name == name]
        chosen = named or [r for r in self._view.replicas if r.model == self._aliases.get(name, name)]
        if not chosen:
            raise self.gateway.unknown(name)
        logs = {replica.name: self._view.logs(replica.name, lines) for replica in chosen}
        return _json({"logs": logs})


def _url(door: Door) -> str:
    """Where it listens, "" while it does not."""
    return f"{door.scheme}://{joined(*door.address)}" if door.sockets else ""


def _account(request: Request) -> Account | None:
    """Whose key it came with; None without keys."""
    account: Account | None = request.scope["headrace.account"]
    return account


def _planned(plan: Plan | None, name: str) -> dict[str, Any]:
    """What was decided of a model, in numbers: the engine, slots of a replica, the most replicas, whether it may sleep."""
    model = next((one for one in plan.models if one.name == name), None) if plan else None
    if model is None:
        return {"engine": None, "slots": 0, "most": 0, "sleeps": False}
    engine = next((one.engine for one in model.replicas if not isinstance(one, str)), None)
    return {"engine": engine, "slots": model.slots, "most": len(model.replicas), "sleeps": model.sleeps}


def _replica_status(replica: Replica, load: Any, now: float) -> dict[str, Any]:
    return {
        "name": replica.name,
        "state": replica.state.value,
        "reason": replica.reason,
        "address": replica.placement if isinstance(replica.placement, str) else None,
        "in_flight": load.running.get(replica.name, 0),
        "slots": replica.slots,
        "pid": replica.pid,
        "exit_code": replica.exit_code,
        "restarts": replica.restarts,
        "memory_bytes": replica.memory_bytes,
        "gpus": {} if isinstance(replica.placement, str) else dict(replica.placement.devices),
        "seconds_in_state": round(max(0.0, now - replica.since), 3),
        "engine": msgspec.to_builtins(replica.reading) if replica.reading else None,
    }


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(400, '"lines" must be a number of lines.', "invalid_type", param="lines")
    return min(10_000, int(text))


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _refused(request: Request, refusal: Refusal) -> Response:
    return Response(refusal.envelope(), refusal.status, media_type="application/json")


async def _bug(request: Request, error: Exception) -> Response:
    return await _refused(request, INTERNAL_ERROR)


async def _http_error(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "GET")
        refusal = Refusal(405, f"{path} is served with {allow}, not {request.method}.", "method_not_allowed", allow=allow)
    else:
        refusal = nothing_at(path)
    headers = {"Allow": refusal.allow} if refusal.allow else None
    return Response(refusal.envelope(), refusal.status, headers, "application/json")
