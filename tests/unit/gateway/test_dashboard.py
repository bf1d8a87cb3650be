"""The dashboard on a real gateway: who gets what at `/`, what pages may do, what is sent while one is open and what not."""

import asyncio
import json
from typing import Any

import pytest

from headrace.dashboard.app import Dashboard
from headrace.dashboard.sight import Sight
from headrace.targets.base import Replica, State

from .clients import get, request

FORM = b"model=chat&want=2"


class Control:
    """A control that remembers what it was asked for."""

    plan = None
    wishes: dict[str, str] = {}  # noqa: RUF012
    wanted: dict[str, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.replicas = (Replica("chat-1", "chat", "unix:/s", State.READY, slots=4),)
        self.decisions: list[tuple[float, str, str]] = []
        self.asked: list[tuple[str, str]] = []

    def choices(self, model: str) -> list[tuple[str, str]]:
        return [("2", "2 replicas")]

    def wish(self, model: str, want: str, by: str) -> str:
        if want != "2":
            return "that cannot be"
        self.asked.append((model, want))
        return ""

    def logs(self, replica: str, lines: int) -> list[str]:
        return ["<script>alert(1)</script>"]


@pytest.fixture
def pages(world: Any) -> tuple[Dashboard, Control]:
    admin = next(route for route in world.gateway._app.routes if route.path == "/").endpoint.__self__
    control = Control()
    dashboard = Dashboard(Sight(admin, control, None))
    dashboard.mount()
    return dashboard, control


async def test_browsers_get_pages_and_others_what_they_always_got(world, pages):
    assert (await world.ask(get("/", "Accept: */*"))).json["headrace"] is True
    page = await world.ask(get("/", "Accept: text/html,application/xhtml+xml"))
    assert b"<!doctype html>" in page.body
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


async def test_what_a_log_says_stays_text(world, pages):
    page = await world.ask(get("/admin/pages/log?replica=chat-1"))
    assert b"&lt;script&gt;" in page.body
    assert b"<script>" not in page.body


@pytest.mark.parametrize("path", ["/dashboard/static/../app.py", "/dashboard/static/%2e%2e/app.py", "/dashboard/static/none.js"])
async def test_only_the_static_files_are_served(world, pages, path):
    assert (await world.ask(get(path))).status == 404


async def test_a_wish_is_passed_on_or_refused_with_its_reason(world, pages):
    _, control = pages
    assert (await world.ask(request(FORM, target="/admin/wanted"))).status == 200
    assert control.asked == [("chat", "2")]
    refused = await world.ask(request(b"model=chat&want=99", target="/admin/wanted"))
    assert (refused.status, refused.error["message"]) == (400, "that cannot be")
    assert (await world.ask(request(b"model=none&want=2", target="/admin/wanted"))).status == 404


@pytest.mark.parametrize(
    "field",
    ["Origin: http://localhost:3000", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"],
)
async def test_pages_of_other_servers_change_nothing(world, pages, field):
    assert (await world.ask(request(FORM, field, target="/admin/wanted"))).status == 403
    assert pages[1].asked == []


async def test_what_is_shown_is_only_read(world, pages):
    for path in ("/admin/pages/overview", "/admin/status"):
        assert (await world.ask(request(b"", target=path))).status == 405


async def test_without_a_history_the_page_is_told_so(world, pages):
    answer = await world.ask(get("/admin/pages/history?model=chat&span=1h"))
    assert answer.json["missing"] == "No history is kept here."
    assert (await world.ask(get("/admin/pages/history?model=chat&span=9y"))).status == 400


async def test_no_page_no_work_and_a_decision_is_told_within_two_looks(world, pages):
    dashboard, control = pages
    assert dashboard.feed._ticking is None
    events = dashboard.feed.follow(None)
    first = json.loads((await anext(events)).removeprefix(b"data: "))
    assert set(first["rows"]) == {"", "chat", "vectors"}
    control.decisions.append((world.gateway.now(), "chat", "chat 1 → 2 replicas: many wait"))
    async with asyncio.timeout(10):
        told = json.loads((await anext(events)).removeprefix(b"data: "))
    assert told["decisions"][0][1:] == ["chat", "chat 1 → 2 replicas: many wait"]
    await events.aclose()
    assert dashboard.feed._ticking is None
    assert dashboard.feed.pages == 0


async def test_pages_that_are_open_do_not_hold_up_a_drain(world, pages):
    dashboard, _ = pages
    events = dashboard.feed.follow("chat")
    await anext(events)
    world.gateway.draining = True
    async with asyncio.timeout(10):
        assert [one async for one in events] == []
    world.gateway.draining = False
