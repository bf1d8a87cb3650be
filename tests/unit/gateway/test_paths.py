"""Which paths are the data path: what each asks of a model, where its name is, and where an engine is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.gateway.http import RequestHead
from headrace.gateway.paths import ROUTES, find, quoted


@pytest.mark.parametrize(
    ("method", "path", "kind", "task", "model", "there"),
    [
        ("POST", "/v1/chat/completions", "chat", "generate", "", None),
        ("POST", "/v1/completions", "completions", "generate", "", None),
        ("POST", "/v1/embeddings", "embeddings", "embed", "", None),
        ("POST", "/v1/rerank", "rerank", "rerank", "", None),
        ("POST", "/rerank", "rerank", "rerank", "", None),  # Jina's old one
        ("POST", "/v2/rerank", "rerank", "rerank", "", None),  # Cohere's
        ("POST", "/v2/models/iris/infer", "infer", "infer", "iris", b"/v2/models/there/infer"),
        ("POST", "/v2/models/iris/versions/3/infer", "infer", "infer", "iris", b"/v2/models/there/versions/3/infer"),
        ("POST", "/v2/models/llm/generate", "generate", "generate", "llm", b"/v2/models/there/generate"),
        ("POST", "/v2/models/llm/generate_stream", "generate_stream", "generate", "llm", b"/v2/models/there/generate_stream"),
        ("GET", "/v2/models/iris", "about", None, "iris", b"/v2/models/there"),
        ("GET", "/v2/models/iris/config", "about", None, "iris", b"/v2/models/there/config"),
        ("GET", "/v2/models/iris/versions/1/stats", "about", None, "iris", b"/v2/models/there/versions/1/stats"),
        ("GET", "/v2/models/iris/ready", "ready", None, "iris", b"/v2/models/there/ready"),
        ("POST", "/v1/models/iris:predict", "predict", "infer", "iris", b"/v1/models/there:predict"),
        # names hold slashes and colons, spelled either way
        ("POST", "/v2/models/org/iris/infer", "infer", "infer", "org/iris", b"/v2/models/there/infer"),
        ("POST", "/v2/models/org%2Firis/infer", "infer", "infer", "org/iris", b"/v2/models/there/infer"),
        ("POST", "/v1/models/org/iris:tag:predict", "predict", "infer", "org/iris:tag", b"/v1/models/there:predict"),
        ("POST", "/v2/models/caf%C3%A9/infer", "infer", "infer", "café", b"/v2/models/there/infer"),
        # a name that ends like a verb must hide its slash
        ("GET", "/v2/models/org%2Fready", "about", None, "org/ready", b"/v2/models/there"),
        # a name is looked up, never followed
        ("POST", "/v2/models/../admin/infer", "infer", "infer", "../admin", b"/v2/models/there/infer"),
        ("POST", "/v2/models/%2e%2e%2fadmin/infer", "infer", "infer", "../admin", b"/v2/models/there/infer"),
        ("POST", "/v2/models/iris/versions/../infer", "infer", "infer", "iris/versions/..", b"/v2/models/there/infer"),
        # plain servers: the rest of the path is theirs, byte for byte
        ("GET", "/upstream/app", "upstream", None, "app", b"/"),
        ("POST", "/upstream/app/", "upstream", None, "app", b"/"),
        ("DELETE", "/upstream/org%2Fapp/a%20b/../c", "upstream", None, "org/app", b"/a%20b/../c"),
        ("POST", "/upstream/app//v1/models", "upstream", None, "app", b"//v1/models"),
    ],
)
def test_a_path_says_what_is_asked_of_which_model(method, path, kind, task, model, there):
    route = find(method, path)
    assert route is not None
    assert (route.kind, route.task, route.model) == (kind, task, model)
    assert method in route.methods
    if there is not None:
        assert route.target_for("there") == there


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/v2"),
        ("POST", "/v2/models/"),
        ("POST", "/v2/repository/index"),  # Triton's own controls are Headrace's to use
        ("POST", "/v2/repository/models/iris/unload"),
        ("POST", "/v2/systemsharedmemory/region/a/register"),
        ("GET", "/v1/models/iris:predict"),  # a name of OpenAI's list
        ("GET", "/v1/models/iris"),
        ("POST", "/v1/models/:predict"),
        ("GET", "/upstream/"),
        ("GET", "/upstream"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/V1/chat/completions"),
    ],
)
def test_everything_else_is_not_the_data_path(method, path):
    assert find(method, path) is None


@pytest.mark.parametrize(("path", "allowed"), [("/v2/models/iris/infer", ("POST",)), ("/v2/models/iris", ("GET", "HEAD"))])
def test_a_path_is_known_whatever_the_method(path, allowed):
    assert all(find(method, path).methods == allowed for method in ("GET", "POST", "PUT", "BREW"))


@pytest.mark.parametrize(("method", "safe"), [("GET", True), ("HEAD", True), ("OPTIONS", True), ("POST", False), ("PUT", False)])
def test_only_what_reads_is_asked_again_of_a_plain_server(method, safe):
    assert find(method, "/upstream/app/x").safe is safe


def test_inference_may_be_asked_again():
    assert all(route.safe for route in ROUTES.values())
    assert find("POST", "/v2/models/iris/infer").safe


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_that_is_spelled_in_a_path_is_found_again(name):
    segment = quoted(name).decode()
    for before, after in (("/v2/models/", "/infer"), ("/v2/models/", ""), ("/upstream/", "/x")):
        assert find("POST", before + segment + after).model == name
    target = find("POST", "/v2/models/a/infer").target_for(name)
    assert target == b"/v2/models/" + segment.encode() + b"/infer"
    assert target.count(b"/") == 4, "a name is one segment"


@given(st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60))  # as heads have none
def test_any_path_is_found_or_not(path):
    for start in ("", "/v2/models/", "/v1/models/", "/upstream/"):
        route = find("POST", start + path)
        if route is not None and route.model:
            assert not set(b"\r\n") & set(route.target_for("there"))


# ---- heads for engines


def lines(method: str, target: bytes, path: bytes, *, json: bool) -> list[bytes]:
    fields = [(b"host", b"localhost"), (b"content-type", b"application/octet-stream"), (b"inference-header-content-length", b"9")]
    return RequestHead(method, target, fields, False, True).lines_to(path, json=json).split(b"\r\n")


def test_headers_of_tensors_reach_the_engine_as_they_are():
    assert lines("POST", b"/v2/models/a/infer?x=1", b"/v2/models/b/infer", json=False) == [
        b"POST /v2/models/b/infer?x=1 HTTP/1.1",
        b"content-type: application/octet-stream",
        b"inference-header-content-length: 9",
        b"",
    ]


def test_what_was_translated_is_json_whatever_it_was_called():
    assert lines("POST", b"/v1/completions", b"/v2/models/b/generate_stream", json=True)[:2] == [
        b"POST /v2/models/b/generate_stream HTTP/1.1",
        b"Content-Type: application/json",
    ]


def test_the_names_of_ranking_are_one_at_the_engine():
    head = RequestHead("POST", b"/v2/rerank?x=1", [], False, True)
    assert head.lines_for_engine().startswith(b"POST /v1/rerank?x=1 HTTP/1.1\r\n")
