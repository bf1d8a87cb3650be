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
from headrace.gateway.asgi import INTERNAL_ERROR
from headrace.gateway.gateway import Gateway, nothing_at
from headrace.gateway.openai import Refusal
from headrace.plan.plan import Plan
from headrace.targets.base import Replica

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


class Admin:
    """The application; `gateway` is set once there is one."""

    def __init__(self, view: View, aliases: Mapping[str, str]) -> None:
        self._view = view
        self._aliases = aliases
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
                Route("/admin/logs/{name:path}", self._logs),
                Route("/{path:path}", self._others, methods=["GET", "OPTIONS"]),
            ],
            exception_handlers={HTTPException: _http_error, Refusal: _refused, Exception: _bug},  # type: ignore[dict-item]
        )

    async def _root(self, request: Request) -> Response:
        return _json({"headrace": True, "models": "/v1/models", "status": "/admin/status", "metrics": "/metrics"})

    async def _models(self, request: Request) -> Response:
        return Response(openai.model_list(map(self._card, self.gateway.names)), media_type="application/json")

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.gateway.names:
            raise self.gateway.unknown(name)
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
        name = request.path_params["name"]
        model = self.gateway.names.get(name)
        if model is None:
            refusal = self.gateway.unknown(name)
        elif model.status.phase == "ready":
            return Response()
        else:
            refusal = Refusal(400, f'Model "{name}" is not ready: {model.status.reason}', "model_not_ready")
        return Response(refusal.envelope(plain=True), refusal.status, media_type="application/json")

    def _is_ready(self) -> bool:
        return not self.gateway.draining and all(model.status.phase == "ready" for model in self.gateway.models.values())

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
        return _json({"ready": ready, "draining": self.gateway.draining, "models": phases}, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        gateway = self.gateway
        snapshot = metrics.Snapshot(gateway.models, self._view.replicas, len(gateway.clients))
        return Response(metrics.page(snapshot), media_type=_PROMETHEUS)

    async def _status(self, request: Request) -> Response:
        now = self.gateway.now()
        models = [self._model_status(name, now) for name in self.gateway.models]
        return _json({"draining": self.gateway.draining, "models": models})

    def _model_status(self, name: str, now: float) -> dict[str, Any]:
        model = self.gateway.models[name]
        status, load = model.status, model.load()
        return {
            "name": name,
            "task": status.task,
            "phase": status.phase,
            "reason": status.reason,
            "context": status.context,
            "also": sorted(model.also),
            "aliases": [alias for alias, target in self._aliases.items() if target == name],
            "slots": model.queue.capacity,
            "load": msgspec.to_builtins(load),
            "replicas": [_replica_status(replica, load, now) for replica in self._view.replicas if replica.model == name],
            "decisions": self._decisions(name),
        }

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
