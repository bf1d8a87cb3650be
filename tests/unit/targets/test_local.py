"""Replicas as child processes of this machine: real processes, with the fake engine in them."""

import asyncio
import errno
import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from headrace.engines.base import Launch, Probe, Reading
from headrace.targets import started
from headrace.targets.base import Drain, State, Stop
from headrace.targets.http import get
from headrace.targets.restarts import RestartPolicy
from headrace.testing.engine import fake_engine
from headrace.traffic import Endpoint

HELLO = b'{"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}'


def ready(replica):
    return replica.state is State.READY


def failed(replica):
    return replica.state is State.FAILED


def sockets(folder):
    return list(folder.glob("**/*.sock"))


async def exited(pid):
    """Wait until the process is gone, or a zombie of someone else's."""
    async with asyncio.timeout(20):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_replica_starts_serves_and_stops(world, run_dir):
    one = world()
    await one.start()
    replica = await one.until(lambda each: ready(each) and each.reading)
    endpoint = replica.endpoint
    assert isinstance(endpoint, Endpoint)
    assert (endpoint.model, endpoint.model_there, endpoint.slots, endpoint.folds) == ("chat", "chat", 2, True)
    assert endpoint.address.startswith(f"unix:{run_dir}/")
    assert (await get(endpoint.address, "/v1/models", 5.0, endpoint.key)).status == 200
    assert replica.reading == Reading(0, 0, 0, 0)
    assert replica.memory_bytes > 5_000_000
    assert "ready after" in replica.reason
    await one.target.apply([Stop("chat-1", "done")])
    await one.gone()
    assert not psutil.pid_exists(replica.pid)
    assert sockets(run_dir) == []


async def test_the_key_is_asked_for_and_shown_nowhere(world, run_dir):
    one = world()
    await one.start()
    replica = await one.until(ready)
    endpoint = replica.endpoint
    assert (await get(endpoint.address, "/v1/models", 5.0)).status == 401
    assert endpoint.key not in repr(replica)
    assert endpoint.key not in " ".join(psutil.Process(replica.pid).cmdline())


async def test_a_loading_replica_is_told_apart_from_a_ready_one(world):
    one = world("--load-seconds", "0.3")
    await one.start()
    loading = await one.until(lambda each: each.state is State.LOADING)
    assert loading.endpoint is None
    assert (await one.until(ready)).endpoint


async def test_an_engine_without_sockets_gets_a_port(world):
    one = world(engine=fake_engine(sockets=False))
    await one.start()
    await one.start("chat-2")
    first, second = await one.until(ready), await one.until(ready, "chat-2")
    assert first.endpoint.address.startswith("http://127.0.0.1:")
    assert first.endpoint.address != second.endpoint.address


async def test_without_a_free_port_that_replica_fails_and_others_serve(world, monkeypatch):
    def none_free(count):
        raise OSError(errno.EADDRINUSE, f"no {count} free ports in a row")

    one = world(engine=fake_engine(sockets=False))
    await one.start("chat-2")
    await one.until(ready, "chat-2")
    with monkeypatch.context() as patch:
        patch.setattr(started, "free_port", none_free)
        await one.start()
        replica = await one.until(failed)
    assert replica.reason.startswith("could not be started: no 1 free ports in a row")
    assert replica.retry_at is not None
    await one.start()
    await one.until(ready)
    await one.until(ready, "chat-2")


async def test_an_engine_whose_files_cannot_be_written_fails_and_is_tried_again(world):
    def launch(placement, address):
        raise OSError(errno.ENOSPC, "No space left on device")

    one = world(engine=replace(fake_engine(), launch=launch))
    await one.start()
    replica = await one.until(failed)
    assert replica.reason.startswith("could not be started: No space left on device")
    assert replica.retry_at is not None


async def test_a_crash_is_a_failure_with_code_and_last_words(world):
    one = world("--exit-after", "0", "--exit-code", "3", "--say", "no such tensor", restarts=RestartPolicy((60.0,)))
    await one.start()
    replica = await one.until(failed)
    assert replica.exit_code == 3
    assert replica.reason.startswith("exited with code 3 after ")
    assert replica.reason.endswith("; last line: no such tensor")
    assert replica.retry_at == pytest.approx(replica.since + 60.0)
    assert (replica.endpoint, replica.pid, replica.memory_bytes) == (None, None, None)
    assert one.target.logs("chat-1", 10) == ["no such tensor"]


