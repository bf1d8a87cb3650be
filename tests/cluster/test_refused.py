"""What a cluster does not let happen: what is said, what is written, and that it can be done again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import KAITO, ControlPlane, define
from user import LLAMA, User
from webhook import configuration, webhook

pytestmark = pytest.mark.controlplane
RBAC = "rbac.authorization.k8s.io"


def namespace(user: User, **labels: str) -> None:
    about = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": user.namespace, "labels": labels}}
    user.create("/api/v1/namespaces", about)
    user.made.pop()  # clean() removes it


def allow(user: User, account: str, rules: list[dict[str, Any]]) -> None:
    base = f"/apis/{RBAC}/v1/namespaces/{user.namespace}"
    user.create(f"{base}/roles", {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": {"name": account}, "rules": rules})
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": account},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": user.namespace}],
    }
    user.create(f"{base}/rolebindings", binding)


@pytest.fixture
def without_kaito(plane: ControlPlane, until: Callable[..., Any]) -> Iterator[None]:
    """A cluster that does not know KAITO's kinds, for as long as the test."""
    with plane.api() as api:
        kinds = api.resource("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        assert kinds
        for name in ("inferencesets.kaito.sh", "workspaces.kaito.sh"):
            assert api.delete(kinds, "", name)
        until(lambda: not any(api.get(kinds, "", name) for name in ("inferencesets.kaito.sh", "workspaces.kaito.sh")))
    yield
    define(plane, KAITO)


@pytest.mark.usefixtures("without_kaito")
def test_a_kind_that_is_missing_is_named_with_what_installs_it_and_nothing_is_written(user: User) -> None:
    user.write({"chat": {"source": LLAMA, "replicas": 1}}, target="kaito", scaler="none", secret="hf-token")
    said = user.types("apply")
    assert said.code == 69
    assert "KAITO is not installed: the cluster knows no InferenceSet (kaito.sh/v1beta1)." in said.err
    assert "az aks update -g GROUP -n CLUSTER --enable-ai-toolchain-operator" in said.err
    assert "nothing was written" in said.err
    namespaces = user.api.resource("v1", "Namespace")
    assert namespaces
    assert user.api.get(namespaces, "", user.namespace) is None


def test_all_that_is_wrong_is_said_in_one_run(user: User) -> None:
    user.write(
        {"own": "file:./own.py", "chat": {"source": LLAMA, "replicas": 1}}, storage={"class": "no-such"}, secret="hf-token"
    )
    said = user.types("apply")
    assert said.code == 69
    assert "The storage class no-such is not there." in said.err
    assert "The Secret hf-token is not there" in said.err
    assert f"kubectl -n {user.namespace} create secret generic hf-token" in said.err
    assert "v1.20.2 is older than 1.25" in said.err


def test_a_field_that_somebody_else_keeps_is_told_with_what_force_would_do(user: User) -> None:
    user.write(storage={})
    user.applies()
    path = f"/apis/apps/v1/namespaces/{user.namespace}/deployments/own"
    user.changes(path, {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}}, "kubectl-edit")
    said = user.types("apply")
    assert said.code == 69
    assert (
        "Cannot apply Deployment own: somebody else keeps spec.template.spec.terminationGracePeriodSeconds (by kubectl-edit)."
        in said.err
    )
    assert "--force" in said.err
    assert "spec.template.spec.terminationGracePeriodSeconds: 7 → " in said.err
    assert user.deployment("own")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 7
    assert user.types("diff").code == 69
    user.applies("--force")
    assert user.deployment("own")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] != 7
    user.applies()


def test_who_may_not_is_told_what_and_by_which_command_they_may(user: User, tmp_path: Path) -> None:
    namespace(user)
    user.write({"own": "file:./own.py"})
    file = user.plane.user("eve", user.namespace, tmp_path)
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    allow(user, "eve", everything)
    said = user.types("apply", "--kubeconfig", str(file))
    assert said.code == 69
    assert f"You may not, in the namespace {user.namespace}: create " in said.err
    assert "deployments.apps" in said.err
    assert f"kubectl -n {user.namespace} create role headrace-apply --verb=create,patch --resource=" in said.err
    assert user.get("apps/v1", "Deployment", "own") is None


