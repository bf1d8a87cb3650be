"""Where the objects of a kind are in an API, as a cluster's discovery says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Resource:
    """One kind in one version. `plural` is what it is called in paths and in RBAC."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def named(self) -> str:
        """As kubectl names it: deployments.apps."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """Of one object, or of all."""
        parts = [group_path(self.api_version)]
        if self.namespaced:
            parts += ["namespaces", namespace]
        return "/".join([*parts, self.plural, *([name] if name else [])])


def group_path(api_version: str) -> str:
    """Where a version of a group is served."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def served(api_version: str, listing: Mapping[str, Any]) -> dict[str, Resource]:
    """The kinds in a discovery document, without subresources."""
    return {
        each["kind"]: Resource(api_version, each["kind"], each["name"], bool(each.get("namespaced")))
        for each in listing.get("resources") or ()
        if "/" not in each["name"]
    }