async def test_a_killed_replica_says_by_what_and_can_be_started_again(world):
    one = world()
    await one.start()
    first = await one.until(ready)
    os.kill(first.pid, signal.SIGKILL)
    replica = await one.until(failed)
    assert replica.reason.startswith("was killed by SIGKILL after ")
    await one.start()
    again = await one.until(ready)
    assert again.restarts == 1
    assert again.endpoint.key != first.endpoint.key


async def test_a_crash_loop_is_bounded_and_visible(world):
    one = world("--exit-after", "0", "--exit-code", "7", "--say", "cannot go on")
    await one.start()
    for _ in range(4):
        assert (await one.until(failed)).retry_at is not None
        await one.start()
    replica = await one.until(failed)
    assert replica.retry_at is None
    assert replica.restarts == 4
    assert "failed 5 times in a row and is not started again: exited with code 7" in replica.reason
    assert replica.reason.endswith("last 5 lines: " + " | ".join(["cannot go on"] * 5))


async def test_a_replica_that_was_stable_has_its_failures_forgiven(world):
    one = world(restarts=RestartPolicy(backoff=(60.0,), stable_seconds=0.0, most_failures=2))
    await one.start()
    for _ in range(3):
        os.kill((await one.until(ready)).pid, signal.SIGKILL)
        assert (await one.until(failed)).retry_at is not None
        await one.start()


async def test_a_hung_replica_is_killed_and_says_so(world):
    one = world("--hang-after", "3", health_timeout=0.2)
    await one.start()
    pid = (await one.until(ready)).pid
    replica = await one.until(failed)
    assert replica.reason.startswith("did not answer /health for ")
    assert "did not answer within 0.2s" in replica.reason
    assert not psutil.pid_exists(pid)


async def test_a_replica_that_never_gets_ready_is_killed(world):
    one = world("--load-seconds", "600", load_limit=1.0)
    await one.start()
    assert (await one.until(failed)).reason.startswith("was not ready after 1s: /health answered 503; ")


async def test_one_that_ignores_sigterm_is_killed_with_its_children(world):
    one = world(engine=fake_engine("--ignore-sigterm", "--child", grace=0.1))
    await one.start()
    replica = await one.until(ready)
    (child,) = psutil.Process(replica.pid).children()
    await one.target.apply([Stop("chat-1", "done")])
    await one.gone()
    assert not psutil.pid_exists(replica.pid)
    await exited(child.pid)


async def test_ready_is_what_answers_a_first_request(world):
    warmed = replace(fake_engine(), warm=lambda placement: Probe("/v1/chat/completions", HELLO))
    one = world(engine=warmed)
    await one.start()
    replica = await one.until(lambda each: ready(each) and each.reading and each.reading.tokens_out_total)
    assert " warm " in replica.reason


async def test_what_never_answers_a_first_request_is_not_ready(world):
    warmed = replace(fake_engine(), warm=lambda placement: Probe("/v1/nothing", HELLO))
    one = world(engine=warmed, load_limit=1.0)
    await one.start()
    replica = await one.until(failed)
    assert replica.reason.startswith("was not ready after 1s: /v1/nothing answered 404: ")


async def test_one_that_was_told_to_end_by_others_drains(world):
    """Its door is closed, and it runs: nothing new is sent, nothing is killed."""
    one = world()
    await one.start()
    replica = await one.until(ready)
    path = Path(replica.endpoint.address.removeprefix("unix:"))
    os.rename(path, path.with_suffix(".closing"))
    draining = await one.until(lambda each: each.state is State.DRAINING)
    assert draining.endpoint.slots == 0
    assert psutil.pid_exists(replica.pid)


async def test_what_a_launch_takes_out_of_the_environment_is_not_there(world, monkeypatch):
    monkeypatch.setenv("HEADRACE_TEST_OURS", "1")
    plain = fake_engine()

    def launch(placement, address):
        return replace(plain.launch(placement, address), environment={"HEADRACE_TEST_OURS": None, "HEADRACE_TEST_NEW": "2"})

    one = world(engine=replace(plain, launch=launch))
    await one.start()
    environment = psutil.Process((await one.until(ready)).pid).environ()
    assert "HEADRACE_TEST_OURS" not in environment
    assert environment["HEADRACE_TEST_NEW"] == "2"


