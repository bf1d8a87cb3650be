"""What the pods that we make may do: the gateway what it takes, engines nothing."""

import pytest
from user import User

pytestmark = pytest.mark.controlplane
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def may(user: User, account: str, verb: str, group: str, plural: str, name: str = "") -> bool:
    about = {"verb": verb, "group": group, "resource": plural, "namespace": user.namespace, "name": name}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{user.namespace}:{account}", "resourceAttributes": about},
    }
    return bool(user.api.create(REVIEWS, body, "ask")["status"]["allowed"])


@pytest.fixture
def applied(user: User) -> User:
    user.write(storage={})
    user.applies()
    return user


def test_the_gateway_may_watch_where_its_models_are(applied: User) -> None:
    for verb in ("list", "watch"):
        assert may(applied, "gateway", verb, "discovery.k8s.io", "endpointslices")


def test_the_gateway_may_do_nothing_else(applied: User) -> None:
    """Its role names what it may; every rule of it is asked about above or is reading EndpointSlices."""
    for verb in ("get", "list", "create", "update", "patch", "delete"):
        for group, plural in (("", "secrets"), ("", "pods"), ("", "configmaps"), ("apps", "deployments"), ("", "nodes")):
            assert not may(applied, "gateway", verb, group, plural), (verb, plural)
    for verb in ("create", "update", "patch", "delete"):
        assert not may(applied, "gateway", verb, "discovery.k8s.io", "endpointslices")


def test_engines_may_nothing_and_have_no_token(applied: User) -> None:
    for account in ("chat", "own"):
        for verb, group, plural in (("get", "", "secrets"), ("list", "", "pods"), ("list", "discovery.k8s.io", "endpointslices")):
            assert not may(applied, account, verb, group, plural)
        template = applied.deployment(account)["spec"]["template"]["spec"]
        assert template["automountServiceAccountToken"] is False
