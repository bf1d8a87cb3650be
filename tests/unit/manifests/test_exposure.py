"""Reaching the models otherwise: from outside, past the gateway, over several machines; and when that is refused."""

from pathlib import Path
from typing import Any

import pytest

from headrace.cli import main
from headrace.errors import PlanError
from headrace.spec.load import loads
from headrace.targets.manifests.groups import meeting_places
from headrace.targets.manifests.manifests import manifests
from tests.unit.manifests.clusters import cluster

FILE = "models: {chat: {source: 'hf:meta-llama/Meta-Llama-3.1-8B'}}\nmachine: {azure: Standard_NC24ads_A100_v4}\n"


def rendered(tmp_path: Path, kubernetes: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    file = tmp_path / "chat.yaml"
    file.write_text(f"{FILE}kubernetes: {kubernetes}\n")
    code = main(["render", str(file), "--offline", "-o", str(tmp_path / "out"), *more])
    return code, capsys.readouterr().err


def test_a_gateway_without_keys_is_exposed_to_nobody_by_accident(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = rendered(tmp_path, "{expose: {host: chat.example.com, gateway: public}}", capsys)
    assert code != 0
    assert "no keys" in said
    assert "insecure: true" in said
    assert not (tmp_path / "out").exists()


def test_who_says_that_it_is_meant_gets_it_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = rendered(tmp_path, "{expose: {host: chat.example.com, gateway: public, insecure: true}}", capsys)
    assert code == 0
    assert "! chat.example.com is open to whoever reaches it" in said
    assert (tmp_path / "out" / "gateway" / "httproute.yaml").is_file()


def test_the_limit_of_other_ingresses_is_theirs_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = rendered(tmp_path, "{expose: {host: a.b, ingress: traefik, insecure: true}}", capsys)
    assert "traefik bounds answers by settings of its own: raise its time-out to 3600 s" in said


def one(kind: str, kubernetes: str) -> dict[str, Any]:
    (found,) = [each for each in manifests(cluster({"a": "vllm"}, kubernetes)) if each["kind"] == kind]
    return found


def test_only_the_data_path_is_exposed() -> None:
    """Status, logs and metrics stay inside."""
    route = one("HTTPRoute", "{expose: {host: a.b, gateway: public.gateways, insecure: true}}")["spec"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "gateways"}]
    (rule,) = route["rules"]
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1", "/v2", "/rerank"]
    assert rule["timeouts"] == {"request": "3600s", "backendRequest": "3600s"}


def test_nginx_neither_cuts_a_stream_nor_holds_it_back() -> None:
    ingress = one("Ingress", "{expose: {host: a.b, ingress: nginx, timeout: 30m, insecure: true}}")
    said = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert (said["proxy-read-timeout"], said["proxy-buffering"]) == ("1800", "off")
    assert "tls" not in ingress["spec"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{host: a.b}", "needs one of `gateway` and `ingress`"),
        ("{host: a.b, gateway: x, ingress: nginx}", "needs one of `gateway` and `ingress`"),
        ("{host: a.b, gateway: x, tls: y}", "listeners have their own certificates"),
        ("{gateway: x}", "host: is missing"),
        ("{host: 'https://a.b', gateway: x}", "host"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(written: str, said: str) -> None:
    with pytest.raises(Exception, match=said):
        loads(f"models: {{a: 'hf:a/b'}}\nkubernetes: {{expose: {written}}}\n")


def test_a_pool_is_of_the_models_pods_and_its_picker_is_named() -> None:
    pool = one("InferencePool", "{inference_pool: {picker: epp, proxies: gateways}}")["spec"]
    assert pool["endpointPickerRef"] == {"name": "epp", "port": {"number": 9002}}
    assert pool["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "a"


# --- over several machines


def test_a_split_replica_is_a_group_whose_leader_alone_is_reached() -> None:
    made = manifests(cluster({"a": "vllm"}, "{split: {a: 2}}", "2 x L4"))
    (group,) = [each["spec"]["leaderWorkerTemplate"] for each in made if each["kind"] == "LeaderWorkerSet"]
    leader, worker = (group[part]["spec"]["containers"][0] for part in ("leaderTemplate", "workerTemplate"))
    assert group["size"] == 2
    assert ("--headless" in leader["args"], "--headless" in worker["args"]) == (False, True)
    assert [each["args"][each["args"].index("--node-rank") + 1] for each in (leader, worker)] == ["0", "$(LWS_WORKER_INDEX)"]
    assert "readinessProbe" not in worker  # it has no port
    host = next(each for each in leader["env"] if each["name"] == "VLLM_HOST_IP")
    assert host["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"  # loopback is met by nobody else
    (service,) = [each for each in made if each["kind"] == "Service" and each["metadata"]["name"] == "a"]
    assert service["spec"]["selector"].items() <= group["leaderTemplate"]["metadata"]["labels"].items()
    assert not service["spec"]["selector"].items() <= group["workerTemplate"]["metadata"]["labels"].items()


def test_a_group_meets_where_we_have_no_service() -> None:
    """LeaderWorkerSet makes no headless Service where one of its name is: workers would never find their leader."""
    made = manifests(cluster({"a": "vllm"}, "{split: {a: 2}}", "2 x L4"))
    (group,) = [each for each in made if each["kind"] == "LeaderWorkerSet"]
    services = {each["metadata"]["name"] for each in made if each["kind"] == "Service"}
    assert group["metadata"]["name"] in services  # ours: where groups would meet by default
    assert group["spec"]["networkConfig"] == {"subdomainPolicy": "UniquePerReplica"}
    assert services.isdisjoint(meeting_places(group["metadata"]["name"], group["spec"]["replicas"]))


@pytest.mark.parametrize("machines", [2, 4])
def test_stages_times_tensor_parallelism_are_the_gpus_of_all_machines(machines: int) -> None:
    load = cluster({"a": "vllm"}, f"{{split: {{a: {machines}}}}}", "2 x L4").workloads[0]
    args = load.placement.options["args"]
    assert args[args.index("--pipeline-parallel-size") + 1] == str(machines)
    assert load.placement.options["tensor_parallel"] == load.need.gpus
    assert load.machines == machines


@pytest.mark.parametrize(
    ("kind", "kubernetes", "machine", "said"),
    [
        ("sglang", "{split: {a: 2}}", "2 x L4", "is for vLLM"),
        ("preset", "{split: {a: 2}, target: kaito}", "2 x L4", "target: deployment"),
        ("llamacpp", "{split: {a: 2}}", "2 x L4", "is for models on GPUs"),
        ("vllm", "{split: {a: 2}, storage: {access: once}}", "2 x L4", "one node mounts"),
    ],
)
def test_a_split_that_cannot_be_is_refused(kind: str, kubernetes: str, machine: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        cluster({"a": kind}, kubernetes, machine)


def test_a_split_of_nobody_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = rendered(tmp_path, "{split: {chta: 2}}", capsys)
    assert code != 0
    assert "kubernetes.split: chta is no model" in said
    assert "There: chat." in said
