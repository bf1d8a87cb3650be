"""A model moves in a cluster under load and nobody notices; a bad one goes back; whoever carries it out may die at any moment."""

import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import eventually
from tests.e2e.fake_cluster import Cluster
from tests.e2e.test_graduating import Clients

pytestmark = pytest.mark.timeout(300)
FILE = """\
models:
  chat:  # ours
    task: generate
    slots: 4
    engine:
      custom:
        command: "/serve {host} {port}"
aliases: {gpt: chat}
kubernetes:
  image: registry.example.com/headrace:1
  images: {chat: "registry.example.com/chat:1"}
"""
QUICK = ("--steps", "10,50,100", "--answers", "20", "--patience", "20s")
HASTY = ("--steps", "50,100", "--answers", "5", "--patience", "2s", "--slower", "5")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """With one gateway and one pod of the model, as `headrace apply` makes them."""
    (tmp_path / "headrace.yaml").write_text(FILE)
    with Cluster(tmp_path).open() as made:
        made.run("apply")
        gateway = made.gateway()
        eventually(lambda: _ready(gateway.url), "the gateway is ready")
        (tmp_path / "headrace.yaml").write_text(FILE.replace("chat:1", "chat:2"))
        yield made


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def names(cluster: Cluster, key: str = "services") -> set[str]:
    return {path.rpartition("/")[2] for path in cluster.objects if f"/{key}/" in path} - {"gateway", "gateway-scaler"}


def test_a_good_one_takes_over_and_nothing_is_dropped(cluster: Cluster, tmp_path: Path) -> None:
    with Clients(cluster.gateways[0].url) as clients:
        said = cluster.run("graduate", "gpt", "--cluster", "--yes", *QUICK)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert "chat: from chat to chat-b (custom)" in said
    assert "shifting: 50 % of the conversations" in said
    assert "made-up prompts" in said
    assert cluster.record()["phase"] == "done"
    assert cluster.deployments() == names(cluster) == {"chat-b"}
    assert all(name.startswith("chat-b-pod-") for name in cluster.running)
    assert "names: {chat: chat-b}" in (tmp_path / "headrace.yaml").read_text()
    assert "# ours" in (tmp_path / "headrace.yaml").read_text()
    assert cluster.settings()["models"]["chat"]["service"] == "chat-b"
    assert "created" not in cluster.run("apply", "--prune").replace("0 created", "")
    assert cluster.deployments() == {"chat-b"}
    assert cluster.run("diff") == ""


def test_it_moves_back_to_its_own_name_with_two_gateways(cluster: Cluster, tmp_path: Path) -> None:
    second = cluster.gateway()
    eventually(lambda: _ready(second.url), "the second gateway is ready")
    with Clients(cluster.gateways[0].url, 2) as one, Clients(second.url, 2) as two:
        cluster.run("graduate", "chat", "--cluster", "--yes", *HASTY)
        (tmp_path / "headrace.yaml").write_text((tmp_path / "headrace.yaml").read_text().replace("chat:2", "chat:3"))
        cluster.run("graduate", "chat", "--cluster", "--yes", *HASTY)
    assert one.ends.keys() == two.ends.keys() == {"whole"}
    assert cluster.deployments() == {"chat"}
    assert "names" not in (tmp_path / "headrace.yaml").read_text()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"fault": "500", "fault_every": 10}, "requests failed there"),
    ({"fault": "die-before-head", "fault_every": 10}, "requests failed there"),
    ({"token_seconds": 0.015}, "times as long"),
]


@pytest.mark.parametrize(("engine", "why"), BAD, ids=["500 at 10 %", "dies at 10 %", "three times as slow"])
def test_a_bad_one_goes_back_by_itself_and_nothing_is_dropped(
    cluster: Cluster, tmp_path: Path, engine: dict[str, Any], why: str
) -> None:
    cluster.engines["chat-b"] = engine
    before = (tmp_path / "headrace.yaml").read_text()
    with Clients(cluster.gateways[0].url) as clients:
        said = cluster.run("graduate", "chat", "--cluster", "--yes", *QUICK, "--answers", "200", code=1)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert why in said or "it failed" in said
    assert cluster.record()["phase"] == "rolled back"
    assert cluster.deployments() == names(cluster) == {"chat"}
    assert "trial" not in cluster.settings()["models"]["chat"]
    assert (tmp_path / "headrace.yaml").read_text() == before


