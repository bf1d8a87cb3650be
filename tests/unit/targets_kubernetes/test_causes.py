"""Why a model is not ready: a state of the cluster → the sentence. Messages as kubelet, scheduler and controllers write them."""

import pytest
from kube_objects import LABELS, claim, crashed, deployment, event, job, pod, scaler, snapshot, state, unschedulable, waiting

from headrace.targets.kubernetes.causes import cause, wants_logs
from headrace.targets.kubernetes.snapshot import Snapshot, View

TAINTED = (
    "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity, "
    "3 node(s) had taint {sku: gpu}, that the pod didn't tolerate."
)
NO_GPU = "0/4 nodes are available: 1 node(s) didn't match Pod's node affinity, 3 Insufficient nvidia.com/gpu."
QUOTA = (
    'pods "chat-5d4-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, '
    "used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4"
)
GATED = "headrace: The repository meta-llama/Llama-3.1-8B is gated. Accept its terms at https://huggingface.co/… and set HF_TOKEN"
ENGINE = ("chat-5d4-x", "engine")
PULL = ("chat-pull-9f-z", "pull")
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
PENDING = pod(node="", phase="Pending")


def pull_pod(**status: object) -> dict[str, object]:
    return pod("chat-pull-9f-z", component="pull", **status)


@pytest.mark.parametrize(
    ("there", "kind", "said", "passes"),
    [
        # nothing was applied
        (snapshot(), "missing", "chat is not in the cluster. headrace apply makes it.", False),
        # nodes
        (snapshot(deployment(), unschedulable(TAINTED)), "taint", "does not tolerate the taint of the nodes: sku: gpu", False),
        (
            snapshot(deployment(), unschedulable(NO_GPU)),
            "gpus",
            "no node with enough free nvidia.com/gpu (3 nodes looked at)",
            False,
        ),
        (  # what the autoscaler says of it
            snapshot(deployment(), unschedulable(NO_GPU), event("TriggeredScaleUp", "pod triggered scale-up: [{gpu 0->1}]")),
            "node",
            "waits for a node, which is being made",
            True,
        ),
        (
            snapshot(deployment(), unschedulable(NO_GPU), event("NotTriggerScaleUp", "pod didn't trigger scale-up")),
            "gpus",
            "The autoscaler has no pool that would help.",
            False,
        ),
        (
            snapshot(deployment(), unschedulable("0/2 nodes are available: 2 Insufficient cpu.")),
            "resources",
            "enough free cpu (2 nodes",
            False,
        ),
        (
            snapshot(
                deployment(), unschedulable("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.")
            ),
            "nodes",
            "no node with the labels that it asks for",
            False,
        ),
        (  # the cluster's own nodes are never meant: what keeps the pod off the others is
            snapshot(
                deployment(),
                unschedulable(
                    "0/3 nodes are available: 1 node(s) had untolerated taint {CriticalAddonsOnly: true}, "
                    "2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available."
                ),
            ),
            "nodes",
            "no node with the labels that it asks for",
            False,
        ),
        (  # newer schedulers name no taint
            snapshot(deployment(), unschedulable("0/3 nodes are available: 3 node(s) had untolerated taint(s).")),
            "taint",
            "does not tolerate the taint of the nodes.",
            False,
        ),
        (
            snapshot(
                deployment(),
                unschedulable("0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."),
            ),
            "nodes",
            "finds no node that is well: node.kubernetes.io/not-ready:",
            True,
        ),
        # pods that are not made
        (
            snapshot(deployment(), event("FailedCreate", QUOTA, "chat-5d4", "ReplicaSet")),
            "quota",
            "keeps its pods from being made: gpus",
            False,
        ),
        (
            snapshot(deployment(conditions=[{"type": "ReplicaFailure", "status": "True", "message": QUOTA}])),
            "quota",
            "keeps its pods from being made: gpus",
            False,
        ),
        (
            snapshot(
                deployment(), event("FailedCreate", 'admission webhook "p.io" denied the request: no', "chat-5d4", "ReplicaSet")
            ),
            "webhook",
            "refuses its pods",
            False,
        ),
        (
            snapshot(
                deployment(),
                event(
                    "FailedCreate", 'pods "x" is forbidden: violates PodSecurity "restricted:latest"', "chat-5d4", "ReplicaSet"
                ),
            ),
            "security",
            "Pod Security refuses its pods",
            False,
        ),
        # images
        (
            snapshot(
                deployment(),
                pod(containerStatuses=[waiting("ImagePullBackOff", 'Back-off pulling image "x"')]),
                event("Failed", 'Failed to pull image "x": 401 Unauthorized'),
            ),
            "pull secret",
            "The registry does not let the cluster pull registry.example.com/x:1.",
            False,
        ),
        (
            snapshot(
                deployment(),
                pod(containerStatuses=[waiting("ErrImagePull", "manifest unknown: manifest tagged by 1 is not found")]),
            ),
            "image",
            "There is no image registry.example.com/x:1.",
            False,
        ),
        (
            snapshot(deployment(), pod(containerStatuses=[waiting("InvalidImageName", "couldn't parse image reference")])),
            "image",
            "cannot be pulled",
            False,
        ),
        (
            snapshot(
                deployment(),
                pod(phase="Pending", containerStatuses=[waiting("ContainerCreating")]),
                event("Pulling", "Pulling image"),
            ),
            "image",
            "is pulling its image",
            True,
        ),
        # configuration
        (
            snapshot(deployment(), pod(containerStatuses=[waiting("CreateContainerConfigError", 'secret "hf-token" not found')])),
            "secret",
            "kubectl -n ai create secret generic hf-token --from-literal=HF_TOKEN=…",
            False,
        ),
        (
            snapshot(
                deployment(),
                pod(containerStatuses=[waiting("CreateContainerConfigError", "couldn't find key HF_TOKEN in Secret ai/hf")]),
            ),
            "secret",
            "has no key HF_TOKEN",
            False,
        ),
        # volumes
        (
            snapshot(
                deployment(),
                claim(storageClassName="fast"),
                PENDING,
                event("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found', "chat-1a2b", "PersistentVolumeClaim"),
            ),
            "volume",
            "waits for a storage class that is not there: fast",
            False,
        ),
        (
            snapshot(
                deployment(),
                claim(),
                PENDING,
                event(
                    "FailedBinding",
                    "no persistent volumes available for this claim and no storage class is set",
                    "chat-1a2b",
                    "PersistentVolumeClaim",
                ),
            ),
            "volume",
            "no storage class is named, and none is the default",
            False,
        ),
        (  # bound with its first pod: the pod is what is wrong
            snapshot(
                deployment(),
                claim(),
                unschedulable(NO_GPU),
                event("WaitForFirstConsumer", "waiting for first consumer", "chat-1a2b", "PersistentVolumeClaim"),
            ),
            "gpus",
            "enough free nvidia.com/gpu",
            False,
        ),
        (snapshot(deployment(), claim(), PENDING), "volume", "is being made", True),
        (snapshot(deployment(), claim("Lost"), PENDING), "volume", "is lost", False),
        (
            snapshot(
                deployment(),
                pod(phase="Pending", containerStatuses=[waiting("ContainerCreating")]),
                event("FailedMount", "MountVolume.SetUp failed: mount.nfs: access denied"),
            ),
            "volume",
            "cannot be mounted: MountVolume.SetUp failed",
            True,
        ),
        # weights
        (snapshot(deployment(), job(active=1), pull_pod(), pod()), "weights", "are being fetched by Job chat-pull-9f", True),
        (snapshot(deployment(), job(), pod()), "weights", "has not begun", True),
        (
            snapshot(
                deployment(), job(active=1), pull_pod(containerStatuses=[crashed(69, container="pull")]), logs={PULL: (GATED,)}
            ),
            "licence",
            "Accept its terms on its page",
            False,
        ),
        (
            snapshot(
                deployment(),
                job(failed=1),
                pull_pod(containerStatuses=[crashed(69, container="pull")]),
                logs={PULL: ("headrace: the server answered 403.",)},
            ),
            "licence",
            "are not for everybody: headrace: the server answered 403.",
            False,
        ),
        (
            snapshot(
                deployment(),
                job(failed=1),
                pull_pod(containerStatuses=[crashed(69, container="pull")]),
                logs={PULL: ("OSError: [Errno 28] No space left on device",)},
            ),
            "volume",
            "too small for its weights",
            False,
        ),
        (
            snapshot(deployment(), job(conditions=[{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}])),
            "weights",
            "Job chat-pull-9f gave up",
            False,
        ),
        (  # an old Job that failed is nobody's trouble
            snapshot(
                deployment(),
                {
                    **job("chat-pull-00", failed=7),
                    "metadata": {**job()["metadata"], "name": "chat-pull-00", "creationTimestamp": "2025-01-01T00:00:00Z"},
                },
                {**job(succeeded=1), "metadata": {**job()["metadata"], "creationTimestamp": "2026-01-01T00:00:00Z"}},
                pod(containerStatuses=[state(state=RUNNING)]),
            ),
            "loading",
            "is loading",
            True,
        ),
        # the engine
        (
            snapshot(deployment(), pod(containerStatuses=[crashed(137, "OOMKilled")])),
            "memory",
            "more memory than its limit of 8Gi",
            False,
        ),
        (
            snapshot(
                deployment(),
                pod(containerStatuses=[crashed(1)]),
                logs={
                    ENGINE: (
                        "Traceback (most recent call last):",
                        '  File "x.py"',
                        "ValueError: No available memory for the cache blocks.",
                        "",
                    )
                },
            ),
            "crash",
            "ends with exit code 1, 3 times: ValueError: No available memory for the cache blocks.",
            False,
        ),
        (snapshot(deployment(), pod(containerStatuses=[crashed(1)])), "crash", "it wrote nothing", False),
        (
            snapshot(
                deployment(),
                pod(containerStatuses=[crashed(137)]),
                event("Killing", "Container engine failed startup probe, will be restarted"),
            ),
            "probe",
            "does not get ready in the time that a start may take",
            False,
        ),
        (
            snapshot(
                deployment(),
                pod(containerStatuses=[state(state=RUNNING)]),
                event("Unhealthy", "Startup probe failed: connection refused"),
            ),
            "probe",
            "is loading: Startup probe failed",
            True,
        ),
        (
            snapshot(deployment(), pod(initContainerStatuses=[state("weights", state=RUNNING)])),
            "weights",
            "waits for its weights",
            True,
        ),
        (
            snapshot(
                deployment(), pod(phase="Failed", reason="UnexpectedAdmissionError", message="Allocate failed: request for 2 > 1")
            ),
            "device",
            "gives chat-5d4-x no device: Allocate failed",
            False,
        ),
        (
            snapshot(deployment(), pod(phase="Failed", reason="Evicted", message="low on memory")),
            "evicted",
            "(Evicted): low on memory",
            True,
        ),
        # scalers
        (
            snapshot(deployment(), pod(ready=True), scaler(Ready=("False", "ScaledObject doesn't have correct triggers"))),
            "scaler",
            "ScaledObject chat does not scale: ScaledObject doesn't have correct triggers.",
            False,
        ),
        (snapshot(deployment(0), scaler()), "scaler", "is noticed by nobody", True),
        # KAITO says it itself
        (
            snapshot(
                {
                    "kind": "InferenceSet",
                    "metadata": {"name": "chat"},
                    "spec": {"replicas": 1},
                    "status": {"conditions": [{"type": "ResourceReady", "status": "False", "message": "no SKU in this region"}]},
                }
            ),
            "controller",
            "InferenceSet chat: no SKU in this region.",
            True,
        ),
    ],
)
def test_the_cause_is_named(there: Snapshot, kind: str, said: str, passes: bool) -> None:
    found = cause(View("chat", there))
    assert found is not None
    assert said in str(found)
    assert (found.kind, found.passes) == (kind, passes)


def test_where_nothing_stands_in_the_way_nothing_is_named() -> None:
    assert (
        cause(View("chat", snapshot(deployment(), job(succeeded=1), claim("Bound"), pod(ready=True), scaler(Ready=("True", "")))))
        is None
    )


@pytest.mark.parametrize(
    ("kind", "called", "label"),
    [("InferenceSet", "chat", "inferenceset.kaito.sh/created-by"), ("Workspace", "chat-workspace", "kaito.sh/workspace")],
)
def test_pods_that_kaito_makes_are_known_by_its_labels(kind: str, called: str, label: str) -> None:
    theirs = pod("chat-0", containerStatuses=[crashed(137, "OOMKilled")])
    theirs["metadata"]["labels"] = {label: called}
    made = {"kind": kind, "metadata": {"name": called, "labels": LABELS}}
    found = cause(View("chat", snapshot(made, theirs)))
    assert found is not None
    assert found.kind == "memory"


def test_another_model_s_trouble_is_not_this_one_s() -> None:
    other = pod("mail-1-x", containerStatuses=[crashed()])
    other["metadata"]["labels"] = {**other["metadata"]["labels"], "app.kubernetes.io/instance": "mail"}
    assert cause(View("chat", snapshot(deployment(), pod(ready=True), other))) is None


def test_what_does_not_pass_comes_before_what_does() -> None:
    """The weights are being fetched, which takes its time; that there is no GPU will be as true afterwards."""
    found = cause(View("chat", snapshot(deployment(), job(active=1), pull_pod(), unschedulable(NO_GPU))))
    assert found is not None
    assert found.kind == "gpus"


def test_the_last_lines_are_wanted_of_what_failed_only() -> None:
    there = snapshot(
        pod("a", containerStatuses=[crashed()]),
        pod("b", containerStatuses=[state(state={"terminated": {"exitCode": 2}})]),
        pod("c", containerStatuses=[state(state=RUNNING)]),
        pod("d", containerStatuses=[{**crashed(), "ready": True}]),  # it came back
        pod("e", containerStatuses=[state("pull", state={"terminated": {"exitCode": 0}})]),
    )
    assert wants_logs(there) == [("a", "engine", True), ("b", "engine", False)]
