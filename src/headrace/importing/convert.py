"""Other people's files → our file: the entry of this room."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import Mistake
from headrace.facts import catalogue
from headrace.importing import kaito, scaling, workloads, write
from headrace.importing.base import At, Found, Note, NotImported, note
from headrace.importing.cluster import section
from headrace.importing.documents import documents
from headrace.importing.models import aliases, models
from headrace.spec.sentences import nearest
from headrace.units import parse_range

_MADE = {
    **dict.fromkeys(("PodMonitor", "ServiceMonitor", "PodDisruptionBudget", "NetworkPolicy"), "Headrace makes its own"),
    **dict.fromkeys(("InferencePool", "InferenceObjective", "InferenceModel"), "Headrace's gateway picks replicas itself"),
    **dict.fromkeys(("HTTPRoute", "Ingress", "Gateway"), "the gateway is the way in; its address is gateway.listen"),
    "ScaledObject": "what it scales is not among the files",
    "HorizontalPodAutoscaler": "what it scales is not among the files",
}
_KEPT = {
    "Secret": "it stays as it is, and is referred to by its name; its values were not read",
    "PersistentVolumeClaim": "it stays as it is; Headrace makes a volume per model (kubernetes.storage)",
    "TriggerAuthentication": "it stays as it is",
    "ConfigMap": "it stays as it is",
    "Namespace": "kubernetes.namespace is the key",
    "ServiceAccount": "Headrace makes its own",
}
_RENDER = {
    "Kustomization": "is a kustomization, not an object. Build it first: kubectl kustomize FOLDER | headrace import -",
    "HelmRelease": "is a release of a chart, not an object. Render it first: helm template CHART | headrace import -",
    "HelmChart": "is a chart, not an object. Render it first: helm template CHART | headrace import -",
}
_OTHERS = ("serving.kserve.io", "kubeai.org", "ray.io", "serving.knative.dev")
"""Groups whose kinds are not a word of ours that was misspelt."""
_COMMANDS = (".sh", ".bash", ".txt")
_READ = (*workloads.PODS, "Workspace", "InferenceSet", "ScaledObject", "HorizontalPodAutoscaler", "Service")


@dataclass(frozen=True, slots=True)
class File:
    """A file's name, as messages say it, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Imported:
    """Our file, and what became of everything that is not in it, in the order of the files."""

    text: str
    models: int
    notes: tuple[Note, ...]

    @property
    def summary(self) -> str:
        """`2 models; 3 not carried, 1 decided, 8 not needed. Save it as headrace.yaml, then: headrace plan headrace.yaml`."""
        counts = Counter(note.verdict for note in self.notes)
        said = ", ".join(
            f"{counts[verdict]} {verdict}" for verdict in ("not carried", "decided", "not needed") if counts[verdict]
        )
        models = "1 model" if self.models == 1 else f"{self.models} models"
        what = f"{models}; {said}" if said else f"{models}, and everything was carried"
        return f"{what}. Save it as headrace.yaml, then: headrace plan headrace.yaml"


def convert(files: Sequence[File]) -> Imported:
    """Our file for what `files` describe. Raises NotImported with every mistake, or when no model is in them."""
    objects, found, mistakes = _read(files)
    if mistakes:
        raise NotImported("\n".join(map(str, sorted(mistakes))))
    configs = {one.get("metadata", "name").text: one for one in objects if one.get("kind").text == "ConfigMap"}
    notes: list[Note] = []
    rest: list[At] = []
    for one in objects:
        made = _models(one, configs, notes)
        found += made
        if not made:
            rest.append(one)
    notes += [said for one in rest if (said := _beside(one, found)) is not None]
    claims = {one.get("metadata", "name").text: one for one in objects if one.get("kind").text == "PersistentVolumeClaim"}
    return _written(files, found, notes, claims)


def _read(files: Sequence[File]) -> tuple[list[At], list[Found], list[Mistake]]:
    objects: list[At] = []
    found: list[Found] = []
    mistakes: list[Mistake] = []
    for file in files:
        if file.name.endswith(_COMMANDS):
            found += workloads.lines(file.text, file.name)
            continue
        read, wrong = documents(file.text, file.name)
        objects += read
        mistakes += wrong or [mistake for one in read if (mistake := _not_an_object(one))]
    return objects, found, mistakes


