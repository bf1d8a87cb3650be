"""The paths of graduations: who may begin one, what is refused in words, what a stranger's bytes do."""

import json
from typing import Any

import pytest

from headrace.errors import PlanError, UsageError

from .clients import get, request


class Fake:
    """Graduations that only listen."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.aborted: list[str] = []
        self.by: list[str] = []
        self.error: Exception | None = None

    def asked(self, body: bytes, by: str) -> None:
        if self.error:
            raise self.error
        self.bodies.append(body)
        self.by.append(by)

    def abort(self, model: str, by: str) -> None:
        if self.error:
            raise self.error
        self.aborted.append(model)
        self.by.append(by)

    def shown(self) -> list[dict[str, Any]]:
        return [{"model": "chat", "phase": "shifting"}]


@pytest.fixture
def fake(world):
    world.admin.graduations.graduations = there = Fake()
    return there


def begin(body: bytes, *fields: str, path: str = "/admin/graduations", host: str = "localhost") -> bytes:
    return request(body, *fields, target=path, host=host)


async def test_one_is_begun_shown_and_asked_back(world, fake):
    answer = await world.ask(begin(b'{"model": "chat"}'))
    assert answer.status == 202
    assert fake.bodies == [b'{"model": "chat"}']
    shown = await world.ask(get("/admin/graduations"))
    assert json.loads(shown.body) == {"graduations": [{"model": "chat", "phase": "shifting"}]}
    assert (await world.ask(begin(b'{"model": "chat"}', path="/admin/graduations/abort"))).status == 202
    assert fake.aborted == ["chat"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UsageError("one is under way"), 409, "cannot_graduate"),
        (PlanError("it does not fit"), 400, "cannot_graduate"),
        (ValueError("no JSON"), 400, "invalid_json"),
    ],
)
async def test_what_cannot_be_is_said(world, fake, error, status, code):
    fake.error = error
    answer = await world.ask(begin(b"{}"))
    assert (answer.status, answer.error["code"]) == (status, code)
    assert str(error) in answer.error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"model": 1}', b"\xff" * 100, b"[" * 10_000])
async def test_bytes_that_are_no_request_abort_nothing(world, fake, body):
    answer = await world.ask(begin(body, path="/admin/graduations/abort"))
    assert answer.status == 400
    assert fake.aborted == []


@pytest.mark.parametrize(
    ("fields", "host"),
    [((), "evil.example"), (("Origin: https://evil.example",), "localhost"), (("Origin: http://localhost:3000",), "localhost")],
)
@pytest.mark.parametrize("trusted", [False, True], ids=["", "insecure"])
async def test_pages_of_others_begin_nothing(world, fake, fields, host, trusted):
    world.gateway._trusted = trusted
    answer = await world.ask(begin(b'{"model": "chat"}', *fields, host=host))
    assert answer.status == 403
    assert fake.bodies == []


async def test_before_there_is_a_plan_it_says_so(world):
    assert (await world.ask(begin(b"{}"))).status == 503
    assert json.loads((await world.ask(get("/admin/graduations"))).body) == {"graduations": []}
