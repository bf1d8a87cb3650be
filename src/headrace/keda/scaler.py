"""The external scaler: KEDA asks how many requests wait and run, and is told at once when a sleeping model is asked for."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from time import monotonic
from typing import Any

import grpc
import msgspec

from headrace.errors import HeadraceError
from headrace.keda import messages
from headrace.keda.activity import Activity, Count
from headrace.keda.peers import SERVICE as PEERS_SERVICE
from headrace.keda.peers import Peers, Unknown
from headrace.spec.addresses import joined

METRIC = "headrace-requests"
"""Waiting and running requests of the model, over all gateways."""
LOOK_SECONDS = 0.05
"""How often counts are looked at. The first held request of a model that sleeps is told at once, by `look`."""
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a lottery
    ("grpc.max_receive_message_length", 65536),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),  # peers ask every 10 s whether we are there
)

log = logging.getLogger("headrace")


class Scaler:
    """Serves KEDA and the other gateways. `counts` says what this gateway counts now, by model."""

    def __init__(self, counts: Callable[[], Mapping[str, Count]]) -> None:
        self._counts = counts
        self._activity = Activity()
        self._changed = asyncio.Event()
        self.peers = Peers(self._tell)
        self._server: Any = None
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    # ---- its life

    async def listen(self, host: str, port: int) -> int:
        """Answer there; returns the port really used. Raises HeadraceError."""
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._scaler_handlers(), self._peer_handlers()))
        address = joined(host, port)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise HeadraceError(f"The scaler cannot listen on {address}: {error}.", "Choose another scaler.port.") from None
        await self._server.start()
        self._task = asyncio.create_task(self._run())
        return port

    async def close(self) -> None:
        """Answer nobody any more: who is connected hears it at once and asks another gateway."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(None)
        await self.peers.close()

    def look(self) -> None:
        """Count now, and tell whoever listens if that changes what is active."""
        before = self._activity.active
        if self._activity.look(self._counts(), monotonic()) != before:
            self._tell()

    async def _run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def _tell(self) -> None:
        """Wake every stream; each looks whether anything is new for it."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def active(self, model: str) -> bool | None:
        """Whether the model is asked for at any gateway; None is unknown."""
        counts = self._counts()
        if model in self._activity.active or (model in counts and counts[model].now):
            return True
        return self.peers.active(model)

    # ---- what KEDA asks

    def _scaler_handlers(self) -> Any:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers = {
            "IsActive": unary(self._is_active, messages.ScaledObjectRef.FromString, _serialized),
            "StreamIsActive": stream(self._stream_is_active, messages.ScaledObjectRef.FromString, _serialized),
            "GetMetricSpec": unary(self._metric_spec, messages.ScaledObjectRef.FromString, _serialized),
            "GetMetrics": unary(self._metrics, messages.GetMetricsRequest.FromString, _serialized),
        }
        return grpc.method_handlers_generic_handler(messages.SERVICE, handlers)

    async def _is_active(self, ref: Any, context: Any) -> Any:
        active = self.active(await self._model(ref, context))
        if active is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.peers.silent())
        return messages.IsActiveResponse(result=active)

    async def _stream_is_active(self, ref: Any, context: Any) -> AsyncIterator[Any]:
        """What is, at once, then each change. What is not known is not told: KEDA goes on with what it heard."""
        model = await self._model(ref, context)
        told: bool | None = None
        while True:
            changed = self._changed
            active = self.active(model)
            if active is not None and active != told:
                told = active
                yield messages.IsActiveResponse(result=active)
            await changed.wait()

    async def _metric_spec(self, ref: Any, context: Any) -> Any:
        await self._model(ref, context)
        target = await _target(ref, context)
        spec = messages.MetricSpec(metricName=METRIC, targetSize=math.ceil(target), targetSizeFloat=target)
        return messages.GetMetricSpecResponse(metricSpecs=[spec])

    async def _metrics(self, request: Any, context: Any) -> Any:
        model = await self._model(request.scaledObjectRef, context)
        try:
            elsewhere = await self.peers.count(model)
        except Unknown as error:
            self._say(str(error))
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the load of {model} is not known: {error}")
        self._say("")
        here = self._counts().get(model)
        total = elsewhere + (here.now if here else 0)
        value = messages.MetricValue(metricName=request.metricName or METRIC, metricValue=total, metricValueFloat=float(total))
        return messages.GetMetricsResponse(metricValues=[value])

    def _say(self, trouble: str) -> None:
        """Each trouble once, whoever asks how often."""
        if trouble and trouble != self._trouble:
            log.warning("KEDA cannot be told of the load: %s", trouble)
        elif self._trouble and not trouble:
            log.info("KEDA is told of the load again")
        self._trouble = trouble

    async def _model(self, ref: Any, context: Any) -> str:
        """The model that the trigger's metadata names."""
        model, known = ref.scalerMetadata.get("model", ""), self._counts()
        if not model:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"{ref.namespace}/{ref.name}: the trigger's metadata names no model; write model: NAME",
            )
        if model not in known:
            names = ", ".join(sorted(known)[:20])
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f'{ref.namespace}/{ref.name}: there is no model "{model[:128]}"; there are {names}'
            )
        return str(model)

    # ---- what other gateways ask

    def _peer_handlers(self) -> Any:
        handlers = {
            "Counts": grpc.unary_unary_rpc_method_handler(self._peer_counts),
            "Active": grpc.unary_stream_rpc_method_handler(self._peer_active),
        }
        return grpc.method_handlers_generic_handler(PEERS_SERVICE, handlers)

    async def _peer_counts(self, request: bytes, context: Any) -> bytes:
        return msgspec.json.encode({name: count.now for name, count in self._counts().items() if count.now})

    async def _peer_active(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        told: frozenset[str] | None = None
        while True:
            changed = self._changed
            if self._activity.active != told:
                told = self._activity.active
                yield msgspec.json.encode(sorted(told))
            await changed.wait()


async def _target(ref: Any, context: Any) -> float:
    """Requests for one replica, as the trigger says."""
    said = ref.scalerMetadata.get("target", "")
    try:
        target = float(said)
    except ValueError:
        target = math.nan
    if not 0 < target < math.inf:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            f'{ref.namespace}/{ref.name}: target: "{said[:40]}" is no number of requests per replica',
        )
    return target


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())
