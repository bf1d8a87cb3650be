"""Look at a cluster before anything is written: version, kinds, rights, nodes, storage; and what of ours is there already."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from headrace.targets.kubernetes import preflight
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.order import KINDS, OURS, Manifest, Ref, ref
from headrace.targets.kubernetes.preflight import Found, Right
from headrace.targets.kubernetes.refusals import AbsentError, DeniedError
from headrace.targets.kubernetes.resources import Resource
from headrace.targets.kubernetes.snapshot import Object

AT_ONCE = 8
"""Requests in flight: a set of hundreds of objects takes seconds over a slow line, and no server minds eight."""

_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Live:
    """What of ours is in the namespace, and where each kind is."""

    objects: Mapping[Ref, Object]
    resources: Mapping[tuple[str, str], Resource]
    """By (group, kind)."""
    unseen: tuple[str, ...] = ()
    """Plurals that the user may not list: what there is of them is not known."""

    def resource(self, one: Ref) -> Resource:
        return self.resources[one.group, one.kind]


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` on each, several at a time, results in order."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="cluster") as pool:
        return list(pool.map(work, items))


def survey(
    api: Api,
    manifests: Sequence[Manifest],
    namespace: str,
    *,
    removes: bool = False,
    waits: bool = False,
    besides: Sequence[Right] = (),
) -> Found:
    """What there is for a set of objects, with the rights to apply them and those `besides`. The first request tells whether the
    cluster can be reached and knows the user.
    """
    version = api.version()
    wanted = sorted({(each["apiVersion"], each["kind"]) for each in manifests})
    # The first one with credentials: /version is for everybody.
    resources = [found for each in wanted if (found := api.resource(*each))]
    needed = [*preflight.rights(resources, namespace, removes=removes, waits=waits), *besides]
    denied = [*_denied(api, list(dict.fromkeys(needed))), *_not_to_give(api, manifests, namespace)]
    there = _there(api, namespace)
    return Found(
        version,
        frozenset((each.api_version, each.kind) for each in resources),
        there,
        tuple(denied),
        _listed(api, "v1", "Node"),
        _listed(api, "storage.k8s.io/v1", "StorageClass"),
        _absent(api, preflight.secrets(manifests), namespace) if there else tuple(sorted(preflight.secrets(manifests))),
    )


def live(api: Api, namespace: str, manifests: Iterable[Manifest] = ()) -> Live:
    """Everything of ours in the namespace, of the kinds that we make and that this user may list."""
    kinds = sorted({*KINDS, *((each["apiVersion"], each["kind"]) for each in manifests)})
    at_once(lambda version: api.resource(version, ""), sorted({version for version, _ in kinds}))  # asked once each
    found = [each for kind in kinds if (each := api.resource(*kind))]
    listed = at_once(lambda each: _ours(api, each, namespace), found)
    unseen = tuple(resource.named for resource, some in zip(found, listed, strict=True) if some is None)
    objects = {ref(each, resource.namespaced): each for resource, some in zip(found, listed, strict=True) for each in some or ()}
    by_kind = {(each.group, each.kind): each for each in found}
    for manifest in manifests:
        me = ref(manifest, namespaced=False)
        resource = by_kind.get((me.group, me.kind))
        if resource and not resource.namespaced and (there := _seen(api, resource, me.name)):
            objects[me] = there
    return Live(objects, by_kind, unseen)


def _seen(api: Api, resource: Resource, name: str) -> dict[str, Any] | None:
    try:
        return api.get(resource, "", name)
    except DeniedError:
        return None


def _ours(api: Api, resource: Resource, namespace: str) -> list[dict[str, Any]] | None:
    if not resource.namespaced:
        return []  # nothing outside of the namespace is ours to look over
    try:
        found = api.all(resource, namespace, OURS)
    except DeniedError:
        return None
    # KEDA and KAITO copy our labels onto what they make of our objects, and would make it anew.
    return [each for each in found if not any(owner.get("controller") for owner in each["metadata"].get("ownerReferences") or ())]


def _not_to_give(api: Api, manifests: Sequence[Manifest], namespace: str) -> list[Right]:
    """What Roles among the objects allow and this user may not: nobody gives what they do not have, but for who may escalate
    and bind. What is there as it is wanted gives nothing new.
    """
    new = [each for each in manifests if each["kind"] in preflight.GIVING and not _is_given(api, each, namespace)]
    names = {(each.get("roleRef") or each["metadata"])["name"] for each in new}
    roles = [each for each in manifests if each["kind"] == "Role" and each["metadata"]["name"] in names]
    lacking = _denied(api, preflight.given(roles, namespace))
    return lacking if lacking and _denied(api, preflight.giving(new, namespace)) else []


def _is_given(api: Api, manifest: Manifest, namespace: str) -> bool:
    resource = api.resource(manifest["apiVersion"], manifest["kind"])
    try:
        there = api.get(resource, namespace, manifest["metadata"]["name"]) if resource else None
    except DeniedError:
        return False
    about = [key for key in ("rules", "roleRef", "subjects") if key in manifest]
    return there is not None and all(there.get(key) == manifest[key] for key in about)


def _denied(api: Api, rights: Sequence[Right]) -> list[Right]:
    return [
        right for right, allowed in zip(rights, at_once(lambda each: _allowed(api, each), rights), strict=True) if not allowed
    ]


def _allowed(api: Api, right: Right) -> bool:
    about = {
        "verb": right.verb,
        "group": right.group,
        "resource": right.plural,
        "namespace": right.namespace,
        "subresource": right.subresource,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in about.items() if value}},
    }
    answer = api.create(_REVIEW, body, "see what you may do")
    return bool((answer.get("status") or {}).get("allowed"))


def _there(api: Api, namespace: str) -> bool:
    """Whether the namespace is there; one that may not be looked at is taken to be."""
    resource = api.resource("v1", "Namespace")
    try:
        return resource is not None and api.get(resource, "", namespace) is not None
    except DeniedError:
        return True


def _listed(api: Api, api_version: str, kind: str) -> tuple[Object, ...] | None:
    resource = api.resource(api_version, kind)
    try:
        return tuple(api.all(resource, "")) if resource else None
    except DeniedError:
        return None


def _absent(api: Api, names: Iterable[str], namespace: str) -> tuple[str, ...]:
    """Secrets that are not there. Only their metadata is asked for: nobody's secrets come here."""
    resource = api.resource("v1", "Secret")
    missing = []
    for name in sorted(names):
        try:
            if resource and api.get(resource, namespace, name, metadata_only=True) is None:
                missing.append(name)
        except (DeniedError, AbsentError):
            continue
    return tuple(missing)
