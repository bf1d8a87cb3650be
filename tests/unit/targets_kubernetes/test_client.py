"""Requests to a cluster: what is sent, what is tried again, and what is said when nobody answers."""

import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from kube_server import Asked, kube_server

from headrace.errors import HeadraceError, UsageError
from headrace.targets.kubernetes.client import Api, connect
from headrace.targets.kubernetes.refusals import AbsentError, ClusterError, DeniedError
from headrace.targets.kubernetes.resources import Resource

SERVICES = Resource("v1", "Service", "services", True)
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments", True)
STRANGE = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "chat", "namespace": "ai", "futureField": {"a": [1]}},
    "spec": {"fieldOfTomorrow": "kept", "template": {"spec": {"alsoNew": True}}},
}


@pytest.fixture(autouse=True)
def nobody_elses_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def open_api(server: Any, folder: Path, **more: Any) -> Api:
    return connect(str(server.kubeconfig(folder, **more)))


def test_objects_go_out_as_they_are_and_only_the_token_is_added(tmp_path: Path) -> None:
    """lightkube's typed models would drop fields that they do not know, and the user's manifest with them."""
    with kube_server(lambda asked: (201, asked.body)) as server:
        api = open_api(server, tmp_path)
        made, created = api.apply(DEPLOYMENTS, STRANGE, dry_run=True)
        api.close()
    assert made == STRANGE
    assert created
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("PATCH", "/apis/apps/v1/namespaces/ai/deployments/chat")
    assert asked.query == {"fieldManager": "headrace", "force": "false", "dryRun": "All"}
    assert asked.headers["Content-Type"] == "application/apply-patch+yaml"
    assert asked.headers["Authorization"] == "Bearer secret-token"
    assert asked.body == STRANGE


def test_a_list_is_read_page_by_page(tmp_path: Path) -> None:
    def answer(asked: Asked) -> tuple[int, Any]:
        last = asked.query.get("continue") == "next"
        return 200, {"items": [{"metadata": {"name": "b" if last else "a"}}], "metadata": {} if last else {"continue": "next"}}

    with kube_server(answer) as server:
        api = open_api(server, tmp_path)
        found = api.all(SERVICES, "ai", {"app": "x"})
        api.close()
    assert [(each["kind"], each["metadata"]["name"]) for each in found] == [("Service", "a"), ("Service", "b")]
    assert all(asked.query["labelSelector"] == "app=x" for asked in server.asked)


def test_a_busy_server_and_a_broken_connection_are_tried_again(tmp_path: Path) -> None:
    answers: list[Any] = [(503, {}), None, (429, {}), (200, {"gitVersion": "v1.30.1"})]
    with kube_server(lambda _: answers.pop(0)) as server:
        api = open_api(server, tmp_path)
        assert api.version() == "v1.30.1"
        api.close()
    assert len(server.asked) == 4


def test_it_is_not_tried_for_ever(tmp_path: Path) -> None:
    with kube_server(lambda _: (503, {"message": "overloaded"})) as server:
        api = open_api(server, tmp_path)
        with pytest.raises(ClusterError, match="overloaded"):
            api.version()
        api.close()
    assert len(server.asked) == 4


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    with kube_server(lambda _: (401, {"message": "Unauthorized"})) as server:
        api = open_api(server, tmp_path)
        with pytest.raises(DeniedError, match="token has expired") as told:
            api.version()
        api.close()
    assert len(server.asked) == 1
    assert "secret-token" not in str(told.value)


def test_kinds_are_asked_for_once_and_one_that_is_absent_is_none(tmp_path: Path) -> None:
    def answer(asked: Asked) -> tuple[int, Any]:
        if asked.path == "/apis/apps/v1":
            kinds = [("deployments", "Deployment"), ("deployments/scale", "Scale")]
            return 200, {"resources": [{"name": name, "kind": kind, "namespaced": True} for name, kind in kinds]}
        return 404, {"message": "the server could not find the requested resource"}

    with kube_server(answer) as server:
        api = open_api(server, tmp_path)
        assert api.resource("apps/v1", "Deployment") == DEPLOYMENTS
        assert api.resource("apps/v1", "Scale") is None
        assert api.resource("keda.sh/v1alpha1", "ScaledObject") is None
        assert api.resource("keda.sh/v1alpha1", "ScaledObject") is None
        api.close()
    assert len(server.asked) == 2


def test_what_is_absent_is_not_an_error_where_that_is_an_answer(tmp_path: Path) -> None:
    with kube_server(lambda _: (404, {"message": "not found"})) as server:
        api = open_api(server, tmp_path)
        assert api.get(SERVICES, "ai", "x") is None
        assert api.delete(SERVICES, "ai", "x") is False
        assert api.all(SERVICES, "ai") == []
        with pytest.raises(AbsentError):
            api.apply(SERVICES, {**STRANGE, "kind": "Service"})
        api.close()


def test_what_is_no_api_server_is_told_as_that(tmp_path: Path) -> None:
    with kube_server(lambda _: (200, b"<html>hello</html>")) as server:
        api = open_api(server, tmp_path)
        with pytest.raises(ClusterError, match="does not answer as an API server"):
            api.version()
        api.close()


def test_a_cluster_that_is_not_there_is_told_with_its_context(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with kube_server(lambda _: None) as server:
            server.port = unused.getsockname()[1]
            api = open_api(server, tmp_path)
        with pytest.raises(ClusterError, match="context here") as told:
            api.version()
        api.close()
    assert told.value.exit_code == 69
    assert "cannot be reached" in str(told.value)


def test_a_cluster_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    over = threading.Event()
    with kube_server(lambda _: (over.wait(30), (200, {}))[1]) as server:
        api = Api(httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=0.05), "the cluster")
        with pytest.raises(ClusterError, match="The cluster does not answer within"):
            api.version()
        over.set()
        api.close()
    assert len(server.asked) == 1


