"""KAITO's part, played as its source has it (kaito-project/kaito @03b7f9c, pkg/workspace): no KAITO runs here.

An InferenceSet gets a Workspace for each replica, named NAME-0 and so on; a Workspace gets a StatefulSet and a Service of its
name. Their labels say whose the pods are. What is deleted loses its node first, whatever its pods still answer
(workspace_gc_finalizer.go), and nobody waits for them.
"""

from typing import Any

from site_of_pods import PRESET_PORT, Site

VERSION = "kaito.sh/v1beta1"
CREATED_BY, WORKSPACE = "inferenceset.kaito.sh/created-by", "kaito.sh/workspace"
_FINALIZERS = {"InferenceSet": "inferenceset.kaito.sh/finalizer", "Workspace": "workspace.finalizer.kaito.sh"}
_MERGE = {"Content-Type": "application/merge-patch+json"}


class Kaito:
    """Its controllers in the namespace of a site."""

    def __init__(self, site: Site) -> None:
        self._site, self._user = site, site.user
        self.deleted: list[tuple[str, int]] = []
        """What was deleted, and how many requests its pods were answering then."""

    def look(self) -> None:
        """One round of its controllers."""
        for each in self._all("InferenceSet"):
            self._set(each)
        for each in self._all("Workspace"):
            self._workspace(each)

    def end(self) -> None:
        """Hold nothing any more: the namespace is to go."""
        for kind, plural in (("InferenceSet", "inferencesets"), ("Workspace", "workspaces")):
            for each in self._all(kind):
                self._patch(plural, each["metadata"]["name"], {"metadata": {"finalizers": None}})

    def _set(self, made: dict[str, Any]) -> None:
        name, spec = made["metadata"]["name"], made["spec"]
        children = [each for each in self._all("Workspace") if _label(each, CREATED_BY) == name]
        if made["metadata"].get("deletionTimestamp"):
            for each in children:
                self._delete("workspaces", each["metadata"]["name"])
            self._patch("inferencesets", name, {"metadata": {"finalizers": None}})
            return
        self._hold(made, "inferencesets")
        there = {each["metadata"]["name"] for each in children}
        wanted = [f"{name}-{number}" for number in range(spec["replicas"])]
        for child in there - set(wanted):
            self._delete("workspaces", child)
        resource = {**spec["template"].get("resource", {}), "labelSelector": spec["labelSelector"]}
        for child in [each for each in wanted if each not in there]:
            about = {"name": child, "labels": {CREATED_BY: name}}
            body = {"metadata": about, "resource": resource, "inference": spec["template"]["inference"]}
            self._create("kaito.sh/v1beta1", "Workspace", "workspaces", body)
        ready = sum(pod_ready(pod) for pod in self._pods(CREATED_BY, name))
        self._patch("inferencesets", f"{name}/status", {"status": {"replicas": spec["replicas"], "readyReplicas": ready}})

    def _workspace(self, made: dict[str, Any]) -> None:
        name = made["metadata"]["name"]
        if made["metadata"].get("deletionTimestamp"):
            pods = [pod["metadata"]["name"] for pod in self._pods(WORKSPACE, name)]
            running = [self._site.running[pod] for pod in pods if pod in self._site.running]
            self.deleted.append((name, sum(each.engine.running + each.engine.waiting for each in running)))
            for engine in running:
                engine.kill()
            self._patch("workspaces", name, {"metadata": {"finalizers": None}})
            return
        self._hold(made, "workspaces")
        sets = self._user.api.resource("apps/v1", "StatefulSet")
        assert sets
        if self._user.api.get(sets, self._user.namespace, name) is None:
            self._run(made)

    def _run(self, made: dict[str, Any]) -> None:
        about, inference = made["metadata"], made["inference"]
        own = {"apiVersion": VERSION, "kind": "Workspace", "name": about["name"], "uid": about["uid"], "controller": True}
        labels = {WORKSPACE: about["name"]}
        if owner := _label(made, CREATED_BY):
            labels[CREATED_BY] = owner
        template = inference.get("template") or _preset()
        template = {**template, "metadata": {"labels": {**template.get("metadata", {}).get("labels", {}), **labels}}}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "serviceName": f"{about['name']}-headless"}
        named = {"name": about["name"], "ownerReferences": [own]}
        self._create("apps/v1", "StatefulSet", "statefulsets", {"metadata": named, "spec": {**spec, "template": template}})
        ports = [{"name": "http", "port": 80, "targetPort": PRESET_PORT, "protocol": "TCP"}]
        self._create("v1", "Service", "services", {"metadata": named, "spec": {"selector": labels, "ports": ports}})

    # ---- the API

    def _all(self, kind: str) -> list[dict[str, Any]]:
        resource = self._user.api.resource(VERSION, kind)
        assert resource
        return self._user.api.all(resource, self._user.namespace)

    def _pods(self, label: str, value: str) -> list[dict[str, Any]]:
        resource = self._user.api.resource("v1", "Pod")
        assert resource
        return self._user.api.all(resource, self._user.namespace, {label: value})

    def _hold(self, made: dict[str, Any], plural: str) -> None:
        if not made["metadata"].get("finalizers"):
            self._patch(plural, made["metadata"]["name"], {"metadata": {"finalizers": [_FINALIZERS[made["kind"]]]}})

    def _path(self, version: str, plural: str, name: str = "") -> str:
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return "/".join(each for each in (group, "namespaces", self._user.namespace, plural, name) if each)

    def _patch(self, plural: str, name: str, body: dict[str, Any]) -> None:
        self._user.api.request("PATCH", self._path(VERSION, plural, name), f"patch {name}", body=body, headers=_MERGE)

    def _create(self, version: str, kind: str, plural: str, body: dict[str, Any]) -> None:
        made = {"apiVersion": version, "kind": kind, **body}
        self._user.api.create(self._path(version, plural), made, f"create {kind} {body['metadata']['name']}")

    def _delete(self, plural: str, name: str) -> None:
        self._user.api.request("DELETE", self._path(VERSION, plural, name), f"delete {name}")


def pod_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _preset() -> dict[str, Any]:
    """The pod of a preset, as far as it matters here."""
    limits = {"nvidia.com/gpu": "1"}
    container = {"name": "engine", "image": "mcr.microsoft.com/aks/kaito/kaito-base:1", "resources": {"limits": limits}}
    ports = [{"containerPort": PRESET_PORT, "protocol": "TCP"}]
    tolerations = [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]
    return {"spec": {"containers": [{**container, "ports": ports}], "tolerations": tolerations}}


def _label(each: dict[str, Any], key: str) -> str:
    return str((each["metadata"].get("labels") or {}).get(key, ""))