def test_one_that_does_not_start_goes_back_with_the_words_of_why(cluster: Cluster) -> None:
    cluster.crashes.add("chat-b")
    with Clients(cluster.gateways[0].url, 1) as clients:
        said = cluster.run("graduate", "chat", "--cluster", "--yes", "--start", "3s", code=1)
    assert clients.ends.keys() == {"whole"}
    assert "does not start: it was not ready after 3s: chat: 0 of 1 ready" in said
    assert cluster.deployments() == {"chat"}


def killed(cluster: Cluster, phase: str) -> None:
    """A graduation whose carrier is killed once the record says so."""
    process = cluster.command("graduate", "chat", "--cluster", "--yes", *HASTY)
    eventually(lambda: cluster.record().get("phase") == phase or process.poll() is not None, phase, 60)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("phase", ["starting", "comparing", "shifting", "locking", "draining"])
def test_killed_at_any_step_it_goes_on_where_it_was(cluster: Cluster, phase: str) -> None:
    with Clients(cluster.gateways[0].url, 2) as clients:
        killed(cluster, phase)
        said = cluster.run("graduate", "chat", "--cluster", "--yes")
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert cluster.record()["phase"] == "done"
    assert cluster.deployments() == {"chat-b"}


def test_killed_and_aborted_it_is_undone_and_apply_is_refused_meanwhile(cluster: Cluster) -> None:
    with Clients(cluster.gateways[0].url, 2) as clients:
        killed(cluster, "shifting")
        assert "is on its way from chat to chat-b" in cluster.run("apply", code=69)
        assert "is on its way from chat to chat-b" in cluster.run("status", "--cluster")
        assert "nobody" in cluster.run("graduate", "--status", "--cluster") or cluster.record()["holder"]
        cluster.run("graduate", "chat", "--cluster", "--abort", code=1)
    assert clients.ends.keys() == {"whole"}
    assert cluster.record()["phase"] == "rolled back"
    assert cluster.deployments() == {"chat"}


def test_two_at_once_are_refused_and_abort_reaches_the_one_that_is_at_it(cluster: Cluster) -> None:
    first = cluster.command("graduate", "chat", "--cluster", "--yes", "--answers", "100000", "--patience", "5m")
    eventually(lambda: cluster.record().get("phase") == "shifting" or first.poll() is not None, "shifting", 60)
    assert "somebody carries that out" in cluster.run("graduate", "chat", "--cluster", "--yes", code=75)
    assert "rolled back: asked to go back by" in cluster.run("graduate", "chat", "--cluster", "--abort", code=1)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 1, said
    assert cluster.deployments() == {"chat"}


def test_gateways_with_keys_are_asked_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = FILE + "gateway: {keys: 'file:keys.json'}\n"
    (tmp_path / "headrace.yaml").write_text(file)
    with Cluster(tmp_path).open() as cluster:
        key = cluster.run("key", "add", "--name", "ops", "--admin", "--file", "keys.json").split()
        cluster.run("apply")
        gateway = cluster.gateway()
        eventually(lambda: _ready(gateway.url), "the gateway is ready")
        (tmp_path / "headrace.yaml").write_text(file.replace("chat:1", "chat:2"))
        said = cluster.run("graduate", "chat", "--cluster", "--yes", code=69)
        assert "gateway-1 wants a key that may read /admin/ (it answered 401)" in said
        assert "belongs in HEADRACE_KEY" in said
        assert cluster.deployments() == {"chat"}
        monkeypatch.setenv("HEADRACE_KEY", next(word for word in key if word.startswith("hr-")))
        cluster.run("graduate", "chat", "--cluster", "--yes", "--steps", "100", "--patience", "2s")
        assert cluster.deployments() == {"chat-b"}


def test_what_runs_so_already_and_who_is_not_there_are_told(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(FILE)
    assert "runs so already, as chat" in cluster.run("graduate", "chat", "--cluster", "--yes", code=64)
    assert 'The file has no model "chatt"' in cluster.run("graduate", "chatt", "--cluster", "--yes", code=64)
    assert "No graduation of chat is under way" in cluster.run("graduate", "chat", "--cluster", "--abort", code=64)
    assert "Nobody is there to ask" not in cluster.run("graduate", "--status", "--cluster")
    assert cluster.record() == {}