def test_who_may_only_what_it_takes_needs_no_more(user: User, tmp_path: Path) -> None:
    """Neither the namespace itself nor nodes nor storage classes may be looked at; apply, diff and delete work."""
    namespace(user)
    user.write({"own": "file:./own.py"})
    file = user.plane.user("ann", user.namespace, tmp_path)
    verbs = ["get", "list", "create", "patch", "delete"]
    core = ["serviceaccounts", "configmaps", "services", "persistentvolumeclaims"]
    rules = [
        {"apiGroups": [""], "resources": core, "verbs": verbs},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": verbs},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": verbs},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": verbs},
        {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": verbs},
        {"apiGroups": ["keda.sh"], "resources": ["scaledobjects"], "verbs": verbs},
        {"apiGroups": ["monitoring.coreos.com"], "resources": ["podmonitors"], "verbs": verbs},
        # Who gives rights has to have them: what the gateway's role holds.
        {"apiGroups": [RBAC], "resources": ["roles", "rolebindings"], "verbs": [*verbs, "escalate", "bind"]},
    ]
    allow(user, "ann", rules)
    who = ("--kubeconfig", str(file))
    assert user.types("apply", *who).code == 0
    assert user.types("diff", *who).code == 0
    assert user.types("delete", "--yes", *who).code == 0


def test_a_token_that_is_no_longer_valid_is_told_as_that(user: User, tmp_path: Path) -> None:
    namespace(user)
    file = user.plane.user("gone", user.namespace, tmp_path)
    accounts = user.api.resource("v1", "ServiceAccount")
    assert accounts
    user.api.delete(accounts, user.namespace, "gone")
    for command in ("apply", "diff"):
        said = user.types(command, "--kubeconfig", str(file))
        assert said.code == 77
        assert "the token has expired or is wrong" in said.err
    assert user.types("status", "--cluster", "--kubeconfig", str(file)).code == 77


def test_a_webhook_that_refuses_is_named_and_what_is_left_can_be_made_later(user: User) -> None:
    """Half of it is made: nothing is taken back, and the next apply makes the rest and changes nothing else."""
    namespace(user, **{"headrace-test": user.namespace})
    user.write({"own": "file:./own.py"})
    pki = user.plane.run / "pki"

    def refuse(found: dict[str, Any]) -> str | None:
        return "own code is not for production" if found["metadata"]["name"] == "own" else None

    with webhook(pki, refuse) as port:
        path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
        user.create(path, configuration(user.namespace, user.namespace, port, pki))
        said = user.types("apply")
        assert said.code == 65
        assert "The webhook policy.example.com refused to apply Deployment own: own code is not for production." in said.err
        gateway = user.deployment("gateway")
        assert user.get("apps/v1", "Deployment", "own") is None
        assert user.get("v1", "Service", "own")
        user.api.request("DELETE", f"{path}/{user.namespace}", "take the webhook away")
        user.made.remove((path, user.namespace))
    again = user.applies()
    assert "+ Deployment own" in again.err
    assert "+ Service" not in again.err
    assert user.deployment("gateway")["metadata"]["generation"] == gateway["metadata"]["generation"]


def test_what_cannot_be_changed_in_place_is_said_with_the_way_out(user: User) -> None:
    namespace(user)
    user.write({"own": "file:./own.py"})
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "own"},
        "spec": {
            "selector": {"matchLabels": {"app": "theirs"}},
            "template": {"metadata": {"labels": {"app": "theirs"}}, "spec": {"containers": [{"name": "x", "image": "x:1"}]}},
        },
    }
    user.create(f"/apis/apps/v1/namespaces/{user.namespace}/deployments", body)
    said = user.types("apply")
    assert said.code != 0
    assert "Deployment own" in said.err


def test_a_cluster_that_is_not_there_is_said_at_once(user: User, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    said = user.types("apply")
    assert said.code == 69
    assert "There is no kubeconfig" in said.err
    assert user.types("apply", "--context", "other").code == 64
