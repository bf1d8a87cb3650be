"""A Cluster → a Helm chart: the same objects, with what differs from cluster to cluster left to its values.

The cluster is rendered with marks in place of those values, and the marks become template expressions: there is no second
description of any object. With the chart's own values `helm template` gives what `headrace render` writes.
"""

import re
from dataclasses import replace
from typing import Any

from headrace.targets.manifests.base import GATEWAY, Cluster, Manifest, Workload, short_hash
from headrace.targets.manifests.manifests import MARK, dumped, manifests, path
from headrace.targets.manifests.weights import fixed_hash

# Marks: words that stand in no manifest, and that YAML leaves unquoted.
_NAMESPACE = "headrace-helm-namespace"
_IMAGE = "headrace-helm-image"
_ENGINE = "headrace-helm-engine-"
_SECRET = "headrace-helm-secret"
_CLASS = "headrace-helm-class"
_HOST = "headrace-helm-host"

_VALUE = "{{{{ {} | quote }}}}"
_VERSION = "0.1.0"


def chart(cluster: Cluster) -> dict[str, str]:
    """The chart's files by their paths."""
    made = [each for each in manifests(_marked(cluster)) if each["kind"] != "Namespace"]
    named = {f"templates/{_file(each)}": f"{MARK}\n{_template(cluster, each)}" for each in made}
    assert len(named) == len(made), "two objects in one file"
    about = {
        "apiVersion": "v2",
        "name": "headrace-models",
        "description": f"Made by headrace render --helm of {', '.join(load.model for load in cluster.workloads) or 'a gateway'}.",
        "type": "application",
        # Of its content: another file is another version, the same file the same.
        "version": f"{_VERSION}+{short_hash(*named, *named.values())}",
        "appVersion": cluster.version,
    }
    values = f"{MARK}\n{_SAID}{dumped(_values(cluster))}"
    return {"Chart.yaml": f"{MARK}\n{dumped(about)}", "values.yaml": values, **named}


_SAID = """\
# What differs from cluster to cluster; all else is decided by the file that this was rendered of. The namespace is the release's.
"""


def _values(cluster: Cluster) -> dict[str, Any]:
    spec = cluster.spec
    return {
        "image": cluster.image,
        # KAITO has the image of a preset.
        "images": {
            load.name: load.image for load in cluster.workloads if load.image and not (spec.on_kaito(load.model) and load.preset)
        },
        "secret": spec.secret or "",
        "storageClass": spec.storage.class_ or "",
        "gateways": spec.gateways,
        "replicas": {load.name: _replicas(load) for load in cluster.workloads},
        **({"host": spec.expose.host} if spec.expose else {}),
    }


def _replicas(load: Workload) -> dict[str, int]:
    least, most = load.replicas
    return {"min": least, "max": most} if load.scaled else {"count": most}


def _marked(cluster: Cluster) -> Cluster:
    """The cluster with marks for values. They are no values that the spec would accept, and are not asked to be."""
    storage = cluster.spec.storage.model_copy(update={"class_": _CLASS})
    own: dict[str, Any] = {"namespace": _NAMESPACE, "image": _IMAGE, "secret": _SECRET, "storage": storage}
    if cluster.spec.expose:
        own["expose"] = cluster.spec.expose.model_copy(update={"host": _HOST})
    loads = tuple(replace(load, image=_ENGINE + load.name if load.image else "") for load in cluster.workloads)
    return replace(cluster, spec=cluster.spec.model_copy(update=own), workloads=loads)


def _template(cluster: Cluster, manifest: Manifest) -> str:
    # Braces of the file's own, as in a chat template, are no expressions.
    text = dumped(manifest).replace("{{", '{{ "{{" }}')
    text = _counted(cluster, manifest, text)
    text = _optional(text)
    if manifest["kind"] == "Job":
        text = text.replace(f"  name: {manifest['metadata']['name']}\n", f"  name: {_job_name(manifest)}\n")
    for mark, value in _marks(cluster):
        if mark not in text:
            continue
        text = re.sub(rf"(?<=: ){mark}$", _VALUE.format(value), text, flags=re.MULTILINE)
        text = text.replace(mark, f"{{{{ {value} }}}}")
    # Who made it is who may remove it: `headrace apply --prune` looks for its own.
    return text.replace("app.kubernetes.io/managed-by: headrace", "app.kubernetes.io/managed-by: {{ .Release.Service }}")


