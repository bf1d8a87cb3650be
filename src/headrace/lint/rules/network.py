"""HR6xx: who reaches a model, and as whom."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.lint.base import Say, rule
from headrace.lint.context import Context, Object
from headrace.lint.serving import Served, engines

_KEYS = ("--api-key", "--api-keys", "--admin-api-key", "--api-key-file")
_VARIABLES = ("VLLM_API_KEY", "API_KEY", "SGLANG_API_KEY", "LLAMA_API_KEY")
_WITH_KEY = {
    **{"vllm": "give the engine a key (VLLM_API_KEY from a secret)", "sglang": "give the engine a key (--api-key)"},
    **{"llamacpp": "give the engine a key (LLAMA_API_KEY from a secret)", "tgi": "give the engine a key (API_KEY from a secret)"},
}
_IDENTITY = re.compile(r"(?:x-)?(?:[\w-]*-)?(?:user|user-?id|tenant|tenant-?id|priority|fairness-id|org|team)", re.I)
_GATED = re.compile(r"auth-url|auth-type|auth-signin|whitelist-source-range|allowlist|oauth|auth-tls", re.I)
_INSIDE = re.compile(r"internal|azure-load-balancer-internal|scheme.*internal", re.I)


@rule("HR609", "error", "a model that is open to the internet", "https://docs.vllm.ai/en/latest/usage/security/")
def open_endpoint(context: Context) -> Iterator[Say]:
    """A Service of type LoadBalancer or NodePort, or an Ingress, in front of an engine without keys: whoever finds it uses it,
    at your cost. Ports of docker-compose are open on every address of the machine, past most firewalls, unless one is said."""
    for one in engines(context):
        if one.owner.kind == "service" and not _has_key(one):
            yield from _published(one)
        if one.pod is None or not one.lives or _has_key(one):
            continue
        for service in context.selecting("Service", one.pod.labels, one.owner.at.file):
            if not one.owner.near(service):
                continue
            kind = service.spec.get("type")
            outside = kind.text == "LoadBalancer" and not _inside(service) and not service.spec.get("loadBalancerSourceRanges")
            if outside:
                what = f"{service.title} is reachable from outside, and {one.owner.title} asks for no key."
                yield Say(kind, what, f"Write ClusterIP, or {_WITH_KEY.get(one.engine, 'put authentication in front')}.")
            elif kind.text == "NodePort":
                what = f"{service.title} is reachable at every node, and {one.owner.title} asks for no key."
                yield Say(
                    kind, what, f"Write ClusterIP, or {_WITH_KEY.get(one.engine, 'put authentication in front')}.", (), "warning"
                )
            yield from _ingresses(context, service, one)


def _published(one: Served) -> Iterator[Say]:
    """The first port of a service that is open to other machines."""
    for port in one.owner.at.get("ports").each():
        given = re.sub(r"\$\{[^}]*\}", "1", port.text).partition("/")[0].split(":")
        address = port.get("host_ip").text or ("" if len(given) < 3 else ":".join(given[:-2]))
        published = port.get("published").text or len(given) > 1
        if published and address in ("", "0.0.0.0", "[::]", "::"):
            what = f"{one.owner.name} is reachable from other machines through this port, and asks for no key."
            fix = f"Write 127.0.0.1: before the port, or {_WITH_KEY.get(one.engine, 'put authentication in front')}."
            yield Say(port, what, fix, (), "info")
            return


def _ingresses(context: Context, service: Object, one: Served) -> Iterator[Say]:
    for ingress in context.of("Ingress"):
        if _GATED.search(str(ingress.at.get("metadata", "annotations").value)) or not ingress.near(service):
            continue
        for each in ingress.spec.get("rules").each():
            for path in each.get("http", "paths").each():
                at = path.get("backend", "service", "name")
                if at.text == service.name:
                    what = f"{ingress.title} opens {service.title}, and {one.owner.title} asks for no key."
                    yield Say(at, what, "Put authentication in front, or give the engine a key.", (), "warning")


def _has_key(one: Served) -> bool:
    return (
        one.flag(*_KEYS) is not None
        or any(one.env(name) is not None for name in _VARIABLES)
        or bool(one.container.get("envFrom"))
    )


def _inside(service: Object) -> bool:
    return bool(_INSIDE.search(str(service.at.get("metadata", "annotations").value)))


@rule("HR610", "error", "identity from a client's header", "https://llm-d.ai/docs/architecture/Components/inference-scheduler")
def client_header(context: Context) -> Iterator[Say]:
    """A header such as x-user-id is whatever the client writes: limits and priorities by it are chosen by the client. Identity
    comes from the key."""
    for one in context.of("BackendTrafficPolicy"):
        for each in one.spec.get("rateLimit", "global", "rules").each():
            for select in each.get("clientSelectors").each():
                for header in select.get("headers").each():
                    if (name := header.get("name")).text and _IDENTITY.fullmatch(name.text):
                        yield Say(name, *_asserted(name.text))


def _asserted(name: str) -> tuple[str, str]:
    return (
        f"{name} is whatever the client writes.",
        "Take the identity from the key or token (a claim), and drop the client's header.",
    )


@rule("HR611", "warning", "one key for all", "https://github.com/gpustack/gpustack/issues/2116")
def shared_key(context: Context) -> Iterator[Say]:
    """One key that all clients share has no limits of its own: one client takes everything, and nobody can say who."""
    for one in context.of("production-stack"):
        for at in (one.at.get("servingEngineSpec", "vllmApiKey"), one.at.get("routerSpec", "vllmApiKey")):
            if at:
                what = "All clients share this key: one of them can take everything."
                yield Say(at, what, "Put a gateway with a key, and limits, for each client in front.", (), "info")


@rule("HR612", "warning", "a route that is refused", "https://gateway-api.sigs.k8s.io/reference/spec/")
def route(context: Context) -> Iterator[Say]:
    """Paths are Exact, PathPrefix or RegularExpression; and a backend in another namespace needs a ReferenceGrant there."""
    grants = {
        (grant.namespace, each.get("namespace").text)
        for grant in context.of("ReferenceGrant")
        for each in grant.spec.get("from").each()
    }
    for one in context.of("HTTPRoute"):
        for each in one.spec.get("rules").each():
            for match in each.get("matches").each():
                yield from _path_type(match.get("path", "type"))
            for backend in each.get("backendRefs").each():
                other = backend.get("namespace")
                if other.text and one.namespace and other.text != one.namespace and (other.text, one.namespace) not in grants:
                    name = backend.get("name").text
                    what = f"{name} is in namespace {other.text}, and no ReferenceGrant among these files allows it."
                    yield Say(other, what, f"Add a ReferenceGrant in {other.text}.", (), "info")


def _path_type(at: At) -> Iterator[Say]:
    if at.text and at.text not in ("Exact", "PathPrefix", "RegularExpression") and "{" not in at.text:
        fix = "Write PathPrefix." if "refix" in at.text else "Write Exact or PathPrefix."
        yield Say(at, f"{at.text} is no type of a path.", fix, (), "error")
