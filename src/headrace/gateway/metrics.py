"""The gateway's counters as Prometheus metrics: names, units and help in one table."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from headrace.gateway.accounts import Account
from headrace.gateway.keys import Shared
from headrace.gateway.served import ServedModel
from headrace.gateway.stats import Histogram
from headrace.money import BILLION
from headrace.targets.base import Replica, State

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Name:
    """One metric, for the table in the reference."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


NAMES = (
    Name("headrace_requests_total", "counter", ("model", "status"), "Finished requests; status 499: the client left."),
    Name("headrace_retries_total", "counter", ("model",), "Times a request was sent again because a replica failed it."),
    Name("headrace_resumed_streams_total", "counter", ("model",), "Broken streams that another replica went on with."),
    Name("headrace_client_disconnects_total", "counter", ("model",), "Requests whose client left before the end."),
    Name("headrace_prompt_tokens_total", "counter", ("model",), "Tokens in, as the engine counted them."),
    Name("headrace_generated_tokens_total", "counter", ("model",), "Tokens out; estimated for streams without usage."),
    Name("headrace_queue_depth", "gauge", ("model",), "Requests that wait for a slot."),
    Name("headrace_slots", "gauge", ("model",), "Requests that can be in flight at once."),
    Name("headrace_in_flight_requests", "gauge", ("model", "replica"), "Requests at a replica."),
    Name("headrace_request_seconds", "histogram", ("model",), "From a request's last byte to its answer's last."),
    Name("headrace_queue_wait_seconds", "histogram", ("model",), "Time in the queue."),
    Name(
        "headrace_time_to_first_token_seconds",
        "histogram",
        ("model",),
        "From a request's last byte to the first token.",
    ),
    Name("headrace_time_per_output_token_seconds", "histogram", ("model",), "Mean time between tokens after the first."),
    Name(
        "headrace_gateway_overhead_seconds",
        "histogram",
        ("model",),
        "From a request's last byte until it is with an engine, queueing excluded.",
    ),
    Name(
        "headrace_prompt_blocks_total",
        "counter",
        ("model",),
        "Blocks of 512 bytes of prompts that were sent to one of several replicas.",
    ),
    Name(
        "headrace_prompt_blocks_matched_total",
        "counter",
        ("model",),
        "Of these, the ones that the replica was sent before and should have cached.",
    ),
    Name("headrace_replica_state", "gauge", ("model", "replica", "state"), "1 for the state that the replica is in."),
    Name("headrace_replica_restarts_total", "counter", ("model", "replica"), "Starts after the first."),
    Name("headrace_replica_memory_bytes", "gauge", ("model", "replica"), "Resident memory of the replica's processes."),
    Name("headrace_replicas_wanted", "gauge", ("model",), "Replicas that there shall be, of models that follow the load."),
    Name(
        "headrace_scaling_decisions_total",
        "counter",
        ("model", "move"),
        "Changes of their number: wake, up, down, sleep; evicted and blocked where memory is short.",
    ),
    Name("headrace_key_requests_total", "counter", ("key", "status"), "Finished requests by key, where keys are asked for."),
    Name(
        "headrace_key_refused_total",
        "counter",
        ("key", "limit"),
        "Refused by a limit: requests, tokens, concurrent, budget, connections.",
    ),
    Name(
        "headrace_key_tokens_total", "counter", ("key", "direction"), "Tokens in and out; estimated where the engine says none."
    ),
    Name("headrace_key_cost_total", "counter", ("key", "currency"), "What these cost, by the prices of models."),
    Name("headrace_key_in_flight_requests", "gauge", ("key",), "Requests that wait or are answered."),
    Name("headrace_limits_shared", "gauge", (), "1 while the limits of keys are shared through Redis, 0 while it is away."),
    Name("headrace_limits_shared_failures_total", "counter", (), "Times that Redis did not answer."),
    Name("headrace_limits_shared_waits_total", "counter", (), "Requests that waited for its answer before they were let in."),
    Name("headrace_client_connections", "gauge", (), "Open connections of clients."),
    Name(
        "headrace_client_connections_refused_total",
        "counter",
        ("limit",),
        "Connections that were refused: all (no more descriptors), address, key (gateway.connections).",
    ),
    Name("headrace_access_log_lost_lines_total", "counter", (), "Lines that were not written: a full disk, a slow pipe."),
    Name("headrace_tls_certificate_seconds", "gauge", (), "Until the certificate is good no more; negative after that."),
    Name("headrace_tls_handshakes_failed_total", "counter", (), "Connections that ended before their handshake did."),
)
"""Every metric of /metrics."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one scrape shows."""

    models: Mapping[str, ServedModel]
    replicas: Iterable[Replica]
    connections: int
    moves: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Scaling decisions by model and move."""
    wanted: Mapping[str, int] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    """What keys took; as many as the operator made."""
    certificate: tuple[float, int] | None = None
    """(seconds until its end, failed handshakes), with TLS."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Connections, by limit."""
    lost_lines: int = 0
    """Of the access log."""
    currency: str = "USD"
    """What keys' costs are in."""
    shared: Shared | None = None
    """Where the limits of keys are shared, if they are."""

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client wants them."""
        rows = self._rows()
        for name in NAMES:
            yield _family(name, rows.get(name.name, []))

    def _rows(self) -> dict[str, list[tuple[tuple[str, ...], float | Histogram]]]:
        rows: dict[str, list[tuple[tuple[str, ...], float | Histogram]]] = {}
        for name, model in self.models.items():
            for metric, labels, value in _of_model(model):
                rows.setdefault("headrace_" + metric, []).append(((name, *labels), value))
        for replica in self.replicas:
            for metric, labels, value in _of_replica(replica):
                rows.setdefault("headrace_replica_" + metric, []).append(((replica.model, replica.name, *labels), value))
        for name, account in self.accounts.items():
            for metric, labels, value in _of_account(account):
                rows.setdefault("headrace_key_" + metric, []).append(((name, *labels), value))
        rows["headrace_key_cost_total"] = [
            ((name, self.currency), account.cost / BILLION) for name, account in self.accounts.items()
        ]
        if self.shared is not None:
            rows["headrace_limits_shared"] = [((), float(self.shared.answers))]
            rows["headrace_limits_shared_failures_total"] = [((), self.shared.failures)]
            rows["headrace_limits_shared_waits_total"] = [((), self.shared.waits)]
        rows["headrace_scaling_decisions_total"] = [(labels, count) for labels, count in sorted(self.moves.items())]
        rows["headrace_replicas_wanted"] = [((model,), count) for model, count in sorted(self.wanted.items())]
        rows["headrace_client_connections"] = [((), self.connections)]
        rows["headrace_client_connections_refused_total"] = [((limit,), count) for limit, count in self.refused.items()]
        rows["headrace_access_log_lost_lines_total"] = [((), self.lost_lines)]
        if self.certificate is not None:
            rows["headrace_tls_certificate_seconds"] = [((), self.certificate[0])]
            rows["headrace_tls_handshakes_failed_total"] = [((), self.certificate[1])]
        return rows


def page(snapshot: Snapshot) -> bytes:
    """The exposition text, format 0.0.4."""
    return generate_latest(snapshot)


def _of_model(model: ServedModel) -> Iterator[tuple[str, tuple[str, ...], float | Histogram]]:
    stats, queue = model.stats, model.queue
    for status, count in sorted(stats.requests.items()):
        yield "requests_total", (str(status),), count
    for replica, running in sorted(queue.running.items()):
        yield "in_flight_requests", (replica,), running
    yield "retries_total", (), stats.retries
    yield "resumed_streams_total", (), stats.resumed
    yield "client_disconnects_total", (), stats.disconnects
    yield "prompt_tokens_total", (), stats.tokens_in
    yield "generated_tokens_total", (), stats.tokens_out
    yield "prompt_blocks_total", (), queue.routing.blocks
    yield "prompt_blocks_matched_total", (), queue.routing.matched
    yield "queue_depth", (), len(queue)
    yield "slots", (), queue.capacity
    yield "request_seconds", (), stats.duration
    yield "queue_wait_seconds", (), stats.wait
    yield "time_to_first_token_seconds", (), stats.ttft
    yield "time_per_output_token_seconds", (), stats.tpot
    yield "gateway_overhead_seconds", (), stats.overhead


def _of_account(account: Account) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for status, count in sorted(account.statuses.items()):
        yield "requests_total", (str(status),), count
    for limit, count in sorted(account.refused.items()):
        yield "refused_total", (limit,), count
    yield "tokens_total", ("in",), account.tokens_in
    yield "tokens_total", ("out",), account.tokens_out
    yield "in_flight_requests", (), account.running


def _of_replica(replica: Replica) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for state in State:
        yield "state", (state.value,), replica.state is state
    yield "restarts_total", (), replica.restarts
    if replica.memory_bytes is not None:
        yield "memory_bytes", (), replica.memory_bytes


def _family(name: Name, rows: list[tuple[tuple[str, ...], float | Histogram]]) -> Metric:
    if name.kind == "histogram":
        histogram = HistogramMetricFamily(name.name, name.help, labels=name.labels)
        for labels, value in rows:
            assert isinstance(value, Histogram)
            histogram.add_metric(labels, value.buckets(), value.sum)
        return histogram
    kind = CounterMetricFamily if name.kind == "counter" else GaugeMetricFamily
    family = kind(name.name, name.help, labels=name.labels)
    for labels, value in rows:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family
