"""A model moves from KAITO to a Deployment of its own, and to KAITO: a test plays its controllers, and nothing is dropped."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kaito_controller import VERSION, Kaito
from site_of_pods import Site, without_network
from user import LLAMA, User

from tests.e2e.test_graduating import Clients

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]
Until = Callable[..., Any]
MOVE = ("--cluster", "--yes", "--steps", "50,100", "--answers", "20", "--patience", "5s", "--slower", "10")


@pytest.fixture
def site(user: User) -> Iterator[Site]:
    if why := without_network():
        pytest.skip(why)
    user.storage(2)
    with Site(user).open() as made:
        yield made


@pytest.fixture
def kaito(site: Site) -> Iterator[Kaito]:
    played = Kaito(site)
    kubelet = site.user.plane.kubelet
    kubelet.rounds[site.user.namespace] = played.look
    yield played
    kubelet.forget(site.user.namespace)
    played.end()


def applied(site: Site, until: Until, **kubernetes: Any) -> None:
    """A model, and a gateway that reaches it."""
    user = site.user
    chat = {"source": LLAMA, "replicas": 1, "context": 8192}
    user.write({"chat": chat}, storage={"class": f"files-{user.namespace}"}, secret="hf", **kubernetes)
    user.applies()
    until(lambda: site.gateways and site.gateways[0].look())
    until(lambda: any(each.called == "chat" for each in site.running.values()))


def kaitos(user: User) -> set[str]:
    """Objects of KAITO's that are there, ours and its own."""
    found = set()
    for kind in ("InferenceSet", "Workspace"):
        resource = user.api.resource(VERSION, kind)
        assert resource
        found |= {f"{kind} {each['metadata']['name']}" for each in user.api.all(resource, user.namespace)}
    return found


@pytest.mark.parametrize("kind", ["inferenceset", "workspace"])
def test_from_kaito_to_a_deployment(site: Site, kaito: Kaito, until: Until, kind: str) -> None:
    applied(site, until, target="kaito", kaito=kind)
    assert site.deployments() == set()
    with Clients(site.gateways[0].url, 1, tokens=64) as clients:
        until(lambda: clients.ends["whole"] > 20)
        said = site.run("graduate", "chat", "--to", "vllm", *MOVE)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert site.record()["phase"] == "done"
    assert kaitos(site.user) == set()
    assert site.deployments() == {"chat-b"}
    assert site.sides() == {"chat-b"}
    # KAITO takes the node away under what it deletes: by then there was nothing to answer.
    assert [running for _, running in kaito.deleted] == [0]
    text = (site.user.folder / "headrace.yaml").read_text()
    assert "targets: {chat: deployment}" in text
    assert site.user.types("diff").code == 0


@pytest.mark.parametrize("kind", ["inferenceset", "workspace"])
def test_from_a_deployment_to_kaito(site: Site, kaito: Kaito, until: Until, kind: str) -> None:
    applied(site, until, kaito=kind)
    with Clients(site.gateways[0].url, 1) as clients:
        until(lambda: clients.ends["whole"] > 20)
        said = site.run("graduate", "chat", "--to", "kaito", *MOVE)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert site.record()["phase"] == "done"
    assert site.deployments() == set()
    wanted = {"InferenceSet chat-b", "Workspace chat-b-0"} if kind == "inferenceset" else {"Workspace chat-b-workspace"}
    assert kaitos(site.user) == wanted
    assert site.sides() == {"chat-b"}
    assert site.user.types("diff").code == 0


def test_what_is_no_good_leaves_kaito_as_it_was(site: Site, kaito: Kaito, until: Until) -> None:
    applied(site, until, target="kaito")
    site.engines["chat-b"] = {"fault": "500", "fault_every": 3}
    with Clients(site.gateways[0].url, 1) as clients:
        said = site.run("graduate", "chat", "--to", "vllm", *MOVE, "--answers", "200", code=1)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert "requests failed there" in said or "it failed" in said  # already when both were asked the same
    assert kaitos(site.user) == {"InferenceSet chat", "Workspace chat-0"}
    assert site.deployments() == set()
    assert kaito.deleted == []
    assert site.user.types("diff").code == 0


def test_a_move_to_kaito_that_is_no_good_takes_its_objects_away(site: Site, kaito: Kaito, until: Until) -> None:
    applied(site, until)
    site.engines["chat-b"] = {"fault": "die-before-head", "fault_every": 3}
    with Clients(site.gateways[0].url, 1) as clients:
        said = site.run("graduate", "chat", "--to", "kaito", *MOVE, "--answers", "200", code=1)
    assert clients.ends.keys() == {"whole"}, (clients.ends, said)
    assert kaitos(site.user) == set()
    assert site.deployments() == {"chat"}
    assert site.sides() == {"chat"}