def test_a_login_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with kube_server(lambda _: (200, {})) as server:
        file = server.kubeconfig(tmp_path)
        config = yaml.safe_load(file.read_text())
        command = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "no-such-login"}
        config["users"][0]["user"] = {"exec": command}
        file.write_text(yaml.safe_dump(config))
        api = connect(str(file))
        with pytest.raises(ClusterError, match="no-such-login"):
            api.version()
        api.close()


def test_a_user_without_credentials_is_anonymous(tmp_path: Path) -> None:
    with kube_server(lambda _: (200, {"gitVersion": "v1"})) as server:
        file = server.kubeconfig(tmp_path)
        config = yaml.safe_load(file.read_text())
        del config["contexts"][0]["context"]["user"]
        file.write_text(yaml.safe_dump(config))
        api = connect(str(file))
        assert api.version() == "v1"
        api.close()
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        (None, "There is no kubeconfig", 69),
        ("", "The kubeconfig cannot be used", 69),
        ("{clusters: [], contexts: [], users: []}", "says no current context", 69),
        ("{clusters: [{}]}", "The kubeconfig cannot be used", 69),
        ("a: [", "The kubeconfig cannot be used", 69),
    ],
)
def test_a_kubeconfig_that_is_none_is_told(
    text: str | None, said: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(file))
    if text is not None:
        file.write_text(text)
    with pytest.raises(HeadraceError) as told:
        connect()
    assert said in str(told.value)
    assert told.value.exit_code == code


def test_a_context_is_looked_for_in_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kube_server(lambda _: (200, {})) as server:
        files = [server.kubeconfig(tmp_path, name=name, context=name) for name in ("one", "two")]
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, [tmp_path / "absent", *files])))
    for context, where in ((None, "context one "), ("two", "context two ")):
        api = connect(context=context)
        assert where in api.where
        api.close()
    with pytest.raises(UsageError, match=r'There is no context "three"\. There are: one, two\.'):
        connect(context="three")
    with pytest.raises(UsageError, match="There is no kubeconfig"):
        connect(kubeconfig=str(tmp_path / "absent"))


def kubeconfigs(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: dict[str, Any]) -> None:
    """KUBECONFIG with these files, each in its folder. `at` are contexts, each with a cluster and a user of that name."""
    made = []
    for name, says in files.items():
        about = dict(says)
        for part in about.pop("at", ()):
            about.setdefault("clusters", []).append({"name": part, "cluster": {"server": f"http://{part}.of-{name}"}})
            about.setdefault("users", []).append({"name": part, "user": {"token": "t"}})
            about.setdefault("contexts", []).append({"name": part, "context": {"cluster": part, "user": part}})
        made.append(folder / name / "config")
        made[-1].parent.mkdir()
        made[-1].write_text(yaml.safe_dump(about))
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, made)))


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        # what the first file says is current may be in another one
        (
            {"current-context": "staging", "at": ["dev"]},
            {"current-context": "prod", "at": ["staging", "prod"]},
            "staging.of-second",
        ),
        # as kubectl config use-context writes it into a file that was not there
        (
            {"current-context": "staging", "clusters": None, "contexts": None, "users": None},
            {"at": ["staging"]},
            "staging.of-second",
        ),
        ({"current-context": ""}, {"current-context": "prod", "at": ["prod"]}, "prod.of-second"),
        # the first to have a name says what it is
        ({"at": ["prod"]}, {"current-context": "prod", "at": ["prod"]}, "prod.of-first"),
        (
            {"clusters": [{"name": "prod", "cluster": {"server": "http://other"}}]},
            {"current-context": "prod", "at": ["prod"]},
            "other",
        ),
        # a context of one file, its cluster and its user of another
        (
            {"current-context": "mine", "contexts": [{"name": "mine", "context": {"cluster": "prod", "user": "prod"}}]},
            {"at": ["prod"]},
            "prod.of-second",
        ),
    ],
)
def test_several_files_are_one_as_for_kubectl(
    first: dict[str, Any], second: dict[str, Any], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfigs(tmp_path, monkeypatch, first=first, second=second)
    api = connect()
    assert f"(http://{where})" in api.where
    api.close()


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"at": ["dev"]}, "second/config say no current context"),
        ({"current-context": "gone", "at": ["dev"]}, 'The current context is "gone", which is not in '),
        (
            {"current-context": "mine", "contexts": [{"name": "mine", "context": {"cluster": "gone"}}]},
            'The context "mine" names the cluster "gone", which is not in ',
        ),
    ],
)
def test_a_context_that_is_in_no_file_is_told_as_that(
    first: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfigs(tmp_path, monkeypatch, first=first, second={"at": ["prod"]})
    with pytest.raises(ClusterError) as told:
        connect()
    assert said in str(told.value)


def test_paths_are_those_of_the_file_that_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kube_server(lambda _: (200, {"gitVersion": "v1"})) as server:
        user = {"name": "u", "user": {"tokenFile": "token"}}
        context = {"name": "here", "context": {"cluster": "c", "user": "u"}}
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
        first = {"current-context": "here", "contexts": [context], "clusters": [cluster]}
        kubeconfigs(tmp_path, monkeypatch, first=first, second={"users": [user]})
        (tmp_path / "second" / "token").write_text("of-the-second")
        api = connect()
        api.version()
        api.close()
    assert server.asked[0].headers["Authorization"] == "Bearer of-the-second"
