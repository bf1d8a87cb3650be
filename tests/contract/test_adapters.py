"""Adapters of a running replica, with the fake vLLM; test_vllm_real.py asks the same of the real one."""

import os
import signal
from dataclasses import replace

import adapters
import pytest
from deployment import Given, deployed

from headrace.engines.base import Placement
from headrace.engines.vllm import ENGINE, adapt
from headrace.targets.base import State
from headrace.targets.started import Started
from headrace.testing.vllm import fake_vllm

PLACEMENT = Placement("chat", "vllm", "generate", "/none", 4096, 4, 1, 0)


@pytest.fixture
async def there(tmp_path):
    plan = adapters.planned(PLACEMENT, {"poet": str(tmp_path)})
    async with deployed(Given(plan, {"vllm": fake_vllm("--tokens", "200", "--token-seconds", "0.01")}), tmp_path) as there:
        yield there


async def test_they_come_and_go_without_a_restart(there, tmp_path):
    await adapters.they_come_and_go_without_a_restart(there, tmp_path)


async def test_one_that_is_refused_leaves_the_others(there, tmp_path):
    await adapters.one_that_is_refused_leaves_the_others(there, tmp_path)


async def test_one_that_was_to_go_for_another_that_is_refused_stays(there, tmp_path):
    """What is said then, that it keeps the adapters it has, is so; also once the file asks for them again."""
    await there.ready("chat")
    found = await adapters.asked_for(there, {"missing": str(tmp_path / "no")})
    assert "it keeps the adapters it has" in found.reason
    assert await adapters.status(there, "poet") == 200
    await adapters.asked_for(there, {"poet": str(tmp_path)})
    assert await adapters.status(there, "poet") == 200


async def test_one_that_goes_is_no_name_while_others_are_loaded(there, tmp_path, monkeypatch):
    """Else requests would come to it until the moment that it is unloaded."""
    await there.ready("chat")
    known, plain = [], Started._now_runs

    def noting(self, *given):
        plain(self, *given)
        known.append(self.replica.endpoint.also)

    monkeypatch.setattr(Started, "_now_runs", noting)
    await adapters.asked_for(there, {"second": str(tmp_path)})
    assert known == [{"second"}] * 3  # loaded, the other unloaded, done


async def test_a_name_that_is_to_mean_other_weights_takes_another_replica(there, tmp_path):
    (tmp_path / "better").mkdir()
    before = await there.ready("chat")
    there.loop.replan(adapters.planned(PLACEMENT, {"poet": str(tmp_path / "better")}), 60.0, None, {})
    after = await there.ready("chat", but=before)
    assert after.placement.adapters == {"poet": str(tmp_path / "better")}
    assert (await there.chat(model="poet")).status == 200


async def test_a_replica_that_dies_comes_back_with_the_adapters_that_it_had(there, tmp_path):
    found = await adapters.asked_for(there, {"poet": str(tmp_path), "second": str(tmp_path)})
    os.kill(found.pid, signal.SIGKILL)
    again = await there.replica("chat", lambda each: each.state is State.READY and each.pid != found.pid)
    assert again.endpoint.also == {"poet", "second"}
    assert await adapters.status(there, "second") == 200


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        # what is new is loaded before what goes is unloaded
        ({"a": "/a"}, {"b": "/b"}, ["load b", "unload a"]),
        ({"a": "/a"}, {"a": "/a"}, []),
        ({"a": "/a"}, {}, ["unload a"]),
        # room is for four, and for four more
        ({"a": "/a"}, dict.fromkeys("bcde", "/"), ["load b", "load c", "load d", "load e", "unload a"]),
        ({"a": "/a"}, dict.fromkeys("abcde", "/"), None),
        # started without any, it knows nothing of adapters
        ({}, {"a": "/a"}, None),
        # vLLM would change the weights under answers that are being written
        ({"a": "/a"}, {"a": "/other"}, None),
    ],
)
def test_what_vllm_is_asked(before, after, asked):
    running, wanted = (replace(PLACEMENT, adapters=each, also=tuple(each)) for each in (before, after))
    steps = adapt(running, wanted)
    if asked is None:
        assert steps is None
        return
    assert [f"{probe.path[4:].partition('_')[0]} {probe.body.decode().split(chr(34))[3]}" for probe, _ in steps] == asked
    assert not steps or steps[-1][1].adapters == after


def test_it_is_started_with_room_for_more():
    running = replace(PLACEMENT, adapters=dict.fromkeys("abcde", "/"))
    argv = ENGINE.launch(running, "unix:/s").argv
    assert argv[argv.index("--max-loras") + 1] == "8"
