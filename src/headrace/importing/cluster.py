"""What models say of the cluster they run in → the `kubernetes` section: nodes, storage, the token's Secret, what scales."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from headrace.importing.base import At, Found, note
from headrace.spec.kubernetes import KubernetesSpec
from headrace.spec.sentences import sentences

_ACCESS = {"ReadWriteMany": "many", "ReadWriteOnce": "once", "ReadWriteOncePod": "once"}


def nodes(found: Found, pod: At) -> None:
    """The labels and taints of the nodes that a pod is for."""
    found.node_labels = {key: value.text for key, value in pod.get("nodeSelector").items()}
    for toleration in pod.get("tolerations").each():
        key, value = toleration.get("key").text, toleration.get("value").text
        effect = toleration.get("effect").text
        if key and effect in ("NoSchedule", "NoExecute"):
            found.taints.append(f"{key}={value}:{effect}" if value else f"{key}:{effect}")
        else:
            why = "kubernetes.nodes.taints are KEY=VALUE:NoSchedule or NoExecute"
            found.note("not carried", f"toleration of {key or 'everything'}", why, toleration.line)


def section(found: Sequence[Found], claims: Mapping[str, At]) -> dict[str, Any]:
    """The keys of `kubernetes` that the models agree on; where they do not, the first one's, with a note."""
    wanted: dict[str, Any] = {
        "namespace": _common(found, "namespace", [one.namespace for one in found]),
        "target": "kaito" if found and all(one.kaito for one in found) else "",
        "scaler": "keda" if any(".." in one.scale.get("replicas", "") for one in found) else "",
        "secret": _common(found, "secret", [one.secret for one in found]),
        "storage": _storage(found, claims),
    }
    if wanted["target"] == "kaito" and any(one.sku for one in found):
        for one in found:  # KAITO brings nodes for all of them, or, with labels, for none
            if not one.sku and one.node_labels:
                one.note("not carried", f"labelSelector of {one.title}", "KAITO brings nodes for the models beside it")
    else:
        labels = _common(found, "nodes.labels", [one.node_labels for one in found])
        taints = _common(found, "nodes.taints", [list(dict.fromkeys(one.taints)) for one in found])
        wanted["nodes"] = {key: value for key, value in (("labels", labels), ("taints", taints)) if value}
    return _accepted(found, {key: value for key, value in wanted.items() if value})


def _common(found: Sequence[Found], key: str, values: Sequence[Any]) -> Any:
    said = [(one, value) for one, value in zip(found, values, strict=True) if value]
    for one, value in said[1:]:
        if value != said[0][1]:
            why = f"kubernetes.{key} is one for all models, and {said[0][0].title} says another"
            one.note("not carried", f"{key} of {one.title}", why)
    return said[0][1] if said else None


def _storage(found: Sequence[Found], claims: Mapping[str, At]) -> dict[str, str]:
    """As the first claim that is among the files."""
    claim = next((claims[name] for one in found for name in one.claims if name in claims), None)
    if claim is None:
        return {}
    spec = claim.get("spec")
    modes = [_ACCESS[mode.text] for mode in spec.get("accessModes").each() if mode.text in _ACCESS]
    said = {"class": spec.get("storageClassName").text, "access": "many" if "many" in modes else "once" if modes else ""}
    found[0].notes.append(
        note(claim, "decided", f"PersistentVolumeClaim {claim.get('metadata', 'name').text}", "Headrace makes a volume per model")
    )
    return {key: value for key, value in said.items() if value}


def _accepted(found: Sequence[Found], wanted: dict[str, Any]) -> dict[str, Any]:
    """`wanted` without what our own rules refuse, each with a note."""
    while True:
        try:
            KubernetesSpec.model_validate(wanted)
        except ValidationError as error:
            refused = {
                str(path[0]) if path else "nodes": f"{what} {fix}" for path, what, fix in sentences(error.errors(), wanted)
            }
            for key, why in refused.items():
                found[0].note("not carried", f"kubernetes.{key}", why.strip())
            wanted = {key: value for key, value in wanted.items() if key not in refused}
            continue
        return wanted
