"""A model moves in a real control plane, through its real controllers, while clients ask real gateways: nothing is dropped."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from site_of_pods import Site, without_network
from user import LLAMA, User

from tests.e2e.test_graduating import Clients

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]
Until = Callable[..., Any]
GRADUATE = ("graduate", "chat", "--cluster", "--yes", "--context", "4096")
QUICK = ("--steps", "1,10,50,100", "--answers", "20", "--patience", "3s", "--slower", "10")
HASTY = ("--steps", "50,100", "--answers", "5", "--patience", "2s", "--slower", "10")


@pytest.fixture
def gateways() -> int:
    return 1


@pytest.fixture
def site(user: User, until: Until, gateways: int) -> Iterator[Site]:
    """With gateways and a pod of the model, as `headrace apply` makes them; KEDA may scale it from 1 to 3."""
    if why := without_network():
        pytest.skip(why)
    user.storage(3)
    chat = {"source": LLAMA, "replicas": "1..3", "context": 8192}
    user.write({"chat": chat}, storage={"class": f"files-{user.namespace}"}, gateways=gateways)
    with Site(user).open() as made:
        user.applies()
        until(lambda: len(made.gateways) == gateways and all(each.look() for each in made.gateways))
        until(lambda: made.running)
        yield made


def owners(user: User, deployment: str) -> set[str]:
    """Who says how many replicas it has."""
    fields = user.deployment(deployment)["metadata"]["managedFields"]
    return {each["manager"] for each in fields if "f:replicas" in each["fieldsV1"].get("f:spec", {})}


def test_it_moves_under_load_step_by_step_and_nothing_is_dropped(site: Site, until: Until) -> None:
    user = site.user
    scaled = user.get("keda.sh/v1alpha1", "ScaledObject", "chat")
    with Clients(site.gateways[0].url) as clients:
        until(lambda: clients.ends["whole"] > 20)
        said = site.run(*GRADUATE, *QUICK)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert [f"shifting: {share} % of the conversations" in said for share in (1, 10, 50, 100)] == [True] * 4
    assert site.record()["phase"] == "done"
    assert site.deployments() == {"chat-b"}
    assert site.sides() == {"chat-b"}
    assert "names: {chat: chat-b}" in (user.folder / "headrace.yaml").read_text()
    assert "trial" not in site.told()
    assert site.told()["service"] == "chat-b"
    # The scaler of the new side has the numbers of the old one's, and nobody else says how many there are.
    other = user.get("keda.sh/v1alpha1", "ScaledObject", "chat-b")
    assert scaled
    assert other
    bounds = ("minReplicaCount", "maxReplicaCount", "triggers")
    assert [other["spec"][key] for key in bounds] == [scaled["spec"][key] for key in bounds]
    assert user.get("keda.sh/v1alpha1", "ScaledObject", "chat") is None
    assert "headrace" not in owners(user, "chat-b")
    user.scales("chat-b", 2)
    assert user.types("diff").code == 0
    user.applies("--prune")
    assert user.deployment("chat-b")["spec"]["replicas"] == 2
    assert site.deployments() == {"chat-b"}


def test_each_side_has_one_that_scales_it_and_the_new_one_as_many_as_its_share_takes(site: Site, until: Until) -> None:
    """KEDA has the old side, at two; the new one is ours, with as many before it is to have all, until it is done."""
    user = site.user
    user.scales("chat", 2)
    until(lambda: len(site.running) == 2)
    process = site.command(*GRADUATE, "--steps", "50,100", "--answers", "1000000", "--patience", "5m")
    try:
        until(lambda: site.record().get("phase") == "shifting" or process.poll() is not None, 240)
        until(lambda: user.deployment("chat-b")["spec"]["replicas"] == 2)
        assert owners(user, "chat-b") == {"headrace"}
        assert user.get("keda.sh/v1alpha1", "ScaledObject", "chat-b") is None
        assert user.get("keda.sh/v1alpha1", "ScaledObject", "chat")
        user.scales("chat", 1)  # KEDA goes on with the old one
        until(lambda: sum(each.called == "chat" for each in site.running.values()) == 1)
        refused = user.types("apply")
        assert "chat is on its way from chat to chat-b" in refused.err
        assert refused.code == 69
        assert user.deployment("chat")["spec"]["replicas"] == 1
        said = site.run("graduate", "chat", "--cluster", "--abort", code=1)
        assert "rolled back: asked to go back by" in said
    finally:
        process.kill()
        process.communicate()
    assert site.deployments() == {"chat"}
    assert user.deployment("chat")["spec"]["replicas"] == 1
    assert user.types("diff").code == 0


BAD: list[tuple[dict[str, Any], str]] = [
    ({"fault": "500", "fault_every": 10}, "requests failed there"),
    ({"token_seconds": 0.1}, "times as long"),
]


@pytest.mark.parametrize(("engine", "why"), BAD, ids=["500 at 10 %", "twenty times as slow"])
def test_a_bad_one_goes_back_by_itself_and_nothing_is_dropped(site: Site, until: Until, engine: dict[str, Any], why: str) -> None:
    site.engines["chat-b"] = engine
    before = (site.user.folder / "headrace.yaml").read_text()
    with Clients(site.gateways[0].url, 2) as clients:
        until(lambda: clients.ends["whole"] > 20)
        said = site.run(*GRADUATE, "--steps", "10,50,100", "--answers", "200", "--patience", "30s", code=1)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert why in said or "it failed" in said
    assert site.record()["phase"] == "rolled back"
    assert site.deployments() == {"chat"}
    assert site.sides() == {"chat"}
    assert "trial" not in site.told()
    assert (site.user.folder / "headrace.yaml").read_text() == before
    assert site.user.types("diff").code == 0


def test_one_that_is_never_ready_goes_back(site: Site) -> None:
    site.broken.add("chat-b")
    said = site.run(*GRADUATE, "--start", "5s", code=1)
    assert "does not start: it was not ready after 5s: chat: 0 of 1 ready" in said
    assert site.deployments() == {"chat"}
    assert site.sides() == {"chat"}


@pytest.mark.parametrize("phase", ["starting", "comparing", "shifting", "locking", "draining"])
def test_killed_at_any_step_it_goes_on_where_it_was(site: Site, until: Until, phase: str) -> None:
    with Clients(site.gateways[0].url, 1) as clients:
        site.killed(lambda: site.record().get("phase") == phase, until, *GRADUATE, *HASTY)
        assert site.record()["phase"] not in ("done", "rolled back")
        said = site.run("graduate", "chat", "--cluster", "--yes")
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert site.record()["phase"] == "done"
    assert site.deployments() == {"chat-b"}
    assert site.sides() == {"chat-b"}
    assert site.user.types("diff").code == 0


@pytest.mark.parametrize("phase", ["starting", "shifting"])
def test_killed_and_aborted_it_is_undone(site: Site, until: Until, phase: str) -> None:
    with Clients(site.gateways[0].url, 1) as clients:
        site.killed(lambda: site.record().get("phase") == phase, until, *GRADUATE, *HASTY)
        said = site.run("graduate", "chat", "--cluster", "--abort", code=1)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert site.deployments() == {"chat"}
    assert site.sides() == {"chat"}
    assert "trial" not in site.told()


@pytest.mark.parametrize("gateways", [2])
def test_a_gateway_that_dies_in_the_middle_reads_its_share_again(site: Site, until: Until) -> None:
    """The other one's clients notice nothing; its own those that were cut off with it."""
    stays, dies = site.gateways
    process = site.command(*GRADUATE, "--steps", "50,100", "--answers", "400", "--patience", "60s", "--slower", "10")
    with Clients(stays.url, 1) as clients:
        until(lambda: site.record().get("phase") == "shifting" or process.poll() is not None, 240)
        dies.process.kill()
        said, _ = process.communicate(timeout=280)
    assert process.returncode == 0, said
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert dies.restarts == 1
    assert site.deployments() == {"chat-b"}
