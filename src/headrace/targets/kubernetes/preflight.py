"""What a cluster lacks for a set of objects, all of it at once, and the command that brings each."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.targets.kubernetes.order import WORKLOADS, Manifest, ref
from headrace.targets.kubernetes.resources import Resource
from headrace.targets.kubernetes.snapshot import Object

OLDEST = (1, 25)
"""Kubernetes that the objects are written for: policy/v1 and autoscaling/v2 are there, what was before them is gone."""

_INSTALL: Mapping[str, tuple[str, str]] = {
    "keda.sh": (
        "KEDA",
        "helm install keda keda --repo https://kedacore.github.io/charts --namespace keda --create-namespace"
        " (AKS: az aks update -g GROUP -n CLUSTER --enable-keda)",
    ),
    "kaito.sh": (
        "KAITO",
        "helm install kaito-workspace workspace --repo https://kaito-project.github.io/kaito/charts/kaito"
        " --namespace kaito-workspace --create-namespace (AKS: az aks update -g GROUP -n CLUSTER --enable-ai-toolchain-operator)",
    ),
    "leaderworkerset.x-k8s.io": (
        "LeaderWorkerSet",
        "helm install lws oci://registry.k8s.io/lws/charts/lws --namespace lws-system --create-namespace",
    ),
    "monitoring.coreos.com": (
        "the Prometheus operator",
        "helm install prometheus kube-prometheus-stack --repo https://prometheus-community.github.io/helm-charts"
        " --namespace monitoring --create-namespace",
    ),
    "azmonitoring.coreos.com": (
        "Azure's managed Prometheus",
        "az aks update -g GROUP -n CLUSTER --enable-azure-monitor-metrics",
    ),
    "gateway.networking.k8s.io": (
        "Gateway API",
        "kubectl apply --server-side -f"
        " https://github.com/kubernetes-sigs/gateway-api/releases/latest/download/standard-install.yaml",
    ),
    "inference.networking.k8s.io": (
        "the Gateway API inference extension",
        "kubectl apply -f"
        " https://github.com/kubernetes-sigs/gateway-api-inference-extension/releases/latest/download/manifests.yaml",
    ),
}

_ONE_NODE = (
    "disk.csi.azure.com",
    "ebs.csi.aws.com",
    "pd.csi.storage.gke.io",
    "rancher.io/local-path",
    "kubernetes.io/azure-disk",
)
"""Provisioners whose volumes only one node can mount."""

GIVING: Mapping[str, str] = {"Role": "escalate", "RoleBinding": "bind"}
"""Kinds that give rights, and what who has these rights not may be allowed instead."""

_WAITED_FOR = "pods that need it wait for it"
_GENERIC = "create secret generic"

_DEFAULT = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """What a user may have to be allowed."""

    verb: str
    group: str
    plural: str
    namespace: str
    """Empty: in the whole cluster."""
    subresource: str = ""

    @property
    def named(self) -> str:
        whole = f"{self.plural}/{self.subresource}" if self.subresource else self.plural
        return f"{whole}.{self.group}" if self.group else whole


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a cluster. None where the user may not look."""

    version: str
    kinds: frozenset[tuple[str, str]]
    """(apiVersion, kind) of those that were asked about and are there."""
    namespace: bool
    denied: tuple[Right, ...] = ()
    nodes: tuple[Object, ...] | None = None
    classes: tuple[Object, ...] | None = None
    absent_secrets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """`fatal`: nothing is written. The others are told, and end when what is missing comes."""

    what: str
    fix: str = ""
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.what}\n    {self.fix}" if self.fix else self.what


def rights(resources: Iterable[Resource], namespace: str, *, removes: bool, waits: bool) -> list[Right]:
    """What applying needs: to see, make and change each kind; to remove and to watch where that is asked for."""
    needed = []
    for each in sorted(set(resources)):
        verbs = ["get", "create", "patch"]
        if each.namespaced:  # else replicas that are ours, and graduations under way, would be taken to be absent
            verbs.append("list")
        if removes and each.kind != "Namespace":  # which is never removed
            verbs.append("delete")
        needed += [Right(verb, each.group, each.plural, namespace if each.namespaced else "") for verb in verbs]
    if waits:
        needed += [Right("list", "", plural, namespace) for plural in ("pods", "events")]
        needed.append(Right("list", "apps", "deployments", namespace))
        needed.append(Right("get", "", "pods", namespace, "log"))
    return needed


