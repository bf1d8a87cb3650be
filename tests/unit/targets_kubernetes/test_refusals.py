"""What API servers answer, as errors: whose fault, what to do, which exit code. Messages as servers write them."""

from typing import Any

import pytest

from headrace.targets.kubernetes.refusals import AbsentError, ClusterError, ConflictError, DeniedError, RefusedError, refusal

CONFLICT = {
    "message": 'Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas',
    "details": {
        "causes": [
            {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl-edit" using apps/v1', "field": ".spec.replicas"}
        ]
    },
}


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "said"),
    [
        (401, {"message": "Unauthorized"}, DeniedError, 77, "the token has expired or is wrong"),
        (
            403,
            {"message": 'deployments.apps "chat" is forbidden: User "eve" cannot patch resource "deployments"'},
            DeniedError,
            77,
            'You may not apply Deployment chat: deployments.apps "chat" is forbidden: User "eve" cannot patch',
        ),
        (
            403,  # a quota is a 403 too, and no matter of rights
            {"message": 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 4, limited: 4'},
            ClusterError,
            69,
            "a quota of the namespace is used up: gpus, requested: requests.nvidia.com/gpu=1",
        ),
        (404, {"message": 'namespaces "ai" not found'}, AbsentError, 69, 'namespaces "ai" not found'),
        (409, CONFLICT, ConflictError, 69, "somebody else keeps spec.replicas (by kubectl-edit)"),
        (409, {"message": "the object has been modified"}, ClusterError, 69, "Apply again"),
        (
            422,
            {"message": 'Deployment.apps "chat" is invalid: spec.selector: Invalid value: {}: field is immutable'},
            RefusedError,
            65,
            "cannot be changed in place",
        ),
        (422, {"message": "spec.replicas: Invalid value: -1"}, RefusedError, 65, "does not take it. spec.replicas"),
        (
            400,
            {"message": 'admission webhook "policy.example.com" denied the request: images from the internet'},
            RefusedError,
            65,
            "The webhook policy.example.com refused to apply Deployment chat: images from the internet.",
        ),
        (
            500,
            {"message": 'Internal error occurred: failed calling webhook "v.keda.sh": Post "https://keda": connection refused'},
            ClusterError,
            69,
            "the webhook v.keda.sh does not answer",
        ),
        (500, {}, ClusterError, 69, "the API server answered 500"),
    ],
)
def test_each_refusal_says_whose_fault_it_is(
    status: int, body: dict[str, Any], kind: type[ClusterError], code: int, said: str
) -> None:
    error = refusal(status, body, "apply Deployment chat")
    assert type(error) is kind
    assert error.exit_code == code
    assert said in str(error)


def test_a_conflict_knows_its_fields_and_their_managers() -> None:
    error = refusal(409, CONFLICT, "apply Deployment chat")
    assert isinstance(error, ConflictError)
    assert error.owners == ((".spec.replicas", "kubectl-edit"),)
    assert "--force" in error.fix
    assert "A scaler sets the number" in error.what


def test_a_message_of_megabytes_is_cut() -> None:
    assert len(str(refusal(500, {"message": "x" * 10**6}, "apply x"))) < 1000
