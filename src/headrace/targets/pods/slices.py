"""EndpointSlices → the pods behind a Service: which may be sent requests, which drain, which are not ready yet.

The API: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/; what is used of it is the same
in v1beta1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from headrace.spec.addresses import joined

SERVICE_LABEL = "kubernetes.io/service-name"
LARGEST_BYTES = 4 * 1024 * 1024
"""Of one slice: it has at most 1,000 endpoints of a few hundred bytes."""


class Standing(IntEnum):
    """How a pod is to be treated. Of two slices that know it, the higher one is right: nobody un-terminates a pod."""

    STARTING = 0
    READY = 1
    DRAINING = 2


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod behind a Service, named by itself, or by its address where the slice does not say which pod it is."""

    name: str
    host: str
    port: int
    standing: Standing

    @property
    def address(self) -> str:
        return f"http://{joined(self.host, self.port)}"


@dataclass(frozen=True, slots=True)
class Slice:
    """An EndpointSlice. `ports` are numbers by name."""

    name: str
    version: str
    service: str
    ports: Mapping[str, int]
    endpoints: tuple[tuple[str, str, Standing], ...]
    """(pod or "", its address, how it stands)."""


class _Conditions(msgspec.Struct):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Reference(msgspec.Struct):
    kind: str = ""
    name: str = ""


class _Endpoint(msgspec.Struct):
    addresses: list[str] = []
    conditions: _Conditions | None = None
    targetRef: _Reference | None = None


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class _Metadata(msgspec.Struct):
    name: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] | None = None


class _EndpointSlice(msgspec.Struct):
    metadata: _Metadata
    addressType: str = "IPv4"
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


_decode = msgspec.json.Decoder(_EndpointSlice).decode


def parse(raw: bytes | memoryview | msgspec.Raw) -> Slice:
    """The slice in this JSON. Raises ValueError (msgspec's are such) for what is none."""
    try:
        told = _decode(raw)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an EndpointSlice: {error}") from None
    if not told.metadata.name:
        raise ValueError("not an EndpointSlice: it has no name")
    ports = {port.name or "": port.port for port in told.ports or () if port.port and (port.protocol or "TCP") == "TCP"}
    endpoints = [_endpoint(each) for each in told.endpoints or () if each.addresses]
    known = endpoints if told.addressType in ("IPv4", "IPv6") else []  # FQDN: nobody makes them of pods
    service = (told.metadata.labels or {}).get(SERVICE_LABEL, "")
    return Slice(told.metadata.name, told.metadata.resourceVersion, service, ports, tuple(known))


def _endpoint(told: _Endpoint) -> tuple[str, str, Standing]:
    """All addresses of an endpoint are the same pod: the first will do."""
    reference = told.targetRef
    pod = reference.name if reference is not None and reference.kind == "Pod" else ""
    return pod, told.addresses[0], _standing(told.conditions or _Conditions())


def _standing(conditions: _Conditions) -> Standing:
    """Unknown means ready, and not terminating, as the API says. What is ready and terminating drains."""
    if conditions.terminating:
        return Standing.DRAINING
    ready = conditions.ready is not False and conditions.serving is not False
    return Standing.READY if ready else Standing.STARTING


def pods(slices: Iterable[Slice], service: str, port: str) -> dict[str, Pod]:
    """The pods behind `service` by name, each once, with the port of that name (or the only one there is)."""
    found: dict[str, Pod] = {}
    for each in sorted((one for one in slices if one.service == service), key=lambda one: one.name):
        number = each.ports.get(port) or (next(iter(each.ports.values())) if len(each.ports) == 1 else 0)
        for pod, host, standing in each.endpoints if number else ():
            made = Pod(pod or f"{host}:{number}", host, number, standing)
            found[made.name] = _better(found.get(made.name), made)
    return found


def _better(known: Pod | None, other: Pod) -> Pod:
    """One pod may be in several slices: of two address families, or while it moves from one to another. IPv4 is taken first."""
    if known is None:
        return other
    standing = max(known.standing, other.standing)
    kept = other if ":" in known.host and ":" not in other.host else known
    return Pod(kept.name, kept.host, kept.port, standing)
