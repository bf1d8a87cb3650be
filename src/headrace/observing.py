"""What a gateway tells others of its requests: an access log where the file says so, traces where the environment does."""

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from headrace import __version__
from headrace.gateway.access_log import AccessLog
from headrace.gateway.gateway import Gateway

if TYPE_CHECKING:
    from headrace.gateway.tracing import Tracing

Say = Callable[[str], None]
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"


def observe(gateway: Gateway, log: str | None, environment: Mapping[str, str], say: Say) -> Callable[[], None]:
    """From now on the gateway writes its `log` and makes traces; returns what ends both, after the gateway. Raises UsageError."""
    if log is not None:
        gateway.log = AccessLog(log, say)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, gateway.log.reopen)
    gateway.tracing = tracing(environment, say)

    def close() -> None:
        if gateway.log is not None:
            gateway.log.close()
        if gateway.tracing is not None:
            gateway.tracing.close()

    return close


def tracing(environment: Mapping[str, str], say: Say) -> "Tracing | None":
    """What makes traces, when the standard variables ask for them: an OTLP endpoint, or OTEL_TRACES_EXPORTER=otlp."""
    exporters = environment.get("OTEL_TRACES_EXPORTER", "otlp" if any(map(environment.get, _ENDPOINTS)) else "none")
    if exporters.strip().lower() == "none" or environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _SPOKEN)
    if exporters.strip().lower() != "otlp" or protocol.strip().lower() != _SPOKEN:
        say(f"No traces: OTLP over {_SPOKEN} is the only way out here, and the environment wants {exporters} over {protocol}.")
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        from headrace.gateway.tracing import Tracing
    except ImportError:
        say("No traces: the environment asks for them (OTEL_*). Run: pip install 'headrace[otel]'")
        return None
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # once for each batch that is lost, not for each attempt
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    own = {"service.version": __version__} | ({} if named else {"service.name": "headrace"})
    return Tracing(OTLPSpanExporter(), Resource.create(own))
