"""Traces as a collector gets them: a real exporter, a real OTLP/HTTP receiver on loopback, engines that see their parent."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headrace.observing import tracing

from .clients import MESSAGES, chat, request
from .engines import answers, eventually, holds, says, whole

pytest.importorskip("opentelemetry.proto")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent; `status` is what it answers, once it is `open`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.got, self.raw, self.status = [], b"", 200
        self.open = threading.Event()
        self.open.set()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self):
        scopes = [scope for message in self.got for one in message.resource_spans for scope in one.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def named(self, name):
        return [span for span in self.spans if span.name == name]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.open.wait(10)
        if self.path == "/v1/traces" and self.server.status == 200:
            self.server.raw += body
            self.server.got.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    one = Receiver()
    yield one
    one.open.set()
    one.shutdown()
    one.server_close()


@pytest.fixture
def traced(world, receiver, monkeypatch):
    """`traced(OTEL_…=…)` turns traces on at the world's gateway."""
    made = []

    def turn_on(**environment):
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "20",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1", **environment,
        }  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        said = []
        world.gateway.tracing = tracing(environment, said.append)
        assert not said
        made.append(world.gateway.tracing)

    yield turn_on
    for one in made:
        one.close()


def attributes(span):
    """By name, with plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def test_a_request_is_a_span_with_the_numbers_of_the_genai_conventions(world, receiver, traced):
    traced()
    engine = await world.engine()
    await world.ask(chat(f"traceparent: 00-{TRACE}-{PARENT}-01", "tracestate: a=1,b=2", "X-Request-Id: mine", max_tokens=5))
    await eventually(lambda: receiver.named("chat chat"), "the span is exported")
    (span,), (attempt,) = receiver.named("chat chat"), receiver.named("attempt")
    assert (span.kind, span.trace_id.hex(), span.parent_span_id.hex()) == (SERVER, TRACE, PARENT)
    said = attributes(span)
    assert said.pop("headrace.queue.seconds") < 10
    assert said == {
        "http.request.method": "POST", "url.path": "/v1/chat/completions", "http.response.status_code": 200,
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "headrace", "gen_ai.request.model": "chat",
        "gen_ai.response.model": "chat", "gen_ai.request.stream": False, "gen_ai.request.max_tokens": 5,
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2, "headrace.end": "done", "headrace.replica": "chat-1",
        "headrace.request_id": "mine", "headrace.retries": 0,
    }  # fmt: skip
    assert [event.name for event in span.events] == ["first token"]
    assert span.start_time_unix_nano <= span.events[0].time_unix_nano <= span.end_time_unix_nano
    assert (attempt.kind, attempt.parent_span_id) == (CLIENT, span.span_id)
    headers = (await engine.was_asked()).fields
    assert [value for name, value in headers if name == "traceparent"] == [f"00-{TRACE}-{attempt.span_id.hex()}-01"]
    assert [value for name, value in headers if name == "tracestate"] == ["a=1,b=2"]


async def test_the_collector_learns_whose_spans_they_are_and_nothing_that_was_said(world, receiver, traced):
    traced()
    await world.engine()
    await world.ask(chat("Authorization: Bearer secret-1234567890", "Cookie: crumbs"))
    await eventually(lambda: receiver.spans, "spans are exported")
    resource = {one.key: one.value.string_value for one in receiver.got[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "headrace"
    for part in (MESSAGES[0]["content"].encode(), b"secret-1234567890", b"crumbs", b'"Hi"'):
        assert part not in receiver.raw


async def test_every_attempt_is_a_span_and_so_is_a_wait(world, receiver, traced):
    traced()
    task = world.loop.create_task(world.ask(chat()))
    await eventually(lambda: world.waiting, "the request waits")
    await eventually(lambda: world.model.queue.oldest() and world.loop.time() and _waited(world) > 0.005, "for a while")
    engines = [await world.engine(says(then="reset"), name="chat-1"), await world.engine(name="chat-2")]
    engines[1].script = answers
    assert (await task).status == 200
    await eventually(lambda: receiver.named("chat chat"), "the span is exported")
    (span,) = receiver.named("chat chat")
    first, *others = sorted(receiver.named("attempt"), key=lambda one: one.start_time_unix_nano)
    assert attributes(first)["headrace.replica"] == "chat-1"
    assert (first.status.code, attributes(first)["error.type"]) == (ERROR, "engine_lost")
    last = others[-1]
    assert (attributes(last)["headrace.replica"], last.status.code) == ("chat-2", 0)
    assert attributes(last)["headrace.attempt"] == attributes(span)["headrace.retries"] + 1 == len(others) + 1
    wait = receiver.named("queue")[0]
    assert (wait.kind, wait.parent_span_id, wait.trace_id) == (INTERNAL, span.span_id, span.trace_id)
    parents = [dict(asked.fields)["traceparent"].split("-")[2] for each in engines for asked in each.asked]
    assert set(parents) == {one.span_id.hex() for one in (first, *others)}, "each attempt has its own"


def _waited(world):
    return world.gateway.now() - world.model.queue.oldest()


async def test_what_fails_is_an_error_and_what_its_client_left_is_none(world, receiver, traced):
    traced()
    await world.engine(says(whole(b'{"error":{"message":"no"}}', b"500 Oops")))
    assert (await world.ask(chat())).status >= 500
    await eventually(lambda: len(receiver.named("chat chat")) == 1, "the first is exported")
    world.engines["chat-1"].script = holds
    client = await world.client()
    await client.send(chat())
    await eventually(lambda: world.engines["chat-1"].running, "the second is at the engine")
    client.close()
    await eventually(lambda: len(receiver.named("chat chat")) == 2, "the second is exported")
    failed, left = receiver.named("chat chat")
    assert (failed.status.code, attributes(failed)["headrace.end"]) == (ERROR, "refused")
    assert (left.status.code, attributes(left)["headrace.end"]) == (0, "left")


async def test_a_refused_request_is_a_span_without_attempts(world, receiver, traced):
    traced()
    await world.ask(chat(f"traceparent: 00-{TRACE}-{PARENT}-01", model="nope"))
    await eventually(lambda: receiver.spans, "the span is exported")
    (span,) = receiver.spans
    assert (span.name, span.trace_id.hex()) == ("chat", TRACE), "a name that is nowhere is no name of a span"
    assert attributes(span)["error.type"] == "model_not_found"


@pytest.mark.parametrize(
    "fields",
    [
        ("traceparent: nonsense", "tracestate: a=1"),
        (f"traceparent: 00-{'0' * 32}-{PARENT}-01",),
        (f"traceparent: 00-{TRACE}-{PARENT}-01",) * 2,
        (f"traceparent: 00-{TRACE}-{PARENT}-01é",),
    ],
)
async def test_what_is_no_traceparent_begins_a_trace_and_does_not_reach_the_engine(world, receiver, traced, fields):
    traced()
    engine = await world.engine()
    assert (await world.ask(chat(*fields))).status == 200
    headers = (await engine.was_asked()).fields
    (parent,) = [value for name, value in headers if name == "traceparent"]
    assert TRACE not in parent
    assert "tracestate" not in dict(headers)


async def test_what_is_not_sampled_is_not_exported_and_says_so_to_the_engine(world, receiver, traced):
    traced(OTEL_TRACES_SAMPLER="parentbased_always_on")
    engine = await world.engine()
    await world.ask(chat(f"traceparent: 00-{TRACE}-{PARENT}-00"))
    await world.ask(chat(f"traceparent: 00-{TRACE}-{PARENT}-01"))
    await eventually(lambda: receiver.named("chat chat"), "the second is exported")
    assert len(receiver.named("chat chat")) == 1
    first, second = (dict(asked.fields)["traceparent"] for asked in engine.asked)
    assert (first[:36], first[-2:]) == (f"00-{TRACE}-", "00")
    assert second[-2:] == "01"


@pytest.mark.parametrize("trouble", ["away", "slow", "broken"])
async def test_a_collector_in_trouble_fails_and_delays_no_request(world, receiver, traced, trouble):
    traced(**({"OTEL_EXPORTER_OTLP_ENDPOINT": world.unused_port()} if trouble == "away" else {}))
    receiver.status = 500 if trouble == "broken" else 200
    if trouble == "slow":
        receiver.open.clear()
    await world.engine()
    for _ in range(50):
        assert (await world.ask(chat())).status == 200
    receiver.open.set()


async def test_without_traces_the_headers_pass_as_they_are(world):
    engine = await world.engine()
    fields = (f"traceparent: 00-{TRACE}-{PARENT}-01", "tracestate: a=1", "baggage: c=3")
    await world.ask(chat(*fields))
    await world.ask(request(b'{"model": "chat", "prompt": "x"}', *fields, target="/v1/completions"))
    for asked in engine.asked:
        passed = [f"{name}: {value}" for name, value in asked.fields if name in ("traceparent", "tracestate", "baggage")]
        assert passed == list(fields)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
    ],
)
def test_no_traces_are_made_unless_the_environment_asks_for_what_there_is(environment, said):
    told = []
    assert tracing(environment, told.append) is None
    assert bool(told) == bool(said)
    assert not said or said in told[0]
