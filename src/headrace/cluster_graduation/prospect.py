"""What a model in a cluster would be after a move: its objects beside those that run, and the file that says so afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches, unified_diff
from pathlib import Path
from typing import Any

from headrace.cluster_graduation.file import graduated
from headrace.control.cluster_record import Record
from headrace.control.graduation import Aim
from headrace.control.journal import written
from headrace.engines import engines
from headrace.errors import UsageError
from headrace.graduating import source_of
from headrace.rendering import Wish, objects
from headrace.spec.load import loads
from headrace.spec.model import Spec
from headrace.targets.kubernetes import survey
from headrace.targets.kubernetes.client import Api, sentence
from headrace.targets.kubernetes.order import INSTANCE, WORKLOADS, Manifest, Ref
from headrace.targets.kubernetes.preflight import Right, problems
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.targets.kubernetes.sides import GATEWAY, devices, leaving, next_name, side, told
from headrace.targets.manifests.base import called, object_name
from headrace.terminal import Terminal
from headrace.weights.source import parse

CONFIG = ("v1", "ConfigMap")
KAITO = "kaito"
"""No engine, but a place that one may go to."""


@dataclass(frozen=True, slots=True)
class File:
    """The user's file."""

    path: Path
    spec: Spec

    @property
    def text(self) -> str:
        try:
            return self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.path} cannot be read: {error}.") from None


@dataclass(frozen=True, slots=True)
class Prospect:
    """One move, with everything that is decided before anything is changed."""

    file: File
    aim: Aim
    old: str
    new: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    """What the gateways are told of the model, now and then."""
    made: tuple[Manifest, ...]
    """The objects of the new side, as apply makes them from the file afterwards."""
    changes: Mapping[str, object]
    """Keys of the model in the file that become others."""
    engine: str

    @property
    def text(self) -> str:
        """The file as it will be."""
        return _then(self.file, self.aim.model, self.changes, self.new, _target(self.file.spec, self.aim))

    def commit(self) -> None:
        """Write the file, whole or not at all. Raises HeadraceError, OSError."""
        text = self.text
        if text != self.file.text:
            written(self.file.path.resolve(), text.encode())

    def sentences(self) -> list[str]:
        """What is about to be done, for whoever is asked."""
        least, most = self.after.get("replicas", (1, 1))
        slots = f"{self.before.get('slots')} → {self.after.get('slots')} requests at once in each replica"
        kinds = ", ".join(f"{each['kind']} {each['metadata']['name']}" for each in self.made)
        count = str(most) if least == most else f"{least}..{most}"
        said = [
            f"{self.aim.model}: from {self.old} to {self.new} ({self.engine}), {slots}.",
            f"Beside what runs: {devices(self.made, 1)}, and by 100 % as many replicas as there are now (in the end {count}).",
            f"Added: {kinds}.",
        ]
        name, text = self.file.path.name, self.file.text
        lines = list(unified_diff(text.splitlines(), self.text.splitlines(), name, name, n=0, lineterm=""))
        return [*said, *(f"  {line}" for line in lines[2:] if not line.startswith("@@"))]


def present(api: Api, namespace: str, model: str) -> dict[str, Any]:
    """What the gateways are told of a model now. Raises ClusterError."""
    gateway = configured(api, namespace)
    found: dict[str, Any] | None = told(gateway)["models"].get(model)
    if found is None:
        raise ClusterError(f"The gateways in {namespace} serve no {model} of pods.", "headrace apply makes it.")
    return {key: value for key, value in found.items() if key != "trial"}


def configured(api: Api, namespace: str) -> dict[str, Any]:
    """The gateways' ConfigMap. Raises ClusterError."""
    resource = api.resource(*CONFIG)
    found = api.get(resource, namespace, GATEWAY) if resource else None
    if found is None:
        raise ClusterError(f"There is no gateway in the namespace {namespace} of {api.where}.", "headrace apply makes it.")
    return found


def prospect(api: Api, file: File, aim: Aim, wish: Wish, terminal: Terminal, record: Record | None = None) -> Prospect:
    """What the aim comes to; with a record, of the graduation that it tells. Raises HeadraceError."""
    spec, model = file.spec, aim.model
    namespace = spec.kubernetes.namespace
    before = record.before if record else present(api, namespace, model)
    old = str(before["service"])
    live = survey.live(api, namespace)
    new = record.new if record else _name(spec, model, old, live.objects)
    changes = _changes(spec, aim, before)
    text = _then(file, model, changes, new, _target(spec, aim))
    then = loads(text, str(file.path), parse, folder=file.path.parent)
    cluster, made = objects(then, wish, terminal)
    load = next(each for each in cluster.workloads if each.model == model)
    after = told(next(each for each in made if each["kind"] == "ConfigMap" and each["metadata"]["name"] == GATEWAY))
    found = Prospect(file, aim, old, new, before, after["models"][model], tuple(side(made, new)), changes, load.placement.engine)
    if record is None:
        _differs(found, live.objects)
    return found


