"""Whose field it is: ours, or a controller's, whose doing is no change of ours."""

from typing import Any

import pytest

from headrace.targets.kubernetes.difference import differences
from headrace.targets.kubernetes.ownership import gives_up_replicas, ours


def deployment(replicas: int | None = None, *, manager: str = "headrace", operation: str = "Apply") -> dict[str, Any]:
    spec = {} if replicas is None else {"replicas": replicas}
    entry = {
        "manager": manager,
        "operation": operation,
        "fieldsV1": {"f:spec": {"f:replicas": {}} if replicas is not None else {}},
    }
    about = {"name": "chat", "namespace": "ai", "managedFields": [entry]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": about, "spec": spec}


@pytest.mark.parametrize(
    ("wanted", "live", "kept"),
    [
        (deployment(), deployment(3), 3),  # a scaler takes over: the number was ours
        (deployment(2), deployment(3), None),  # the number stays ours
        (deployment(), deployment(3, manager="kube-controller-manager", operation="Update"), None),  # it was never ours
        (deployment(), None, None),  # it is new
        (deployment(), deployment(), None),  # left out before as well
        ({**deployment(), "kind": "Service"}, deployment(3), None),  # has no number
    ],
)
def test_a_number_of_replicas_that_was_ours_is_handed_over(
    wanted: dict[str, Any], live: dict[str, Any] | None, kept: int | None
) -> None:
    assert gives_up_replicas(wanted, live) == kept


ANNOTATED = {"manager": "headrace", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:annotations": {".": {}, "f:mine": {}}}}}


def thing(spec: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"kind": "Deployment", "metadata": {"name": "x", **metadata}, "spec": spec or {}}


@pytest.mark.parametrize(
    ("wanted", "before", "after", "changed"),
    [
        (thing(), thing(), thing({"replicas": 3}), []),  # a scaler
        (thing({"replicas": 2}), thing({"replicas": 3}), thing({"replicas": 2}), ["spec.replicas"]),  # the number is ours
        (thing(), thing(), thing({"volumeName": "pv-1"}), []),  # the volume binder
        (thing(), thing(), thing(finalizers=["f"]), []),
        (thing(), thing(), thing(annotations={"deployment.kubernetes.io/revision": "1"}), []),
        (thing(), thing(annotations={"a": "1"}), thing(annotations={"a": "2"}), []),
        (thing(annotations={"a": "2"}), thing(annotations={"a": "1"}), thing(annotations={"a": "2"}), ["metadata.annotations.a"]),
        (thing(annotations={"a": "2"}), thing(), thing(annotations={"a": "2"}), ["metadata.annotations"]),
        # ours, and the file has it no more
        (
            thing(),
            thing(annotations={"mine": "1", "b": "2"}, managedFields=[ANNOTATED]),
            thing(annotations={"b": "2"}),
            ["metadata.annotations.mine"],
        ),
        (thing(), thing({"paused": False}), thing({"paused": True}), ["spec.paused"]),  # nobody's by nature
    ],
)
def test_what_controllers_do_between_two_looks_is_no_change_of_ours(
    wanted: dict[str, Any], before: dict[str, Any], after: dict[str, Any], changed: list[str]
) -> None:
    assert [each.path for each in ours(differences(before, after), wanted, before)] == changed
