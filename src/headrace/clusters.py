"""Commands that ask and change a cluster: apply, diff, delete, status, logs, why. What is decided is in targets/kubernetes."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from headrace.control.cluster_record import Record, read, records, refuse
from headrace.errors import UsageError
from headrace.rendering import Wish, objects
from headrace.spec.model import Spec
from headrace.targets.kubernetes import applying, difference, sides, standing, survey, waiting
from headrace.targets.kubernetes.applying import Outcome
from headrace.targets.kubernetes.client import Api, connect, sentence
from headrace.targets.kubernetes.order import COMPONENT, OURS, Leftovers, Manifest, Ref, leftovers, rank, ref
from headrace.targets.kubernetes.preflight import Found, problems, without_namespace
from headrace.targets.kubernetes.refusals import ClusterError, DeniedError
from headrace.targets.kubernetes.snapshot import Snapshot, View, alive, name
from headrace.targets.kubernetes.survey import Live
from headrace.targets.manifests.base import called
from headrace.terminal import Terminal, agreed, can_ask
from headrace.units import show_duration

GATEWAY = "gateway"
_MOST_LINES = 60
"""Objects that are told one by one; of more only how far it is."""

_EVERY = 200

_MARKS = {"created": "+", "changed": "~", "unchanged": "="}


@dataclass(frozen=True, slots=True)
class Which:
    """Which cluster, as the command line says: by default the current context of the usual kubeconfig."""

    kubeconfig: str | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """How to apply. `wait_seconds` is None where nobody waits; `prune`: remove what is left over without asking."""

    wish: Wish = field(default_factory=Wish)
    wait_seconds: float | None = None
    dry_run: bool = False
    prune: bool = False
    weights: bool = False
    force: bool = False


def apply(spec: Spec, which: Which, request: Request, terminal: Terminal) -> str:
    """Make the cluster so; what was done, in one line. Raises ClusterError, with everything that is wrong, before
    anything is written; or, with what the API server refused, after.
    """
    with connect(which.kubeconfig, which.context) as api:
        api.version()  # before planning, which may take a while: a cluster that is not there is said at once
        made = objects(spec, request.wish, terminal)[1]
        return _applied(api, spec, made, request, terminal)


def _applied(api: Api, spec: Spec, made: Sequence[Manifest], request: Request, terminal: Terminal) -> str:
    namespace = spec.kubernetes.namespace
    found = _checked(api, made, namespace, request, terminal)
    made = without_namespace(made, found)
    live = survey.live(api, namespace, made)
    refuse(records(live.objects))
    if request.prune:
        _tell_unseen(live, terminal)
    left = leftovers([ref(each) for each in made], sides.without_records(live.objects), weights=request.weights)
    if request.dry_run:
        return _dry_run(api, made, live, left, found)
    remove = bool(left.stale) and _agreed(left, request, terminal)
    done = applying.apply(api, made, live, force=request.force, tell=_teller(made, terminal))
    removed = applying.remove(api, left.stale, live, namespace, lambda each: terminal.say(f"- {each}")) if remove else 0
    _tell_leftovers(left, terminal, removed=remove)
    if request.wait_seconds is not None:
        _wait(api, spec, request.wait_seconds, terminal)
    return _summary(done, removed, api) + ("" if request.wait_seconds is None else _next(namespace))


def diff(spec: Spec, which: Which, wish: Wish, terminal: Terminal) -> tuple[str, bool]:
    """What apply would change, field by field, and whether there is anything. Nothing is written. Raises ClusterError."""
    with connect(which.kubeconfig, which.context) as api:
        api.version()
        made = objects(spec, wish, terminal)[1]
        return _differing(api, spec.kubernetes.namespace, made, terminal)


def _differing(api: Api, namespace: str, made: Sequence[Manifest], terminal: Terminal) -> tuple[str, bool]:
    found = _checked(api, made, namespace, Request(), terminal)
    made = without_namespace(made, found)
    live = survey.live(api, namespace, made)
    for each in records(live.objects):
        if not each.over:
            terminal.say(f"Note: {each}: its other side, and what the gateways are told, are shown as differences.")
    left = leftovers([ref(each) for each in made], sides.without_records(live.objects))
    outcomes = applying.preview(api, made, live, namespace_there=found.namespace)
    blocks = [_block(each) for each in outcomes if each.did != "unchanged"]
    blocks += [f"- {each} (the file names it no more)" for each in left.stale]
    return "\n".join(blocks) + ("\n" if blocks else ""), bool(blocks)


def delete(spec: Spec, which: Which, terminal: Terminal, *, yes: bool, weights: bool) -> str:
    """Remove everything of ours from the namespace but its weights (`weights`: them too), and the namespace itself."""
    with connect(which.kubeconfig, which.context) as api:
        return _deleted(api, spec.kubernetes.namespace, terminal, yes=yes, weights=weights)


def _deleted(api: Api, namespace: str, terminal: Terminal, *, yes: bool, weights: bool) -> str:
    live = survey.live(api, namespace)
    gone = leftovers((), live.objects, weights=weights)
    _tell_unseen(live, terminal)
    if not gone.stale:
        kept = f" {_count(gone.kept)} with weights are left (--weights removes them)." if gone.kept else ""
        return f"Nothing of Headrace is in the namespace {namespace} of {api.where}.{kept}\n"
    terminal.say(f"In the namespace {namespace} of {api.where}: {_kinds(gone.stale)}.")
    if not yes and not agreed(f"Delete these {len(gone.stale)} objects?"):
        raise UsageError("Nothing was deleted.", "--yes deletes without asking.")
    count = applying.remove(api, gone.stale, live, namespace, lambda each: terminal.say(f"- {each}"))
    said = f"{count} objects deleted from the namespace {namespace}."
    if gone.kept:
        said += f" Weights are kept in {', '.join(each.name for each in gone.kept)} (--weights deletes them too)."
    return said + f" The namespace itself stays: kubectl delete namespace {namespace} removes it with all that is in it.\n"


def standings(spec: Spec, which: Which) -> list[standing.Standing]:
    """How each model of the file stands, and the gateway."""
    return standing.standings(_names(spec), _snapshot(spec, which))


def graduations(spec: Spec, which: Which) -> list[Record]:
    """The newest graduation of each model."""
    with connect(which.kubeconfig, which.context) as api:
        resource = api.resource("v1", "ConfigMap")
        found = api.all(resource, spec.kubernetes.namespace, {**OURS, COMPONENT: sides.RECORDS}) if resource else []
        return [record for each in found if (record := read(each)) is not None]


def why(spec: Spec, which: Which, model: str) -> str:
    """The one thing that stands in the way of a model."""
    (found,) = standing.standings(_named(spec, model), _snapshot(spec, which))
    if found.done and found.cause:
        return f"{found.line}. But: {found.cause}"
    return found.line if found.cause or found.state == "asleep" else f"{found.line}. Nothing stands in its way."


def logs(spec: Spec, which: Which, model: str, lines: int) -> dict[str, list[str]]:
    """The last lines of each pod of a model, or of one pod. A pod that waits for its weights: of what it waits with."""
    with connect(which.kubeconfig, which.context) as api:
        return _logs(api, spec, model, lines)


def _snapshot(spec: Spec, which: Which) -> Snapshot:
    with connect(which.kubeconfig, which.context) as api:
        return waiting.take(api, spec.kubernetes.namespace)


def _logs(api: Api, spec: Spec, model: str, lines: int) -> dict[str, list[str]]:
    namespace = spec.kubernetes.namespace
    snapshot = waiting.take(api, namespace)
    pods = [each for each in snapshot.pods if name(each) == model]
    if not pods:
        view = View(next(iter(_named(spec, model))), snapshot)
        pods = [*view.pods, *(each for each in view.pull_pods if alive(each))]
    if not pods:
        raise ClusterError(f"{model} has no pod in the namespace {namespace}.", f"headrace why {model} --cluster says why.")
    return {name(each): _log(api, namespace, each, lines) for each in pods}


def _checked(api: Api, made: Sequence[Manifest], namespace: str, request: Request, terminal: Terminal) -> Found:
    """What was found in the cluster. Raises ClusterError with every fatal problem; says the others."""
    found = survey.survey(api, made, namespace, removes=request.prune, waits=request.wait_seconds is not None)
    told = problems(made, found, namespace)
    fatal = [each for each in told if each.fatal]
    if fatal:
        listed = "\n".join(f"  {number}. {each}" for number, each in enumerate(told, 1))
        raise ClusterError(f"{sentence(api.where)} is not ready for this; nothing was written:\n{listed}")
    for each in told:
        terminal.say(f"Note: {each}")
    return found


def _agreed(left: Leftovers, request: Request, terminal: Terminal) -> bool:
    """Whether what is left over may go. Asked before anything is written."""
    if request.prune:
        return True
    if not can_ask():
        return False  # what is left over is told at the end
    terminal.say(f"The file names no more, and the cluster has: {', '.join(map(str, left.stale))}.")
    return agreed(f"Remove these {len(left.stale)} objects after applying?")


def _tell_unseen(live: Live, terminal: Terminal) -> None:
    if live.unseen:
        terminal.say(f"Note: you may not list {', '.join(live.unseen)}: what there is of them stays.")


def _tell_leftovers(left: Leftovers, terminal: Terminal, *, removed: bool) -> None:
    if left.stale and not removed:
        terminal.say(f"Left of an earlier apply: {_kinds(left.stale)} (--prune removes them).")
    if left.kept:
        names = ", ".join(each.name for each in left.kept)
        terminal.say(f"Left with weights that the file names no more: {names} (--prune --weights removes them).")


def _teller(made: Sequence[Manifest], terminal: Terminal) -> Callable[[Outcome], None]:
    """Says each object that changes where they are few, else how far it is."""
    count = 0

    def tell(outcome: Outcome) -> None:
        nonlocal count
        count += 1
        if len(made) > _MOST_LINES:
            if count % _EVERY == 0:
                terminal.say(f"{count} of {len(made)} objects applied")
        elif outcome.did != "unchanged":
            terminal.say(f"{_MARKS[outcome.did]} {outcome.ref}")

    return tell


def _dry_run(api: Api, made: Sequence[Manifest], live: Live, left: Leftovers, found: Found) -> str:
    outcomes = applying.preview(api, made, live, namespace_there=found.namespace)
    lines = [f"{_MARKS[each.did]} {each.ref}" for each in outcomes if each.did != "unchanged"]
    lines += [f"- {each} (with --prune)" for each in left.stale]
    return "\n".join([*lines, f"Would be: {_counted(outcomes)}. Nothing was written."]) + "\n"


def _block(outcome: Outcome) -> str:
    if outcome.did == "created":
        return f"+ {outcome.ref}"
    body = difference.text(list(outcome.changes))
    return "\n".join([f"~ {outcome.ref}", *(f"    {line}" for line in body.splitlines())])


def _wait(api: Api, spec: Spec, seconds: float, terminal: Terminal) -> None:
    begun = time.monotonic()
    waiting.wait(
        lambda: waiting.take(api, spec.kubernetes.namespace),
        _names(spec),
        terminal.say,
        seconds,
        clock=time.monotonic,
        pause=time.sleep,
    )
    terminal.say(f"All ready after {show_duration(time.monotonic() - begun)}.")


def _next(namespace: str) -> str:
    return f"Reach it: kubectl -n {namespace} port-forward service/{GATEWAY} 8000:8000, then http://127.0.0.1:8000/v1\n"


def _summary(done: Sequence[Outcome], removed: int, api: Api) -> str:
    return f"{_counted(done)}{f', {removed} removed' if removed else ''} in {api.where}.\n"


def _counted(outcomes: Iterable[Outcome]) -> str:
    counts = Counter(each.did for each in outcomes)
    return ", ".join(f"{counts[did]} {did}" for did in ("created", "changed", "unchanged") if counts[did]) or "nothing"


def _kinds(refs: Sequence[Ref]) -> str:
    """How many of each kind; names where they are few."""
    if len(refs) <= 8:
        return ", ".join(map(str, refs))
    counts = Counter(each.kind for each in refs)
    return ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts, key=rank))


def _count(refs: Sequence[Ref]) -> str:
    return f"{len(refs)} volume{'' if len(refs) == 1 else 's'}"


def _names(spec: Spec) -> dict[str, str]:
    """Models that run in the cluster, and the gateway, by what their objects are called."""
    return {**{called(model, spec.kubernetes): model for model, about in spec.models.items() if about.ours}, GATEWAY: GATEWAY}


def _named(spec: Spec, model: str) -> dict[str, str]:
    """The one that is meant: a model, an alias, or the gateway. Raises UsageError."""
    meant = spec.aliases.get(model, model)
    for objects_name, known in _names(spec).items():
        if meant == known:
            return {objects_name: known}
    known_names = ", ".join(_names(spec).values())
    raise UsageError(f'The file has no model "{model}" that runs in a cluster.', f"It has: {known_names}.")


def _log(api: Api, namespace: str, pod: Manifest, lines: int) -> list[str]:
    status = pod.get("status") or {}
    begun = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    running = [each for each in begun if "waiting" not in (each.get("state") or {})]
    failed = [each for each in begun if (each.get("lastState") or {}).get("terminated")]
    if not running and not failed:
        return ["(not started: headrace why … --cluster says why)"]
    each = (running or failed)[-1]
    try:
        return api.logs(namespace, name(pod), str(each["name"]), lines, previous=not running)
    except DeniedError:
        raise
    except ClusterError as error:  # one pod's node may be away: the others' lines are wanted all the more
        return [f"({error})"]