def given(roles: Iterable[Manifest], namespace: str) -> list[Right]:
    """What Roles allow."""
    return [
        Right(verb, group, resource.partition("/")[0], namespace, resource.partition("/")[2])
        for role in roles
        for rule in role.get("rules") or ()
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


def giving(manifests: Iterable[Manifest], namespace: str) -> list[Right]:
    """What makes Roles and RoleBindings of rights that one does not have."""
    verbs = sorted({GIVING[each["kind"]] for each in manifests})
    return [Right(verb, "rbac.authorization.k8s.io", "roles", namespace) for verb in verbs]


def secrets(manifests: Iterable[Manifest]) -> dict[str, tuple[str, str]]:
    """The Secrets that have to be there: what is without one, and what kubectl makes it with."""
    return {name: about for manifest in manifests for name, about in _named(manifest)}


def _named(manifest: Manifest) -> Iterator[tuple[str, tuple[str, str]]]:
    for each in _under(manifest, "secretKeyRef"):
        if not each.get("optional"):
            made = f"{_GENERIC} {each['name']} --from-literal=KEY=VALUE (HF_TOKEN for gated weights)"
            yield each["name"], (_WAITED_FOR, made)
    for each in _under(manifest, "presetOptions"):
        if name := each.get("modelAccessSecret"):
            yield name, (_WAITED_FOR, f"{_GENERIC} {name} --from-literal=HF_TOKEN=VALUE")
    for each in _under(manifest, "secret"):
        # A volume: of ours only that with the file of clients' keys.
        if (name := each.get("secretName")) and not each.get("optional"):
            yield name, (_WAITED_FOR, f"{_GENERIC} {name} --from-file=keys.json (headrace key add writes it)")
    for each in _under(manifest, "credentials"):
        made = f"{_GENERIC} {each['name']} --from-literal={each['key']}=KEY (of headrace key add --metrics)"
        yield each["name"], ("Prometheus gets no metrics of what asks for that key", made)
    if manifest["kind"] == "Ingress":
        for each in manifest["spec"].get("tls") or ():
            made = f"create secret tls {each['secretName']} --cert=FILE --key=FILE"
            yield each["secretName"], ("its host has no certificate", made)


def problems(manifests: Sequence[Manifest], found: Found, namespace: str) -> list[Problem]:
    """All of them, the fatal ones first."""
    told = [
        *_version(found),
        *_kinds(manifests, found),
        *_rights(found, namespace),
        *_storage(manifests, found),
        *_nodes(manifests, found),
        *_secrets(manifests, found, namespace),
    ]
    return sorted(told, key=lambda each: not each.fatal)


def without_namespace(manifests: Sequence[Manifest], found: Found) -> list[Manifest]:
    """The objects without their namespace, where it is there and the user may not change it."""
    if found.namespace and any(right.plural == "namespaces" for right in found.denied):
        return [each for each in manifests if each["kind"] != "Namespace"]
    return list(manifests)


def _version(found: Found) -> Iterator[Problem]:
    said = re.match(r"v?(\d+)\.(\d+)", found.version)
    if said and (int(said[1]), int(said[2])) < OLDEST:
        yield Problem(
            f"Kubernetes {found.version} is older than {OLDEST[0]}.{OLDEST[1]}, which the objects are written for.",
            "Upgrade the cluster.",
            fatal=False,
        )


def _kinds(manifests: Sequence[Manifest], found: Found) -> Iterator[Problem]:
    """Each project once, with the kinds of it that are missing."""
    missing: dict[str, set[str]] = {}
    for each in manifests:
        if (each["apiVersion"], each["kind"]) not in found.kinds:
            missing.setdefault(each["apiVersion"], set()).add(each["kind"])
    for api_version, kinds in sorted(missing.items()):
        project = _INSTALL.get(api_version.rpartition("/")[0])
        said = f"{', '.join(sorted(kinds))} ({api_version})"
        if project:
            yield Problem(f"{project[0]} is not installed: the cluster knows no {said}.", project[1])
        else:
            yield Problem(f"The cluster knows no {said}.", f"It is part of Kubernetes {OLDEST[0]}.{OLDEST[1]} and later.")


def _rights(found: Found, namespace: str) -> Iterator[Problem]:
    denied = [right for right in found.denied if right.plural != "namespaces"]
    if len(denied) < len(found.denied) and not found.namespace:
        yield Problem(
            f"The namespace {namespace} is not there, and you may not make it.",
            f"Somebody who may runs: kubectl create namespace {namespace}",
        )
    if denied:
        verbs, named = sorted({right.verb for right in denied}), sorted({right.named for right in denied})
        what = "; ".join(f"{verb} {', '.join(sorted(r.named for r in denied if r.verb == verb))}" for verb in verbs)
        yield Problem(
            f"You may not, in the namespace {namespace}: {what}.",
            f"Somebody who may runs: kubectl -n {namespace} create role headrace-apply --verb={','.join(verbs)}"
            f" --resource={','.join(named)} && kubectl -n {namespace} create rolebinding headrace-apply"
            " --role=headrace-apply --user=YOU (roles add up: take another name where there is one of that name)",
        )


def _storage(manifests: Sequence[Manifest], found: Found) -> Iterator[Problem]:
    """Classes that are not there, and storage of one node where many have to mount it."""
    if found.classes is None:
        return
    by_name = {str(each["metadata"]["name"]): each for each in found.classes}
    default = next((each for each in found.classes if _is_default(each)), None)
    told: set[str] = set()
    for claim in manifests:
        if claim["kind"] != "PersistentVolumeClaim":
            continue
        named = claim["spec"].get("storageClassName")
        class_ = by_name.get(named) if named else default
        many = "ReadWriteMany" in claim["spec"].get("accessModes", ())
        for problem in _class(named, class_, many, by_name):
            if problem.what not in told:
                told.add(problem.what)
                yield problem


def _class(named: str | None, class_: Object | None, many: bool, there: Mapping[str, Object]) -> Iterator[Problem]:
    choice = f"There are: {', '.join(sorted(there)) or 'none'}. Name one as kubernetes.storage.class."
    if named and class_ is None:
        yield Problem(f"The storage class {named} is not there.", choice)
    elif class_ is None:
        yield Problem("No storage class is the default, and the file names none: volumes are not made.", choice, fatal=False)
    elif many and class_.get("provisioner") in _ONE_NODE:
        yield Problem(
            f"Volumes of the storage class {class_['metadata']['name']} are for one node, and weights are to be read by many.",
            "Name one for many as kubernetes.storage.class (AKS: azurefile-csi-premium), or write `storage: {access: once}`.",
        )


def _is_default(class_: Object) -> bool:
    return (class_["metadata"].get("annotations") or {}).get(_DEFAULT) == "true"


def _nodes(manifests: Sequence[Manifest], found: Found) -> Iterator[Problem]:
    """GPUs that no node has, as its labels and taints let the pods go there. Pools may grow: it is told, not refused."""
    if found.nodes is None:
        return
    lacking: dict[str, list[str]] = {}
    for manifest in manifests:
        for pod in _pods(manifest):
            for resource, count in _devices(pod).items():
                if not any(takes(node, pod) and int(_allocatable(node, resource)) >= count for node in found.nodes):
                    lacking.setdefault(f"{count} {resource}", []).append(ref(manifest).name)
    for what, all_names in lacking.items():
        names = list(dict.fromkeys(all_names))
        yield Problem(
            f"No node has {what} for {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
            " (its labels and taints counted): the pods wait until one comes.",
            "headrace nodepool FILE prints the commands that add it.",
            fatal=False,
        )


def _pods(manifest: Manifest) -> Iterator[Mapping[str, Any]]:
    """The pods that a workload makes. KAITO brings the nodes of its kinds itself."""
    spec = manifest.get("spec") or {}
    group = spec.get("leaderWorkerTemplate") or {}
    for template in (spec.get("template"), group.get("leaderTemplate"), group.get("workerTemplate")):
        if manifest["kind"] in WORKLOADS and template and "spec" in template:
            yield template["spec"]


def _devices(pod: Mapping[str, Any]) -> dict[str, int]:
    """Extended resources of a pod's containers: GPUs and their slices."""
    asked: dict[str, int] = {}
    for container in pod.get("containers") or ():
        for resource, count in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in resource:
                asked[resource] = asked.get(resource, 0) + int(count)
    return asked


def _allocatable(node: Object, resource: str) -> str:
    return str(((node.get("status") or {}).get("allocatable") or {}).get(resource, "0"))


def takes(node: Object, pod: Mapping[str, Any]) -> bool:
    """Whether a node's labels and taints let the pod go there."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod.get("nodeSelector") or {}).items()):
        return False
    taints = [each for each in (node.get("spec") or {}).get("taints") or () if each.get("effect") != "PreferNoSchedule"]
    return all(any(_tolerates(toleration, taint) for toleration in pod.get("tolerations") or ()) for taint in taints)


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def _secrets(manifests: Sequence[Manifest], found: Found, namespace: str) -> Iterator[Problem]:
    about = secrets(manifests)
    for name in found.absent_secrets:
        without, made = about[name]
        yield Problem(f"The Secret {name} is not there: {without}.", f"kubectl -n {namespace} {made}", fatal=False)


def _under(value: Any, key: str) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if isinstance(value.get(key), Mapping):
            yield value[key]
        for each in value.values():
            yield from _under(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _under(each, key)
