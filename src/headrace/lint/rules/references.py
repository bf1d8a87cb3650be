"""HR6xx: objects that refer to each other."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from headrace.importing.base import At
from headrace.lint.base import Edit, Say, Severity, rule
from headrace.lint.context import Context, Object, Pod, folder, texts
from headrace.lint.serving import Served, engines, shell_text

_MOST = 100
"""Names that one is compared with: each takes its time."""
_MONITOR = "https://prometheus-operator.dev/docs/developer/getting-started/"


@rule("HR602", "warning", "a port that no monitor finds", _MONITOR)
def nameless_port(context: Context) -> Iterator[Say]:
    """PodMonitors and ServiceMonitors select a port by its name, and Services by their labels: without them nothing is
    scraped."""
    for pod in context.pods():
        for monitor in context.selecting("PodMonitor", pod.labels, pod.owner.at.file):
            asked = {each.get("port").text for each in monitor.spec.get("podMetricsEndpoints").each()} - {""}
            if asked and pod.owner.near(monitor):
                yield from _named(pod, asked, monitor.title)
    for one in context.of("Service"):
        for monitor in context.selecting("ServiceMonitor", texts(one.at.get("metadata", "labels")), one.at.file):
            asked = {each.get("port").text for each in monitor.spec.get("endpoints").each()} - {""}
            if asked and one.spec.get("ports"):
                names = {port.get("name").text for port in one.spec.get("ports").each()}
                if not names & asked:
                    what = f"{monitor.title} asks for the port {', '.join(sorted(asked))}, which {one.title} does not have."
                    yield Say(one.spec.get("ports"), what, "Give the port that name.", _name_it(one.spec.get("ports"), asked))
    yield from _unnamed_of_engines(context)


def _named(pod: Pod, asked: set[str], title: str) -> Iterator[Say]:
    ports = [port for container in pod.containers for port in container.get("ports").each()]
    if ports and not {port.get("name").text for port in ports} & asked:
        what = f"{title} asks for the port {', '.join(sorted(asked))}, which {pod.owner.title} does not have."
        yield Say(ports[0], what, "Give the port that name.")


def _name_it(ports: At, asked: set[str]) -> tuple[Edit, ...]:
    each = list(ports.each())
    if len(each) != 1 or len(asked) != 1 or each[0].get("name").text:
        return ()
    return (Edit("add", each[0], "name", next(iter(asked))),)


def _unnamed_of_engines(context: Context) -> Iterator[Say]:
    """The port of an engine that no monitor of the run selects: it can be selected once it has a name."""
    monitored = bool(context.of("PodMonitor", "ServiceMonitor"))
    for one in engines(context):
        ports = list(one.container.get("ports").each())
        if monitored or not one.lives or len(ports) != 1 or ports[0].get("name").text:
            continue
        annotated = one.pod is not None and one.pod.template.get("metadata", "annotations", "prometheus.io/scrape").text
        if not annotated and isinstance(ports[0].value, dict):
            edits = (Edit("add", ports[0], "name", "http"),)
            yield Say(ports[0], "The port has no name: no PodMonitor can select it.", "Write name: http.", edits, "info")


@rule("HR607", "error", "a reference to what is not there", "https://kubernetes.io/docs/concepts/configuration/secret/")
def missing(context: Context) -> Iterator[Say]:
    """A pod whose Secret, ConfigMap or claim is not there is not started: CreateContainerConfigError, or Pending. What may be
    in the cluster already is only said where these files serve a model."""
    serving = {one.owner.title for one in engines(context) if one.lives}
    said: set[tuple[str, str, str]] = set()
    for pod in context.pods():
        for kind, at, key in _references(pod):
            name = at.text
            if not name or re.search(r"[{}$<>]", name) or (kind, name, key) in said:
                continue
            said.add((kind, name, key))
            there = [one for one in context.named(kind, name) if pod.owner.near(one)]
            if there:
                yield from _key(kind, at, key, [one.at for one in there if folder(one.at.file) == folder(at.file)])
            elif near := _near(context, kind, at):
                yield Say(at, f"There is no {kind} {name} among these files.", f"Did you mean {near[0]}?")
            elif longer := _longer(context, kind, at):
                what = f"There is no {kind} {name} in this file, and there is {longer}."
                yield Say(at, what, f"Did you mean {longer}?", (), "warning")
            elif pod.owner.title in serving and kind != "ConfigMap":
                what = f"{kind} {name} is not among these files."
                yield Say(at, what, "It has to be there before: without it the pod does not start.", (), "info")


def _near(context: Context, kind: str, at: At) -> list[str]:
    """The name that was meant, of those beside it, where there are few to compare with."""
    there = context.of(kind)
    names = {one.name for one in there if folder(one.at.file) == folder(at.file)} if len(there) < _MOST else set()
    return get_close_matches(at.text, names, 1, 0.85)


def _longer(context: Context, kind: str, at: At) -> str:
    """The one object of that kind in the same file whose name begins or ends with this one; "" where there is none."""
    there = context.of(kind)
    found = [one.name for one in there if one.at.file == at.file] if len(there) < _MOST else []
    found = [name for name in found if name.startswith(f"{at.text}-") or name.endswith(f"-{at.text}")]
    return found[0] if len(found) == 1 else ""


def _key(kind: str, at: At, key: str, there: Sequence[At]) -> Iterator[Say]:
    """A key that none of the objects of that name has; with several of them nobody knows which is meant."""
    keys = {name for one in there for part in ("data", "stringData", "binaryData") for name, _ in one.get(part).items()}
    if key and keys and key not in keys:
        severity: Severity | None = None if all(one.file == at.file for one in there) else "warning"
        yield Say(at, f"{kind} {at.text} has no key {key}.", f"It has {', '.join(sorted(keys)[:5])}.", (), severity)


def _references(pod: Pod) -> Iterator[tuple[str, At, str]]:
    """Kind, place of the name and key of everything that the pod cannot start without."""
    for container in [*pod.containers, *pod.spec.get("initContainers").each()]:
        for each in container.get("env").each():
            for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                source = each.get("valueFrom", field)
                if source and source.get("optional").value is not True:
                    yield kind, source.get("name"), source.get("key").text
        for each in container.get("envFrom").each():
            for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if each.get(field) and each.get(field, "optional").value is not True:
                    yield kind, each.get(field, "name"), ""
    for volume in pod.spec.get("volumes").each():
        for field, kind, name in (
            ("secret", "Secret", "secretName"),
            ("configMap", "ConfigMap", "name"),
            ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
        ):
            if volume.get(field) and volume.get(field, "optional").value is not True:
                yield kind, volume.get(field, name), ""


@rule(
    "HR613",
    "error",
    "a port where nothing listens",
    "https://kubernetes.io/docs/concepts/services-networking/service/#defining-a-service",
)
def nothing_listens(context: Context) -> Iterator[Say]:
    """A Service sends requests to its targetPort of the pod; its own `port` where it has none. Where neither the engine nor
    another container of the pod listens there, every connection is refused. Declaring a containerPort opens nothing."""
    for one in engines(context):
        if one.pod is None or not one.lives or one.port is None or not _certain(one) or one.pod.spec.get("hostNetwork").value:
            continue
        listening = _listening(one, one.pod)
        for service in context.selecting("Service", one.pod.labels, one.owner.at.file):
            if one.owner.near(service):
                yield from _targets(service, one, listening)


_ENTRY = re.compile(r"(?:docker\.io/)?(?:vllm/vllm-openai|lmsysorg/sglang)\b|ghcr\.io/gg(?:ml-org|erganov)/llama\.cpp\b")
"""Images whose entry point is known."""


def _certain(one: Served) -> bool:
    """Whether it is known how the engine is started, and with which port."""
    told = one.flag("--port") is not None or bool(one.container.get("command")) or _ENTRY.match(one.image.text) is not None
    return told and "$((" not in shell_text(one.container)


def _listening(one: Served, pod: Pod) -> dict[str, int]:
    """Ports of the pod by name, and by themselves: the engine's, what is declared, and every number in the commands."""
    containers = [*pod.containers, *pod.spec.get("initContainers").each()]
    found = {str(one.port): one.port or 0}
    for container in containers:
        for port in container.get("ports").each():
            number = port.get("containerPort").number or 0
            found |= {str(number): number, port.get("name").text: number}
        variables = " ".join(each.get("value").text for each in container.get("env").each())
        found |= {
            number: int(number) for number in re.findall(r"(?<![\w.])\d{2,5}(?![\w.])", f"{shell_text(container)} {variables}")
        }
    return found


def _targets(service: Object, one: Served, listening: dict[str, int]) -> Iterator[Say]:
    for port in service.spec.get("ports").each():
        target = port.get("targetPort") if port.get("targetPort").value is not None else port.get("port")
        if not target.text or target.text in listening or re.search(r"[{}$<]", target.text):
            continue
        said = f"has no port called {target.text}" if target.number is None else f"does not listen on {target.text}"
        what = f"{one.owner.title} {said}: {service.title} sends requests there, and they are refused."
        yield Say(target, what, f"Write targetPort: {one.port}.")
