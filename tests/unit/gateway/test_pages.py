"""Pages in browsers: those of loopback origins may ask and read, all others may do neither."""

import pytest

from .clients import CHAT, asking, get, request
from .engines import ANSWER, EVENTS, LAST, STREAM, answers, chunk, says, whole

LOCAL = "http://localhost:3000"
MODELS = "/v1/models"


def preflight(target, method="POST", origin=LOCAL, *fields):
    lines = (f"Origin: {origin}", f"Access-Control-Request-Method: {method}", *fields)
    return request(b"", *lines, method="OPTIONS", target=target)


@pytest.mark.parametrize("origin", [LOCAL, "http://127.0.0.1", "https://localhost", "http://[::1]:8080"])
@pytest.mark.parametrize(
    ("target", "method"),
    [
        (CHAT, "POST"),
        ("/v1/rerank", "POST"),
        ("/v2/models/chat/infer", "POST"),
        ("/v2/models/chat", "GET"),
        ("/upstream/chat/x", "DELETE"),
        (MODELS, "GET"),
        ("/v1/models/chat", "GET"),
    ],
)
async def test_a_browser_is_told_that_a_local_page_may_ask(world, target, method, origin):
    engine = await world.engine()
    answer = await world.ask(preflight(target, method, origin, "Access-Control-Request-Headers: content-type, x-own"))
    assert answer.status == 200
    assert answer.body == b""
    assert answer.headers["access-control-allow-origin"] == origin
    assert method in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "content-type, x-own"
    assert answer.headers["vary"] == "Origin"
    assert not engine.asked


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "http://evil.example:80"])
@pytest.mark.parametrize("trusted", [False, True])
async def test_other_pages_are_told_nothing(open_world, origin, trusted):
    """Also where --insecure lets everything ask: a browser does not let them read."""
    world = await open_world(trusted=trusted)
    await world.engine()
    answer = await world.ask(preflight(CHAT, "POST", origin))
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)
    answer = await world.ask(request(asking(), f"Origin: {origin}"))
    assert answer.status == (200 if trusted else 403)
    assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("target", "method"), [("/admin/status", "GET"), ("/metrics", "GET"), ("/nothing", "POST"), (CHAT, "GET")]
)
async def test_what_is_not_for_pages_is_not_offered_to_them(world, target, method):
    answer = await world.ask(preflight(target, method))
    if target == CHAT:
        assert answer.status == 200, "the method is judged when it comes"
        return
    assert answer.status == 404
    answer = await world.ask(get(target, f"Origin: {LOCAL}", method=method))
    assert "access-control-allow-origin" not in answer.headers


ANSWERS = {
    "whole": says(whole(ANSWER, b"200 OK", b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Credentials: true")),
    "stream": says(STREAM + b"".join(map(chunk, EVENTS)) + LAST),
    "error": says(whole(b'{"error":{"message":"no"}}', b"400 Bad Request")),
}


@pytest.mark.parametrize("script", ANSWERS.values(), ids=ANSWERS.keys())
async def test_a_local_page_may_read_its_answer(world, script):
    await world.engine(script)
    answer = await world.ask(request(asking(), f"Origin: {LOCAL}"))
    fields = [field for field in answer.fields if field[0].startswith("access-control")]
    assert fields[0] == ("access-control-allow-origin", LOCAL)
    assert [name for name, _ in fields] == ["access-control-allow-origin", "access-control-expose-headers"]


async def test_a_local_page_may_read_which_models_there_are_and_why_it_was_refused(world):
    for data in (
        get(MODELS, f"Origin: {LOCAL}"),
        request(asking("nosuch"), f"Origin: {LOCAL}"),
        request(b"{", f"Origin: {LOCAL}"),
    ):
        assert (await world.ask(data)).headers["access-control-allow-origin"] == LOCAL


async def test_each_page_gets_its_own_origin_over_one_connection(world):
    await world.engine(answers)
    client = await world.client()
    for origin in (LOCAL, "http://127.0.0.1:5000", None):
        await client.send(request(asking(), *([f"Origin: {origin}"] if origin else [])))
        assert (await client.answer()).headers.get("access-control-allow-origin") == origin


async def test_an_engine_does_not_learn_of_pages(world):
    engine = await world.engine()
    await world.ask(request(asking(), f"Origin: {LOCAL}"))
    assert "origin" not in engine.asked[0].headers