def _file(manifest: Manifest) -> str:
    """A Job's name is made of values: its file has none of them."""
    if manifest["kind"] != "Job":
        return path(manifest)
    return f"{path(manifest).partition('/')[0]}/job-pull.yaml"


def _job_name(manifest: Manifest) -> str:
    """The hash that is in it, of the values that the chart is told: a Job cannot be changed, and another is another Job."""
    begin = manifest["metadata"]["name"].rpartition("-")[0]
    parts = f'printf "%s\\x00%s\\x00%s" "{fixed_hash(manifest["spec"])}" .Values.image .Values.secret'
    return f"{begin}-{{{{ {parts} | sha256sum | trunc 8 }}}}"


def _marks(cluster: Cluster) -> list[tuple[str, str]]:
    """The longest name first: one may begin with another."""
    names = sorted((load.name for load in cluster.workloads), key=len, reverse=True)
    engines = [(_ENGINE + name, f'(index .Values.images "{name}")') for name in names]
    return [
        *engines,
        (_NAMESPACE, ".Release.Namespace"),
        (_IMAGE, ".Values.image"),
        (_SECRET, ".Values.secret"),
        (_HOST, ".Values.host"),
    ]


def _optional(text: str) -> str:
    """What is there only where its value is: the token, the storage class."""
    token = r"- name: HF_TOKEN\n(?P=in)  valueFrom:\n(?P=in)    secretKeyRef:\n(?P=in)      name: \S+\n(?P=in)      key: HF_TOKEN"
    access = rf"presetOptions:\n(?P=in)  modelAccessSecret: {_SECRET}"
    for block in (token, access):
        text = re.sub(rf"^(?P<in> *){block}$", r"{{- if .Values.secret }}\n\g<0>\n{{- end }}", text, flags=re.MULTILINE)
    return re.sub(
        rf"^( *storageClassName: ){_CLASS}$",
        r"{{- with .Values.storageClass }}\n\1{{ . | quote }}\n{{- end }}",
        text,
        flags=re.MULTILINE,
    )


def _counted(cluster: Cluster, manifest: Manifest, text: str) -> str:
    """Numbers of replicas: what a scaler has between, what stands still, and the gateway's."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    if kind == "ConfigMap" and name == GATEWAY:
        return _told(cluster, text)
    if kind == "Deployment" and name == GATEWAY:
        return re.sub(r"^  replicas: \d+$", "  replicas: {{ .Values.gateways }}", text, flags=re.MULTILINE)
    of = f'(index .Values.replicas "{name}")'
    if kind in ("Deployment", "LeaderWorkerSet", "InferenceSet"):
        text = re.sub(r"^  replicas: \d+$", f"  replicas: {{{{ {of}.count }}}}", text, flags=re.MULTILINE)
        key = r"(scaledobject\.kaito\.sh/(min|max)-replicas: )\S+"
        return re.sub(key, lambda found: f"{found[1]}{{{{ {_kaito(of, found[2])} | quote }}}}", text)
    return _scaled(of, text) if kind == "ScaledObject" else text


def _told(cluster: Cluster, text: str) -> str:
    """What the gateway is told of the numbers of replicas."""
    ends = {load.name: ("min", "max") if load.scaled else ("count", "count") for load in cluster.workloads}

    def counted(found: re.Match[str]) -> str:
        of = f'(index .Values.replicas "{found["name"]}")'
        least, most = ends[found["name"]]
        return f"{found['before']}{{{{ {of}.{least} }}}}{found['between']}{{{{ {of}.{most} }}}}"

    said = r'(?P<before>"service": "(?P<name>[^"]+)",(?:(?!"service").)*?"replicas": \[\s*)\d+(?P<between>,\s*)\d+'
    return re.sub(said, counted, text, flags=re.DOTALL)


def _kaito(of: str, end: str) -> str:
    return f"max 1 (int {of}.min)" if end == "min" else f"{of}.max"


def _scaled(of: str, text: str) -> str:
    text = re.sub(r"(?<=minReplicaCount: )\d+", f"{{{{ {of}.min }}}}", text)
    text = re.sub(r"(?<=maxReplicaCount: )\d+", f"{{{{ {of}.max }}}}", text)
    text = re.sub(r"^(    replicas: )\d+$", rf"\1{{{{ max 1 (int {of}.min) }}}}", text, flags=re.MULTILINE)
    asleep = r"^  pollingInterval: \d+\n  cooldownPeriod: \d+$"
    return re.sub(asleep, rf"{{{{- if eq 0 (int {of}.min) }}}}\n\g<0>\n{{{{- end }}}}", text, flags=re.MULTILINE)