def check(api: Api, found: Prospect, namespace: str, terminal: Terminal) -> None:
    """Whether the cluster has what is needed and lets this user do it. Raises ClusterError with all that is missing."""
    besides = [Right(verb, "", "pods", namespace, "proxy") for verb in ("get", "create")]
    besides += [Right(verb, "", "configmaps", namespace) for verb in ("get", "create", "patch", "delete")]
    live = survey.live(api, namespace)
    first, rest, _ = leaving(live.objects, found.old)
    besides += [Right("delete", each.group, each.plural, namespace) for each in {live.resource(one) for one in (*first, *rest)}]
    seen = survey.survey(api, found.made, namespace, removes=True, waits=True, besides=besides)
    told_of = problems(found.made, seen, namespace)
    if any(each.fatal for each in told_of):
        listed = "\n".join(f"  {number}. {each}" for number, each in enumerate(told_of, 1))
        raise ClusterError(f"{sentence(api.where)} is not ready for this; nothing was written:\n{listed}")
    for each in told_of:
        terminal.say(f"Note: {each}")


def _then(file: File, model: str, changes: Mapping[str, object], new: str, target: str | None) -> str:
    name = None if new == object_name(model) else new
    return graduated(file.text, file.path.name, model, changes, name, target)


def _target(spec: Spec, aim: Aim) -> str | None:
    """Where it goes, where that is another place: `--to kaito`, or an engine without KAITO; None where it stays."""
    if not aim.to:
        return None
    wanted = "kaito" if aim.to == KAITO else "deployment"
    return wanted if spec.kubernetes.on_kaito(aim.model) != (wanted == "kaito") else None


def _name(spec: Spec, model: str, old: str, live: Mapping[Ref, Manifest]) -> str:
    """What the file says where it says another than what runs, else one that is free."""
    if (said := called(model, spec.kubernetes)) != old:
        return said
    runs = {*WORKLOADS, "Service"}
    taken = {(each["metadata"].get("labels") or {}).get(INSTANCE, "") for one, each in live.items() if one.kind in runs}
    others = {called(name, spec.kubernetes) for name in spec.models if name != model}
    return next_name(object_name(model), {old, *taken, *others})


def _changes(spec: Spec, aim: Aim, before: Mapping[str, Any]) -> dict[str, object]:
    """Keys of the model in the file that become others. Raises UsageError."""
    model = spec.models[aim.model]
    made: dict[str, object] = {}
    if aim.to and aim.to != KAITO:
        if aim.to not in engines():
            near = get_close_matches(aim.to, engines(), 1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(engines())}, and {KAITO}."
            raise UsageError(f'"{aim.to}" is not an engine.', hint)
        if model.engine_name != aim.to:
            made["engine"] = aim.to
            if model.slots != "auto":
                made["slots"] = "auto"  # those of another engine say nothing of this one
    if (aim.quantization or aim.revision) and (source := source_of(model, aim)) != model.source:
        made["source"] = source
    context = aim.context or (before.get("context") if made and model.context == "auto" else None)
    if context and context != model.context:
        made["context"] = context  # clients count on what it is
    return made


def _differs(found: Prospect, live: Mapping[Ref, Manifest]) -> None:
    """Raises UsageError where the new side would run as the old one does."""
    olds = [each for one, each in live.items() if one.kind in WORKLOADS and one.name == found.old]
    news = [each for each in found.made if each["kind"] in WORKLOADS]
    same = bool(olds) and bool(news) and _runs(olds[0]) == _runs(news[0]) is not None
    if same and {**found.before, "service": ""} == {**found.after, "service": ""}:
        raise UsageError(
            f"{found.aim.model} runs so already, as {found.old}.",
            "Say --to ENGINE, --quantization, --revision or --context; or change the file, and graduate without --to.",
        )


def _runs(workload: Manifest) -> tuple[Any, ...] | None:
    """What its container is, as far as we write it, or which preset of KAITO's; None for what has neither."""
    template = (workload.get("spec") or {}).get("template") or {}
    inference = workload.get("inference") or template.get("inference") or {}
    if preset := inference.get("preset"):
        return (preset.get("name"),)
    containers = ((inference.get("template") or template).get("spec") or {}).get("containers") or ()
    if not containers:
        return None
    limits = (containers[0].get("resources") or {}).get("limits")
    return (*(containers[0].get(key) for key in ("image", "command", "args", "env")), limits)
