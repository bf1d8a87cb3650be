"""How clients reach the models otherwise: from outside through the gateway, and past it where somebody else picks the engine."""

from headrace.spec.kubernetes import ExposeSpec
from headrace.targets.manifests.base import ENGINE, GATEWAY, PORT, PORT_NAME, Cluster, Manifest, Workload, metadata, selector

PATHS = ("/v1", "/v2", "/rerank")
"""The data path (gateway/paths.py). Status, logs and metrics stay inside."""

INSECURE = "headrace/without-keys"
"""The annotation that says that somebody chose to expose a gateway without keys."""

_NGINX = "nginx.ingress.kubernetes.io"
_NGINX_CLASSES = ("nginx", "webapprouting.kubernetes.azure.com")


def exposure(cluster: Cluster) -> list[Manifest]:
    """The gateway's route or Ingress, where the file asks for one."""
    asked = cluster.spec.expose
    if asked is None:
        return []
    return [_route(cluster, asked) if asked.gateway else _ingress(cluster, asked)]


def guarded(cluster: Cluster) -> bool:
    """Whether the gateway asks clients for keys."""
    return bool(cluster.gateway.get("keys"))


def bounded_by_class(asked: ExposeSpec) -> bool:
    """Whether the time limit is written for this class of Ingress; others have settings of their own."""
    return asked.ingress is None or asked.ingress in _NGINX_CLASSES


def pool(cluster: Cluster, load: Workload) -> list[Manifest]:
    """The InferencePool of a model, where the file names a picker."""
    asked = cluster.spec.inference_pool
    if asked is None:
        return []
    spec = {
        "targetPorts": [{"number": PORT}],
        "selector": {"matchLabels": selector(load.name, ENGINE)},
        "endpointPickerRef": {"name": asked.picker, "port": {"number": asked.port}},
    }
    about = metadata(cluster, load.name, ENGINE)
    return [{"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": about, "spec": spec}]


def _route(cluster: Cluster, asked: ExposeSpec) -> Manifest:
    name, _, namespace = (asked.gateway or "").partition(".")
    limit = f"{int(asked.timeout)}s"
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in PATHS],
        "backendRefs": [{"name": GATEWAY, "port": PORT}],
        "timeouts": {"request": limit, "backendRequest": limit},
    }
    spec = {
        "parentRefs": [{"name": name, **({"namespace": namespace} if namespace else {})}],
        "hostnames": [asked.host],
        "rules": [rule],
    }
    about = metadata(cluster, GATEWAY, GATEWAY, **_annotations(cluster, {}))
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": about, "spec": spec}


def _ingress(cluster: Cluster, asked: ExposeSpec) -> Manifest:
    backend = {"service": {"name": GATEWAY, "port": {"name": PORT_NAME}}}
    paths = [{"path": path, "pathType": "Prefix", "backend": backend} for path in PATHS]
    spec = {
        "ingressClassName": asked.ingress,
        **({"tls": [{"hosts": [asked.host], "secretName": asked.tls}]} if asked.tls else {}),
        "rules": [{"host": asked.host, "http": {"paths": paths}}],
    }
    own = _nginx(cluster, asked) if asked.ingress in _NGINX_CLASSES else {}
    about = metadata(cluster, GATEWAY, GATEWAY, **_annotations(cluster, own))
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": about, "spec": spec}


def _nginx(cluster: Cluster, asked: ExposeSpec) -> dict[str, str]:
    """Its limit is between two reads, 60 s by default; and it would hold a stream's events back in its buffers."""
    limit = str(int(asked.timeout))
    body = int(cluster.gateway.get("body", 32_000_000))
    return {
        f"{_NGINX}/proxy-read-timeout": limit,
        f"{_NGINX}/proxy-send-timeout": limit,
        f"{_NGINX}/proxy-buffering": "off",
        f"{_NGINX}/proxy-request-buffering": "off",
        f"{_NGINX}/proxy-body-size": str(body),
    }


def _annotations(cluster: Cluster, own: dict[str, str]) -> dict[str, dict[str, str]]:
    said = own if guarded(cluster) else {**own, INSECURE: "acknowledged"}
    return {"annotations": said} if said else {}
