"""Deployments and their kin, services of docker-compose, lines of a shell script → the models that they serve."""

from collections.abc import Iterator

from headrace.importing.base import At, Found
from headrace.importing.cluster import nodes
from headrace.importing.containers import compose_container, read_container, served_by
from headrace.importing.flags import take
from headrace.importing.launchers import launched
from headrace.importing.words import Word, script

PODS = {
    **dict.fromkeys(("Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", "Job"), ("spec", "template")),
    "Pod": (),
    "LeaderWorkerSet": ("spec", "leaderWorkerTemplate", "leaderTemplate"),
}
"""Where the pod is in each kind."""

_POD = {
    "affinity": "the plan says where it runs; kubernetes.nodes.labels are for nodes",
    **dict.fromkeys(("terminationGracePeriodSeconds", "securityContext", "topologySpreadConstraints"), "Headrace makes its own"),
    **dict.fromkeys(("containers", "volumes", "restartPolicy", "dnsPolicy", "schedulerName"), ""),
    **dict.fromkeys(("tolerations", "nodeSelector"), ""),
}
_WORKLOAD = {
    **dict.fromkeys(("strategy", "updateStrategy", "minReadySeconds", "progressDeadlineSeconds"), "Headrace makes its own"),
    **dict.fromkeys(("selector", "template", "replicas", "revisionHistoryLimit", "serviceName", "podManagementPolicy"), ""),
    **dict.fromkeys(("leaderWorkerTemplate", "startupPolicy", "rolloutStrategy"), ""),
}


def workload(one: At) -> Found | None:
    """The model that a workload serves; None when no container of it runs an engine."""
    kind, name = one.get("kind").text, one.get("metadata", "name").text
    template = one.get(*PODS[kind])
    if kind == "LeaderWorkerSet" and not template:
        template = one.get("spec", "leaderWorkerTemplate", "workerTemplate")
    found = pod(template, Found(name or "model", one, f"{kind} {name}"))
    if found is None:
        return None
    found.namespace = one.get("metadata", "namespace").text
    found.labels = {key: value.text for key, value in template.get("metadata", "labels").items()}
    _count(found, one.get("spec", "replicas"))
    if kind == "LeaderWorkerSet":
        _group(found, one)
    elif kind != "Pod":
        _fields(found, one.get("spec"), _WORKLOAD)
    return found


def pod(template: At, found: Found) -> Found | None:
    """Put what the pod of a template says into `found`; None when no container of it runs an engine."""
    spec = template.get("spec")
    containers = list(spec.get("containers").each())
    engine = next((each for each in containers if served_by(each)), None)
    if engine is None:
        return None
    read_container(engine, found)
    for other in containers:
        if other.path != engine.path:
            found.note("not carried", f"container {other.get('name').text}", "Headrace runs one engine in a pod", other.line)
    nodes(found, spec)
    for volume in spec.get("volumes").each():
        _volume(found, volume)
    _fields(found, spec, _POD)
    return found


def compose(one: At) -> Iterator[Found]:
    """The models of a docker-compose file."""
    for name, service in one.get("services").items():
        container = compose_container(name, service)
        if served_by(container):
            found = Found(name, service, f"service {name}")
            read_container(container, found)
            _count(found, service.get("deploy", "replicas"))
            for field, value in service.items():
                if field in ("volumes", "env_file", "depends_on", "networks", "runtime", "shm_size", "ipc"):
                    found.note("not carried", field, "Headrace starts and mounts what it needs itself", value.line)
            yield found


def lines(text: str, file: str) -> Iterator[Found]:
    """The models of the commands in a shell script."""
    for command in script(text):
        if started := launched("", command):
            engine, words = started
            place = At("", file, {(): command[0].line})
            found = Found("", place, f"command {command[0].text}", engine=engine)
            take(found, [Word(word.text, word.line) for word in words])
            yield found


def _count(found: Found, replicas: At) -> None:
    if replicas.number is not None:
        found.scale["replicas"] = str(replicas.number)


def _fields(found: Found, spec: At, known: dict[str, str]) -> None:
    for field, value in spec.items():
        why = known.get(field)
        if not value or why == "":
            continue
        if why:
            found.note("not needed", field, why, value.line)
        else:
            found.note("not carried", field, "Headrace has no key for it", value.line)


def _volume(found: Found, volume: At) -> None:
    """By name, so that it can be mounted again."""
    name = volume.get("name").text
    if claim := volume.get("persistentVolumeClaim", "claimName").text:
        found.claims.append(claim)
        why = f"PersistentVolumeClaim {claim} stays as it is; Headrace makes a volume per model (kubernetes.storage)"
        found.note("not carried", f"volume {name}", why, volume.line)
    elif volume.get("emptyDir", "medium").text == "Memory":
        found.note("not needed", f"volume {name}", "Headrace gives engines shared memory itself", volume.line)
    else:
        kind = next((key for key, _ in volume.items() if key != "name"), "volume")
        named = volume.get(kind, "name").text or volume.get(kind, "secretName").text or volume.get(kind, "path").text
        found.note("not carried", f"volume {name}", f"{kind} {named}".strip() + " has no key of ours", volume.line)


def _group(found: Found, one: At) -> None:
    size = one.get("spec", "leaderWorkerTemplate", "size")
    if (size.number or 1) > 1:
        why = f"a replica over {size.text} machines is not planned: one replica is on one machine"
        found.note("not carried", "size", why, size.line)
