"""The gateways asked one by one: everything once, from each; who does not answer is named."""

from typing import Any

import pytest

from headrace.targets.kubernetes.gateways import Gateways
from headrace.targets.kubernetes.refusals import ClusterError, refusal
from headrace.targets.kubernetes.snapshot import Snapshot


def pod(name: str, *, ready: bool = True, port: int = 8000, ending: bool = False) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "labels": {"app.kubernetes.io/instance": "gateway"}}
    if ending:
        about["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    ports = [{"name": "grpc", "containerPort": 9091}, {"name": "http", "containerPort": port}]
    return {
        "metadata": about,
        "spec": {"containers": [{"ports": ports}]},
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def said(id: str, count: int, *rows: tuple[str, int, bool], lost: int = 0, **more: Any) -> dict[str, Any]:
    finished = [[replica, status, 3, 8, 0.0, 0.1, 0.5, new] for replica, status, new in rows]
    plain = {"service": "chat", "trial": "chat-b", "share": 0.1, "running": [1, 0], "ready": [1, 1], "compared": None}
    return {"id": id, "next": count, "finished": finished, "lost": lost, **plain, **more}


class Cluster:
    """Answers by pod; an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, Any, Any]] = []

    def request(self, method: str, path: str, what: str, *, params: Any = None, body: Any = None, headers: Any = None) -> Any:
        self.asked.append((method, path, dict(params or body), headers))
        answer = self.answers[path.split("/pods/")[1].partition(":")[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer


def gateways(cluster: Cluster, key: str | None = None) -> Gateways:
    return Gateways(cluster, "ai", "org/chat", key)  # type: ignore[arg-type]


def test_each_is_asked_from_where_it_was_heard_and_all_is_put_together() -> None:
    cluster = Cluster(one=said("a", 2, ("old", 200, False), ("new", 500, True)), two=said("b", 1, ("new", 200, True), lost=2))
    asks = gateways(cluster, "secret")
    snapshot = Snapshot(pods=(pod("one", port=8080), pod("two"), pod("three", ready=False), pod("four", ending=True)))
    first = asks.ask(snapshot)
    assert [one.status for one in first.finished] == [200, 500, 200]
    assert (first.trial, first.lost, first.silent, len(first.told)) == ({"new"}, 2, "", 2)
    method, path, params, headers = min(cluster.asked)  # they are asked at once
    assert (method, path) == ("GET", "/api/v1/namespaces/ai/pods/one:8080/proxy/admin/trials")  # no names of ports there
    assert params == {"model": "org/chat", "after": 0, "id": ""}
    assert headers == {"X-Api-Key": "secret"}  # Authorization is the API server's, which takes it away
    cluster.answers["two"] = said("b", 1, lost=3)
    assert asks.ask(snapshot).lost == 1
    assert {path.split("/")[6]: params["after"] for _, path, params, _ in cluster.asked[2:]} == {"one:8080": 2, "two:8000": 1}


def test_what_still_goes_where_is_known_of_all_of_them() -> None:
    cluster = Cluster(one=said("a", 0, running=[2, 1]), two=said("b", 0, running=[0, 3], share=0.0))
    asks, snapshot = gateways(cluster), Snapshot(pods=(pod("one"), pod("two")))
    news = asks.ask(snapshot)
    assert (news.runs("chat"), news.runs("chat-b")) == (2, 4)
    assert not news.left("chat-b")  # the first one deals it a tenth
    cluster.answers["one"] = said("a", 0, share=0.0, running=[2, 1])
    assert asks.ask(snapshot).left("chat-b")
    cluster.answers["two"] = said("b", 0, service="chat", trial="", share=0.0)  # its file has none on trial any more
    assert asks.ask(snapshot).left("chat-b")
    cluster.answers["two"] = ClusterError("it is away")
    assert not asks.ask(snapshot).left("chat-b")
    cluster.answers |= {"one": said("a", 0, share=1.0), "two": said("b", 0, service="chat-b", trial="")}
    assert asks.ask(snapshot).left("chat")


def test_whoever_goes_back_watches_no_more() -> None:
    cluster = Cluster(one=said("a", 0))
    gateways(cluster).ask(Snapshot(pods=(pod("one"),)), watch=False)
    assert cluster.asked[0][2]["watch"] == "no"


def test_one_that_began_anew_counts_anew() -> None:
    cluster = Cluster(one=said("a", 9, lost=5))
    asks, snapshot = gateways(cluster), Snapshot(pods=(pod("one"),))
    asks.ask(snapshot)
    cluster.answers["one"] = said("other", 1, ("new", 200, True), lost=1)
    assert asks.ask(snapshot).lost == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (refusal(403, {}, "ask one"), r"one wants a key that may read /admin/ \(it answered 403\)"),
        (refusal(401, {}, "ask one"), r"one wants a key that may read /admin/ \(it answered 401\)"),
        (ClusterError("it is away"), "one: it is away"),
        (refusal(404, {}, "ask one"), "one: Cannot ask one"),
        ({"finished": []}, "is its image older"),
    ],
)
def test_one_that_does_not_answer_is_named(answer: Any, why: str) -> None:
    import re

    news = gateways(Cluster(one=answer)).ask(Snapshot(pods=(pod("one"),)))
    assert re.search(why, news.silent)
    assert news.told == []


def test_without_any_nobody_can_say() -> None:
    assert gateways(Cluster()).ask(Snapshot(pods=(pod("one", ready=False),))).silent == "no gateway is ready"
