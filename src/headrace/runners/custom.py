"""Serves a user's Python class, in a process of its own: `python -m headrace.runners.custom SPEC`, with SPEC as JSON.

The spec has `model` (the file), `name`, `address`, `task`, `class` ("" = the only one), `folder` (where it runs, "" = the
file's), `batch`, `delay_seconds` and `limit_seconds`. Exits with 3 when the class cannot be loaded, the last line saying why.
"""

import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.runners import openai
from headrace.runners.batching import Batcher
from headrace.runners.custom_answers import CustomCounts, Life, answered, oip_error, openai_error
from headrace.runners.custom_failure import log
from headrace.runners.custom_load import CannotLoad, cannot, method, user_class
from headrace.runners.custom_openai import Chat, Embed, Rerank
from headrace.runners.custom_predict import Predict
from headrace.runners.custom_types import signature
from headrace.runners.custom_worker import Worker
from headrace.runners.serving import CANNOT_LOAD, begin, error, serve

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def main() -> None:
    """Load the class, serve until told to stop. Does not return."""
    spec = begin()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what the user prints is in the log at once
    key = os.environ.pop("ENGINE_KEY", "")  # none of the user's business
    life = Life()
    worker = Worker(spec["limit_seconds"], life.hung)
    if spec["address"].startswith("unix:"):  # the working directory will be another
        spec["address"] = "unix:" + os.path.abspath(spec["address"].removeprefix("unix:"))
    spec["model"] = os.path.abspath(spec["model"])
    try:
        instance = _made(spec, worker)
        server = Server(spec, instance, worker, life)
    except CannotLoad as cause:
        _exit(str(cause))
    os.environ["ENGINE_KEY"] = key
    serve(server.app, spec["address"], before=lambda: _loaded(spec, instance, worker), code=lambda: life.code)


def _made(spec: dict[str, Any], worker: Worker) -> Any:
    """The user's object, with its plain `load` called."""
    kind = user_class(spec["model"], spec["class"], spec["task"], spec["folder"])
    try:
        instance = worker.first(kind)
    except BaseException as raised:
        cannot(f"{kind.__name__}() raised: ", raised, spec["model"])
    load = method(instance, "load")
    if load is not None and not inspect.iscoroutinefunction(load):
        try:
            worker.first(load)
        except BaseException as raised:
            cannot(f"{kind.__name__}.load raised: ", raised, spec["model"])
    return instance


async def _loaded(spec: dict[str, Any], instance: Any, worker: Worker) -> None:
    """An `async def load` runs in the loop that will run the other methods."""
    load = method(instance, "load")
    if not inspect.iscoroutinefunction(load):
        return
    try:
        await load()
    except BaseException as raised:
        try:
            cannot(f"{type(instance).__name__}.load raised: ", raised, spec["model"])
        except CannotLoad as cause:
            _exit(str(cause))


