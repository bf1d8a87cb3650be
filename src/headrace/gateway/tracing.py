"""OpenTelemetry spans of requests: one for each, below it its waits and its attempts at replicas; nothing of what was said.

Attributes are those of the GenAI semantic conventions (1.37), HTTP's, and ours under `headrace.`. Spans are handed to a batch
processor, whose own thread exports them: a collector that is slow or away costs spans, never a request.
"""

import re
import threading
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace import __version__
from headrace.gateway.access_log import LONGEST, End, key_name

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange
    from headrace.gateway.http import RequestHead
    from headrace.gateway.openai import Refusal
    from headrace.traffic import Finished

CLOSE_SECONDS = 3.0
"""How long the end waits for spans that are not exported yet."""
WAITED_SECONDS = 0.001
"""A shorter wait in the queue is no span."""
_PROPAGATOR = TraceContextTextMapPropagator()
_HEADERS = ("traceparent", "tracestate")
_LINES = re.compile(rb"(?<=\r\n)trace(?:parent|state): [^\r\n]*\r\n")
_OPERATIONS = {
    "chat": "chat", "messages": "chat", "responses": "chat", "completions": "text_completion", "generate": "text_completion",
    "generate_stream": "text_completion", "embeddings": "embeddings",
}  # fmt: skip
_ASKED = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
}


class Tracing:
    """What makes spans. `exporter` gets them; sampling and batches are as the OTEL_* variables say."""

    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("headrace", __version__)

    def begin(self, exchange: "Exchange", arrived: float) -> "Trace":
        """The trace of a request that came at `arrived`, in monotonic seconds."""
        return Trace(self._tracer, exchange.request.head, exchange.model.name, arrived)

    def refused(self, head: "RequestHead", refusal: "Refusal", model: str | None, arrived: float) -> None:
        """A request of the data path was refused before it had a place in a queue."""
        if head.route is not None:
            Trace(self._tracer, head, model or "", arrived).refused(head, refusal)

    def close(self) -> None:
        """Export what is left; waits a few seconds at most."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(CLOSE_SECONDS)


class Trace:
    """The spans of one request. Times are monotonic seconds."""

    __slots__ = ("_attempt", "_context", "_epoch", "_span", "_tracer", "id")

    def __init__(self, tracer: Tracer, head: "RequestHead", model: str, arrived: float) -> None:
        self._tracer = tracer
        self._epoch = time() - monotonic()
        carrier = {name: head.known[name.encode()].decode("latin-1") for name in _HEADERS if name.encode() in head.known}
        parent = _PROPAGATOR.extract(carrier, Context()) if carrier else Context()
        assert head.route
        operation = _OPERATIONS.get(head.route.kind, head.route.kind)
        said = {"http.request.method": head.method, "url.path": head.path[:LONGEST], "gen_ai.operation.name": operation}
        self._span: Span = tracer.start_span(
            f"{operation} {model}".strip(), parent, SpanKind.SERVER, said, start_time=self._at(arrived)
        )
        self._context = set_span_in_context(self._span, parent)
        self._attempt: Span | None = None
        self.id = f"{self._span.get_span_context().trace_id:032x}"

    def served(self, exchange: "Exchange", waited_from: float, now: float) -> None:
        """The queue gave the request to a replica: an attempt begins."""
        if now - waited_from >= WAITED_SECONDS:
            self._tracer.start_span("queue", self._context, start_time=self._at(waited_from)).end(self._at(now))
        said: dict[str, Any] = {"headrace.replica": exchange.replica, "headrace.attempt": exchange.retries + 1}
        self._attempt = self._tracer.start_span("attempt", self._context, SpanKind.CLIENT, said, start_time=self._at(now))

    def onward(self, lines: bytes) -> bytes:
        """The head's `lines` for the replica, which is told that the attempt is its parent."""
        context = (self._attempt or self._span).get_span_context()
        told = b"traceparent: 00-%032x-%016x-%02x\r\n" % (context.trace_id, context.span_id, context.trace_flags)
        if context.trace_state:
            told += b"tracestate: %s\r\n" % context.trace_state.to_header().encode("latin-1")
        return (_LINES.sub(b"", lines) if b"\r\ntrace" in lines else lines) + told

    def lost(self) -> None:
        """The attempt failed; another one follows, or the end."""
        self._end_attempt(None, "engine_lost")

    def over(self, exchange: "Exchange", over: "Finished", end: End, refusal: "Refusal | None") -> None:
        """The request is over."""
        failed = refusal.code if refusal is not None else ""
        self._end_attempt(over.status if over.replica else None, failed if refusal is not None and over.status >= 500 else "")
        span = self._span
        if span.is_recording():
            if over.ttft is not None:
                span.add_event("first token", timestamp=self._at(over.arrived + over.ttft))
            span.set_attributes({name: value for name, value in _described(exchange, over, end).items() if value is not None})
        self._finish(over.status, failed, self._at(over.arrived + over.seconds))

    def refused(self, head: "RequestHead", refusal: "Refusal") -> None:
        """It was refused before it had a place in a queue."""
        if (key := key_name(head)) is not None:
            self._span.set_attribute("headrace.key", key)
        self._span.set_attribute("headrace.end", "refused")
        self._finish(refusal.status, refusal.code, None)

    def _finish(self, status: int, failed: str, at: int | None) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if failed:
            self._span.set_attribute("error.type", failed)
        if status >= 500:  # as HTTP's conventions say of servers
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(at)

    def _end_attempt(self, status: int | None, failed: str) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if status is not None:
            attempt.set_attribute("http.response.status_code", status)
        if failed:
            attempt.set_attribute("error.type", failed)
            attempt.set_status(Status(StatusCode.ERROR))
        attempt.end()

    def _at(self, seconds: float) -> int:
        """Nanoseconds since 1970."""
        return int((self._epoch + seconds) * 1e9)


def _described(exchange: "Exchange", over: "Finished", end: End) -> dict[str, Any]:
    """What is said of a request that is over; None is nothing."""
    ask = exchange.ask
    asked = {_ASKED[name]: _number(ask.fields[name]) for name in _ASKED.keys() & ask.fields.keys()}
    return asked | {
        "gen_ai.provider.name": "headrace",
        "gen_ai.request.model": ask.model[:LONGEST],
        "gen_ai.request.stream": ask.stream,
        "gen_ai.request.choice.count": ask.choices if ask.choices != 1 else None,
        "gen_ai.response.model": over.model,
        "gen_ai.response.time_to_first_chunk": over.ttft if ask.stream else None,
        "gen_ai.usage.input_tokens": over.tokens_in,
        "gen_ai.usage.output_tokens": over.tokens_out,
        "headrace.end": end,
        "headrace.key": over.key,
        "headrace.queue.seconds": over.waited,
        "headrace.replica": over.replica or None,
        "headrace.request_id": exchange.request_id.decode(),
        "headrace.retries": exchange.retries,
    }


def _number(raw: msgspec.Raw) -> float | None:
    """A number as it was asked for; None for what is none."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**62 else None
