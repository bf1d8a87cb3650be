"""Make a set of objects so, stage by stage, and take away what is left over; what fails is told whole, and can be done again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.difference import Difference, differences
from headrace.targets.kubernetes.order import Manifest, Ref, ref, removal, stages
from headrace.targets.kubernetes.ownership import gives_up_replicas, ours
from headrace.targets.kubernetes.refusals import ClusterError, ConflictError
from headrace.targets.kubernetes.resources import Resource
from headrace.targets.kubernetes.survey import Live, at_once

_HANDOVER = "headrace-replicas"
"""The manager that keeps `spec.replicas` from the moment we leave it out until a scaler sets it."""

Did = Literal["created", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became, or would become, of one object. `changes` only of previews."""

    ref: Ref
    did: Did
    changes: tuple[Difference, ...] = ()


class FailedError(ClusterError):
    """Some objects could not be made; `done` are those that were."""

    def __init__(self, errors: Sequence[ClusterError], done: Sequence[Outcome]) -> None:
        super().__init__("\n".join(dict.fromkeys(str(error) for error in errors)))
        self.exit_code = errors[0].exit_code
        self.errors = tuple(errors)
        self.done = tuple(done)


def apply(api: Api, manifests: Sequence[Manifest], live: Live, *, force: bool, tell: Callable[[Outcome], None]) -> list[Outcome]:
    """All objects, in their order. Raises FailedError after the first stage with errors: later ones rest on it, and
    nothing that is made is taken back.
    """
    done: list[Outcome] = []
    for stage in stages(manifests):
        results = at_once(lambda each: _one(api, each, live, force=force), stage)
        errors = [each for each in results if isinstance(each, ClusterError)]
        made = [each for each in results if isinstance(each, Outcome)]
        done += made
        for each in made:
            tell(each)
        if errors:
            raise FailedError(errors, done)
    return done


def preview(api: Api, manifests: Sequence[Manifest], live: Live, *, namespace_there: bool) -> list[Outcome]:
    """What `apply` would do, as the server says (dry-run). Raises FailedError with everything that it would refuse."""
    ordered = [each for stage in stages(manifests) for each in stage]
    results = at_once(lambda each: _preview(api, each, live, namespace_there), ordered)
    errors = [each for each in results if isinstance(each, ClusterError)]
    outcomes = [each for each in results if isinstance(each, Outcome)]
    if errors:
        raise FailedError(errors, outcomes)
    return outcomes


def remove(api: Api, refs: Iterable[Ref], live: Live, namespace: str, tell: Callable[[Ref], None]) -> int:
    """Delete them, scalers first; how many were there. Raises FailedError at the end: one that stays keeps no other."""
    errors: list[ClusterError] = []
    count = 0
    for stage in removal(refs):
        gone = at_once(lambda each: _gone(api, live.resource(each), namespace, each.name), stage)
        for each, went in zip(stage, gone, strict=True):
            if isinstance(went, ClusterError):
                errors.append(went)
            else:
                count += went
                tell(each)
    if errors:
        raise FailedError(errors, ())
    return count


def _gone(api: Api, resource: Resource, namespace: str, name: str) -> bool | ClusterError:
    try:
        return api.delete(resource, namespace, name)
    except ClusterError as error:
        return error


def _resource(manifest: Manifest, live: Live, api: Api) -> Resource:
    found = live.resources.get((ref(manifest).group, manifest["kind"])) or api.resource(manifest["apiVersion"], manifest["kind"])
    if found is None:
        raise ClusterError(f"The cluster knows no {manifest['kind']} ({manifest['apiVersion']}).")
    return found


def _one(api: Api, manifest: Manifest, live: Live, *, force: bool) -> Outcome | ClusterError:
    try:
        resource = _resource(manifest, live, api)
        me = ref(manifest, resource.namespaced)
        before = live.objects.get(me)
        if before is None and resource.named in live.unseen:
            before = api.get(resource, me.namespace, me.name)  # what may not be listed may be there, with replicas of ours
        _hand_over(api, resource, manifest, before)
        after, created = api.apply(resource, manifest, force=force)
    except ConflictError as error:
        return _explained(api, resource, manifest, error)
    except ClusterError as error:
        return error
    if created:
        return Outcome(me, "created")
    same = before is not None and not ours(differences(before, after), manifest, before)
    return Outcome(me, "unchanged" if same else "changed")


def _hand_over(api: Api, resource: Resource, manifest: Manifest, before: Manifest | None) -> None:
    count = gives_up_replicas(manifest, before)
    if count is None:
        return
    about = {"name": manifest["metadata"]["name"], "namespace": manifest["metadata"].get("namespace", "")}
    kept = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": about, "spec": {"replicas": count}}
    api.apply(resource, kept, manager=_HANDOVER, force=True)


def _explained(api: Api, resource: Resource, manifest: Manifest, error: ConflictError) -> ClusterError:
    """A conflict, with what --force would make of the fields: the server is asked, nothing is written."""
    about = manifest["metadata"]
    try:
        before = api.get(resource, about.get("namespace", ""), about["name"])
        after, _ = api.apply(resource, manifest, force=True, dry_run=True)
    except ClusterError:
        return error
    taken = [f"{each.path}: {each.before} → {each.after}" for each in differences(before or {}, after)]
    said = f" It would change {'; '.join(taken)}." if taken else ""
    return ConflictError(error.what, error.fix + said, error.owners)


def _preview(api: Api, manifest: Manifest, live: Live, namespace_there: bool) -> Outcome | ClusterError:
    try:
        resource = _resource(manifest, live, api)
        me = ref(manifest, resource.namespaced)
        if not namespace_there:
            return Outcome(me, "created")  # the server cannot try what has no namespace
        before = live.objects.get(me) or api.get(resource, me.namespace, me.name)
        after, created = api.apply(resource, manifest, dry_run=True)
    except ConflictError as error:
        return _explained(api, resource, manifest, error)
    except ClusterError as error:
        return error
    if created or before is None:
        return Outcome(me, "created")
    found = ours(differences(before, after), manifest, before)
    return Outcome(me, "changed" if found else "unchanged", tuple(found))
