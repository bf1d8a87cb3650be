"""As much of an API server as commands need to be tried: it keeps what is applied, and lets users do what they like."""

from typing import Any

from kube_server import Asked

from headrace.targets.kubernetes.order import KINDS

_OTHERS = (("v1", "Pod"), ("v1", "Event"), ("v1", "Node"), ("v1", "Secret"), ("storage.k8s.io/v1", "StorageClass"))
_GLOBAL = ("Namespace", "Node", "StorageClass", "ClusterRole", "ClusterRoleBinding")


class KubeStore:
    """Answers for `kube_server`. `absent` are groups it does not have, `denied` plurals that nobody may change."""

    def __init__(self, absent: tuple[str, ...] = (), denied: tuple[str, ...] = ()) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.denied = denied
        self._kinds = [each for each in (*KINDS, *_OTHERS) if each[0].partition("/")[0] not in absent]

    def __call__(self, asked: Asked) -> tuple[int, Any]:
        if asked.path == "/version":
            return 200, {"gitVersion": "v1.30.2"}
        if asked.path.endswith("selfsubjectaccessreviews"):
            about = asked.body["spec"]["resourceAttributes"]
            return 201, {"status": {"allowed": about["resource"] not in self.denied or about["verb"] in ("get", "list")}}
        if listing := self._discovery(asked.path):
            return 200, listing
        if asked.method == "PATCH":
            return self._apply(asked)
        if asked.method == "DELETE":
            self.writes.append(f"DELETE {asked.path}")
            return (200, {}) if self.objects.pop(asked.path, None) else (404, {"message": "not found"})
        if asked.path in self.objects:
            return 200, self.objects[asked.path]
        if self._is_collection(asked.path):
            return 200, {"items": [each for path, each in self.objects.items() if path.rpartition("/")[0] == asked.path]}
        return 404, {"message": "not found"}

    def put(self, path: str, body: dict[str, Any]) -> None:
        """Something that is there already."""
        self.objects[path] = body

    def _apply(self, asked: Asked) -> tuple[int, Any]:
        new = asked.path not in self.objects
        if "dryRun" not in asked.query:
            self.writes.append(f"PATCH {asked.path}")
            self.objects[asked.path] = asked.body
        return 201 if new else 200, asked.body

    def _discovery(self, path: str) -> dict[str, Any] | None:
        version = path.removeprefix("/apis/").removeprefix("/api/")
        kinds = sorted({kind for api_version, kind in self._kinds if api_version == version})
        resources = [{"name": _plural(kind), "kind": kind, "namespaced": kind not in _GLOBAL} for kind in kinds]
        return {"resources": resources} if resources else None

    def _is_collection(self, path: str) -> bool:
        return path.rpartition("/")[2] in {_plural(kind) for _, kind in self._kinds}


def _plural(kind: str) -> str:
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("cy") else f"{lower}es" if lower.endswith(("ss", "x")) else f"{lower}s"