def _exit(message: str) -> NoReturn:
    """Not sys.exit, which waits for threads that the user's code may have started."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(CANNOT_LOAD)


class Server:
    """The ASGI application around a user's object: a path for each of its methods, and those that all replicas have."""

    def __init__(self, spec: dict[str, Any], instance: Any, worker: Worker, life: Life) -> None:
        self._spec, self._life, self._name = spec, life, spec["name"]
        self._counts = CustomCounts(spec["batch"])
        self._class = type(instance).__name__
        routes = [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v2/health/live", self._health),
            Route("/v2/health/ready", self._health),
            Route("/v2", self._about),
            Route("/v1/models", self._models),
            *self._predict(instance, worker),
            *self._openai(instance, worker),
            Route("/v1/models/{name:path}", self._ours(self._ready)),
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: self._unknown, Exception: self._bug})

    def _predict(self, instance: Any, worker: Worker) -> list[Route]:
        function = method(instance, "predict")
        if function is None:
            return []
        predict = Predict(self._name, function, signature(function, f"{self._class}.predict"), worker)
        if not predict.streams:
            predict.batcher = self._batcher(predict.call, instance)

        async def v1(request: Request) -> Response:
            accept = request.headers.get("accept", "")
            return await answered(request, self._counts, self._life, lambda body: predict.v1(body, accept), oip_error)

        async def v2(request: Request) -> Response:
            header = request.headers.get("inference-header-content-length")
            return await answered(request, self._counts, self._life, lambda body: predict.v2(body, header), oip_error)

        async def about(request: Request) -> Response:
            return JSONResponse(predict.metadata())

        found = [Route("/v1/models/{name:path}:predict", self._ours(v1), methods=["POST"])]
        for model in ("/v2/models/{name:path}/versions/1", "/v2/models/{name:path}"):
            found.append(Route(f"{model}/infer", self._ours(v2), methods=["POST"]))
            found.append(Route(f"{model}/ready", self._ours(self._ready)))
            found.append(Route(model, self._ours(about)))
        return found

    def _openai(self, instance: Any, worker: Worker) -> list[Route]:
        routes = []
        common = (worker, self._counts)
        if function := method(instance, "chat"):
            chat = Chat(self._name, f"{self._class}.chat", function, *common)
            routes.append(self._posted("/v1/chat/completions", chat.completion))
        if function := method(instance, "embed"):
            embed = Embed(self._name, f"{self._class}.embed", function, *common)
            embed.batcher = self._batcher(embed.call, instance)
            routes.append(self._posted("/v1/embeddings", embed.embeddings))
        if function := method(instance, "rerank"):
            rerank = Rerank(self._name, f"{self._class}.rerank", function, *common)
            routes.append(self._posted("/v1/rerank", rerank.ranking))
        return routes

    def _posted(self, path: str, work: Callable[[bytes], Coroutine[Any, Any, Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            return await answered(request, self._counts, self._life, work, openai_error)

        return Route(path, endpoint, methods=["POST"])

    def _batcher(self, call: Any, instance: Any) -> Batcher:
        batch, delay = self._spec["batch"], self._spec["delay_seconds"]
        isolate = bool(getattr(instance, "isolate", True))
        queue = Batcher(call, batch, delay, isolate=isolate, told=self._counts.batch.observe)
        self._counts.queues.append(queue)
        return queue

    def _ours(self, endpoint: Endpoint) -> Endpoint:
        """Only for the name of this model."""

        async def checked(request: Request) -> Response:
            if request.path_params["name"] != self._name:
                return JSONResponse(
                    {"error": f"There is no model {request.path_params['name']} here; there is {self._name}."}, 404
                )
            return await endpoint(request)

        return checked

    async def _health(self, request: Request) -> Response:
        trouble = self._life.trouble
        asked = request.url.path.rpartition("/")[2]
        return JSONResponse({asked: not trouble} | ({"error": trouble} if trouble else {}), 503 if trouble else 200)

    async def _ready(self, request: Request) -> Response:
        return JSONResponse({"name": self._name, "ready": not self._life.trouble}, 503 if self._life.trouble else 200)

    async def _metrics(self, request: Request) -> Response:
        return Response(self._counts.page(), media_type="text/plain; version=0.0.4")

    async def _about(self, request: Request) -> Response:
        from importlib.metadata import version  # slow to import, and seldom asked for

        return JSONResponse({"name": "headrace", "version": version("headrace"), "extensions": ["binary_tensor_data"]})

    async def _models(self, request: Request) -> Response:
        return JSONResponse(openai.models([self._name], 0))

    async def _unknown(self, request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        paths = sorted({route.path for route in self.app.routes if isinstance(route, Route)})
        message = f"{request.method} {request.url.path}: {problem.detail}; {self._class} has {', '.join(paths)}"
        if request.url.path.startswith("/v2"):
            return JSONResponse({"error": message}, problem.status_code)
        return error(problem.status_code, message, "unknown_path")

    async def _bug(self, request: Request, problem: Exception) -> Response:
        log(problem)
        return error(500, f"Headrace's own mistake: {type(problem).__name__}", "internal_error", "server_error")


if __name__ == "__main__":
    main()