def _not_an_object(one: At) -> Mistake | None:
    kind = one.get("kind").text
    if kind in _RENDER:
        return Mistake(one.file, one.line, 1, "", _RENDER[kind])
    if kind or isinstance(one.get("services").value, dict):
        return None
    if one.get("models"):
        return Mistake(one.file, one.line, 1, "", "is a file of Headrace's already.", f"Try: headrace plan {one.file}")
    what = "has no `kind`: it is neither an object of Kubernetes nor a docker-compose file."
    return Mistake(one.file, one.line, 1, "", what)


def _models(one: At, configs: dict[str, At], notes: list[Note]) -> list[Found]:
    """The models that one object serves."""
    kind = one.get("kind").text
    if not kind:
        return list(workloads.compose(one))
    made: Found | None = None
    if kind in workloads.PODS:
        made = workloads.workload(one)
    elif kind == "Workspace":
        made = kaito.workspace(one, catalogue.kaito_repository, configs)
    elif kind == "InferenceSet":
        made = kaito.inference_set(one, catalogue.kaito_repository, configs)
    return [made] if made else []


def _beside(one: At, found: Sequence[Found]) -> Note | None:
    """What becomes of an object that serves no model; None when it is in what does."""
    kind, name = one.get("kind").text, one.get("metadata", "name").text
    readers = {"ScaledObject": scaling.scaled_object, "HorizontalPodAutoscaler": scaling.autoscaler, "Service": scaling.service}
    if kind in readers and readers[kind](one, found):
        return None
    if kind == "ConfigMap" and "sharing" in str(one.get("data").value):
        return note(one, "not carried", f"{kind} {name}", "`headrace nodepool --sharing` writes how GPUs are shared")
    if kind in workloads.PODS or kind in ("Workspace", "InferenceSet"):
        why = "no container of it runs an engine that is known (vLLM, SGLang, TGI, Triton, llama.cpp)"
        preload = "; weights are fetched ahead by `headrace pull`" if kind == "Job" else ""
        return note(one, "not carried", f"{kind} {name}", why + preload)
    if kind == "Service":
        return note(one, "not carried", f"{kind} {name}", "it selects no model here")
    if kind in _KEPT or kind in _MADE:
        return note(one, "not carried" if kind in _KEPT else "not needed", f"{kind} {name}", {**_KEPT, **_MADE}[kind])
    ours = one.get("apiVersion").text.partition("/")[0] not in _OTHERS
    why = f"Headrace does not read this kind. {nearest(kind, _READ) if ours else ''}".strip()
    return note(one, "not carried", f"{kind} {name}".strip(), why)


def _written(files: Sequence[File], found: list[Found], notes: list[Note], claims: dict[str, At]) -> Imported:
    pairs = models(found)
    made = [model for _, model in pairs]
    served = [one for one, _ in pairs]
    machine, cluster = _machine(served), section(served, claims)
    others = aliases(pairs)
    order = {file.name: place for place, file in enumerate(files)}
    every = [*notes, *(said for one in found for said in one.notes)]
    every.sort(key=lambda said: (order.get(said.file, 0), said.line))
    if not made:
        said = "".join(f"\n{each}" for each in every)
        raise NotImported(f"There is no model in {', '.join(file.name for file in files)}.{said}")
    return Imported(write.text(made, others, machine, cluster), len(made), tuple(dict.fromkeys(every)))


def _machine(found: Sequence[Found]) -> dict[str, object] | None:
    """The machine, where all models are for the same size and the catalogue knows it."""
    sizes = {one.sku for one in found if one.sku}
    known = {name.lower(): name for name in catalogue.skus("azure")}
    named = [one for one in found if one.sku]
    for one in named:
        if one.sku.lower() not in known:
            one.note("not carried", f"instanceType {one.sku}", "Headrace's catalogue of Azure's sizes does not have it")
        elif len(sizes) > 1:
            one.note("not carried", f"instanceType {one.sku}", "models for several sizes: `machine` is one; try headrace plan")
    if len(sizes) != 1 or not named or named[0].sku.lower() not in known or len(named) != len(found):
        return None
    most = sum(one.machines or parse_range(one.scale.get("replicas", "1"))[1] or 1 for one in named)
    return {"azure": known[named[0].sku.lower()]} | ({"max": most} if most > 1 else {})