async def test_children_of_a_crashed_replica_do_not_stay(world):
    one = world("--child")
    await one.start()
    replica = await one.until(ready)
    (child,) = psutil.Process(replica.pid).children()
    os.kill(replica.pid, signal.SIGKILL)
    await one.until(failed)
    await exited(child.pid)


async def test_a_stop_before_it_is_ready_is_a_stop(world, run_dir):
    one = world("--load-seconds", "600")
    await one.start()
    await one.target.apply([Stop("chat-1", "not wanted any more")])
    await one.gone()
    await one.start()
    await one.until(lambda each: each.state is State.LOADING)
    await one.target.apply([Stop("chat-1", "not wanted any more")])
    await one.gone()
    assert sockets(run_dir) == []


async def test_draining_is_a_state_and_the_process_goes_on(world):
    one = world()
    await one.start()
    before = await one.until(ready)
    await one.target.apply([Drain("chat-1", "the plan wants fewer")])
    (replica,) = await one.target.observe()
    assert (replica.state, replica.pid) == (State.DRAINING, before.pid)
    assert replica.endpoint == replace(before.endpoint, slots=0)
    assert (await get(replica.endpoint.address, "/health", 5.0)).status == 200


async def test_changes_that_are_done_already_change_nothing(world):
    one = world()
    await one.target.apply([Drain("chat-9", "?"), Stop("chat-9", "?")])
    await one.start()
    await one.start()
    before = await one.until(ready)
    await one.start()
    await one.target.apply([Drain("chat-1", "first")])
    await one.target.apply([Drain("chat-1", "second")])
    (replica,) = await one.target.observe()
    assert (replica.pid, replica.reason) == (before.pid, "first")
    await one.target.apply([Stop("chat-1", "first"), Stop("chat-1", "second")])
    await one.gone()


async def test_ten_megabytes_of_garbage_do_no_harm(world, run_dir):
    one = world("--noise", "10000000")
    await one.start()
    await one.until(ready)
    lines = one.target.logs("chat-1", 10)
    assert lines[1:] == ["fake engine", "serving chat at " + (await one.until(ready)).endpoint.address]
    assert len(lines[0]) < 5000
    assert (run_dir / "logs" / "chat-1.log").stat().st_size < 10_000


async def test_a_program_that_is_not_there_is_a_failure(world):
    engine = replace(fake_engine(), launch=lambda placement, address: Launch(("/no/such/engine",)))
    one = world(engine=engine)
    await one.start()
    assert "cannot run /no/such/engine: No such file or directory" in (await one.until(failed)).reason


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_process_that_the_system_refuses_is_a_failure_unless_stopped(world, stopped):
    launch = Launch(("true", "x" * 200_000))  # beyond MAX_ARG_STRLEN of Linux
    one = world(engine=replace(fake_engine(), launch=lambda placement, address: launch))
    await one.start()
    if stopped:
        await one.target.apply([Stop("chat-1", "not wanted any more")])
        await one.gone()
    else:
        assert "could not be started: Argument list too long" in (await one.until(failed)).reason


async def test_metrics_that_cannot_be_read_are_unknown(world):
    one = world(engine=replace(fake_engine(), metrics_path="/nothing"))
    await one.start()
    await one.until(ready)
    assert (await one.until(lambda each: each.memory_bytes)).reading is None


async def test_two_targets_at_once_do_not_meet(world, run_dir):
    one, two = world(), world()
    for each in (one, two):
        await each.start()
    first, second = await one.until(ready), await two.until(ready)
    assert first.endpoint.address != second.endpoint.address
    await one.target.close()
    assert not psutil.pid_exists(first.pid)
    assert (await get(second.endpoint.address, "/health", 5.0)).status == 200


async def test_close_leaves_nothing_behind(world, run_dir):
    before, others = len(os.listdir("/proc/self/fd")), set(psutil.Process().children())
    one = world("--child")
    for name in ("chat-1", "chat-2", "chat-3"):
        await one.start(name)
    replicas = [await one.until(ready, name) for name in ("chat-1", "chat-2")]  # the third may still be starting
    children = [child.pid for each in replicas for child in psutil.Process(each.pid).children()]
    await one.target.close()
    assert set(psutil.Process().children()) <= others
    for child in children:
        await exited(child)
    assert sockets(run_dir) == []
    assert await one.target.observe() == ()
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # the loop's own: waker, signal pipe, thread


async def test_a_change_of_state_ends_the_wait(world):
    one = world()
    await one.start()
    async with asyncio.timeout(20):
        await one.target.changed(3600)
    await one.until(ready)
