"""What rules look at: every document of a run as an object with its kind and name, its pods, and how objects find each other."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from headrace.importing.base import At
from headrace.importing.workloads import PODS

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_TEMPLATES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    **{kind: (path,) for kind, path in PODS.items()},
    "CronJob": (("spec", "jobTemplate", "spec", "template"),),
    "LeaderWorkerSet": (("spec", "leaderWorkerTemplate", "leaderTemplate"), ("spec", "leaderWorkerTemplate", "workerTemplate")),
    "Workspace": (("inference", "template"), ("spec", "inference", "template")),
    "InferenceSet": (("spec", "template", "inference", "template"),),
}
"""Where pod templates are. KServe's are pod specs and are read in `serving`."""

_MOST_SELECTING = 50
"""Objects that select the same labels and are looked at: a file with thousands of copies is no reason to take minutes."""

OWN_LIFE = ("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet")
"""Kinds whose pods get nothing that the manifest does not say, and serve until they are told to stop."""


@dataclass(frozen=True, slots=True)
class Object:
    """One document: an object of Kubernetes, or something else that is checked (`kind` is then a word of ours)."""

    at: At
    kind: str
    name: str
    namespace: str
    group: str
    """`keda.sh` of `keda.sh/v1alpha1`; empty for core kinds."""

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}".strip()

    @property
    def spec(self) -> At:
        return self.at.get("spec")

    def near(self, other: "Object") -> bool:
        """Whether they are in one namespace; what names none may be in any."""
        return not self.namespace or not other.namespace or self.namespace == other.namespace


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template of a workload. `spec` is the pod's spec."""

    owner: Object
    template: At
    spec: At
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def containers(self) -> Iterator[At]:
        return self.spec.get("containers").each()

    @property
    def gpus(self) -> int:
        """Whole GPUs that its containers ask for."""
        return sum(gpu_count(container) for container in self.containers)


@dataclass(slots=True)
class Context:
    """Everything of one run."""

    objects: Sequence[Object]
    texts: Mapping[str, str] = field(default_factory=dict)
    """The text of each file, for comments and for what stands inside of literal blocks."""
    _kinds: dict[str, list[Object]] = field(default_factory=dict)
    _lines: dict[str, list[str]] = field(default_factory=dict)
    _memo: dict[str, Any] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[Object]:
        """The objects of these kinds, in the order of the run."""
        if not self._kinds:
            for one in self.objects:
                self._kinds.setdefault(one.kind, []).append(one)
        return [one for kind in kinds for one in self._kinds.get(kind, ())]

    def once(self, key: str, find: Callable[[], T]) -> T:
        """What `find` gives, looked for once in a run."""
        if key not in self._memo:
            self._memo[key] = find()
        found: T = self._memo[key]
        return found

    def pods(self) -> list[Pod]:
        """Every pod template of kinds whose pods are written out."""
        return self.once("pods", lambda: list(self._pods()))

    def _pods(self) -> Iterator[Pod]:
        for one in self.of(*_TEMPLATES):
            for path in _TEMPLATES[one.kind]:
                template = one.at.get(*path)
                if isinstance(template.value, dict):
                    yield Pod(one, template, template.get("spec"), texts(template.get("metadata", "labels")))

    def pods_of(self, owner: Object) -> list[Pod]:
        """The pod templates of one workload."""
        found = self.once("pods by owner", lambda: _grouped((id(pod.owner), pod) for pod in self.pods()))
        return found.get(id(owner), [])

    def named(self, kind: str, name: str) -> list[Object]:
        """The objects of a kind with that name, in any namespace."""
        found = self.once(f"names {kind}", lambda: _grouped((one.name, one) for one in self.of(kind)))
        return found.get(name, [])

    def target(self, scaler: Object) -> Object | None:
        """What a ScaledObject or HPA scales, where it is in the run."""
        reference = scaler.spec.get("scaleTargetRef")
        kind, name = reference.get("kind").text or "Deployment", reference.get("name").text
        found = closest(scaler.at.file, [one for one in self.named(kind, name) if name and scaler.near(one)])
        return found[0] if found else None

    def selecting(self, kind: str, labels: Mapping[str, str], file: str | None = None) -> list[Object]:
        """The Services or monitors that select these labels, for an object in `file`; without a file, all."""
        path = ("selector",) if kind == "Service" else ("selector", "matchLabels")

        def index() -> dict[tuple[str, str], list[tuple[dict[str, str], Object]]]:
            selectors = ((texts(one.spec.get(*path)), one) for one in self.of(kind))
            return _grouped((next(iter(wanted.items())), (wanted, one)) for wanted, one in selectors if wanted)

        found = self.once(f"selectors {kind}", index)
        chosen = (one for pair in labels.items() for wanted, one in found.get(pair, ()) if labels_match(wanted, labels))
        several = list(islice(chosen, _MOST_SELECTING))
        if file is None:
            return several
        near = closest(file, several)
        return [one for one in near if folder(one.at.file) == folder(file) or not self._taken(kind, one)]

    def _taken(self, kind: str, one: Object) -> bool:
        """Whether a Service or a monitor selects something beside it already: then it is not for another folder's."""
        wanted = texts(one.spec.get("selector") if kind == "Service" else one.spec.get("selector", "matchLabels"))
        services = kind == "ServiceMonitor"

        def index() -> dict[str, list[Mapping[str, str]]]:
            if services:
                return _grouped((folder(each.at.file), texts(each.at.get("metadata", "labels"))) for each in self.of("Service"))
            return _grouped((folder(pod.owner.at.file), pod.labels) for pod in self.pods())

        beside = self.once(f"labels of {'services' if services else 'pods'} by folder", index)
        return any(labels_match(wanted, labels) for labels in beside.get(folder(one.at.file), ()))

    def line(self, file: str, number: int) -> str:
        """One line of a file, without its end."""
        return self.lines(file)[number - 1] if 0 < number <= len(self.lines(file)) else ""

    def lines(self, file: str) -> list[str]:
        if file not in self._lines:
            self._lines[file] = self.texts.get(file, "").split("\n")
        return self._lines[file]


def closest(file: str, found: list[Object]) -> list[Object]:
    """Those that belong to an object in `file`: those of its own file, else of its folder, else of another folder when it is one
    only. A folder of examples has many of one name, each for its neighbours."""
    here = folder(file)
    for nearer in ([one for one in found if one.at.file == file], [one for one in found if folder(one.at.file) == here]):
        if nearer:
            return nearer
    return found if len({folder(one.at.file) for one in found}) == 1 else []


def folder(file: str) -> str:
    return file.replace("\\", "/").rpartition("/")[0]


def of_one_project(file: str, other: str) -> bool:
    """Whether two files are likely to be for one cluster: in one folder, or in one below the other's."""
    here, there = folder(file), folder(other)
    return f"{here}/".startswith(f"{there}/" if there else "") or f"{there}/".startswith(f"{here}/" if here else "")


def _grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    made: dict[K, list[T]] = {}
    for key, value in pairs:
        made.setdefault(key, []).append(value)
    return made


def gpu_count(container: At) -> int:
    """Whole NVIDIA or AMD GPUs of a container; 0 for none, and for what is no number."""
    resources = container.get("resources")
    for name in ("nvidia.com/gpu", "amd.com/gpu"):
        for part in ("limits", "requests"):
            if count := resources.get(part, name).number:
                return max(0, count)
    return 0


def labels_match(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def texts(at: At) -> dict[str, str]:
    """A mapping of texts."""
    return {key: value.text for key, value in at.items()}
