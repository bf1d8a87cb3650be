"""The thread and the loop that a user's code runs in."""

import asyncio
import threading

import pytest

from headrace.runners.custom_failure import Failure
from headrace.runners.custom_worker import Worker


@pytest.fixture
def worker():
    """A worker with short limits, what it told of hanging calls in `told`."""
    told = []
    worker = Worker(0.2, told.append)
    worker.told = told
    return worker


async def test_plain_calls_are_in_the_thread_of_the_first_and_async_ones_in_the_loop(worker):
    async def here():
        return threading.get_ident()

    thread = worker.first(threading.get_ident)
    assert thread != threading.get_ident()
    assert await worker.call("f", threading.get_ident) == thread
    assert await worker.call("f", here) == threading.get_ident()
    assert await worker.call("f", lambda: here()) == threading.get_ident()  # a decorated one: it looks plain


async def test_who_leaves_while_waiting_is_not_run_and_who_leaves_while_running_does_not_free_the_thread(worker):
    gate, ran = threading.Event(), []
    first = asyncio.create_task(worker.call("f", gate.wait))
    await asyncio.sleep(0)
    second = asyncio.create_task(worker.call("f", ran.append, 2))
    third = asyncio.create_task(worker.call("f", ran.append, 3))
    await asyncio.sleep(0.01)
    first.cancel()
    second.cancel()
    await asyncio.sleep(0.01)
    assert ran == []
    gate.set()
    await third
    assert ran == [3]


async def test_after_a_hang_nothing_is_run_any_more(worker, capsys):
    gate = threading.Event()
    hung = asyncio.create_task(worker.call("M.predict", gate.wait))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(worker.call("M.predict", int))
    with pytest.raises(Failure) as failed:
        await hung
    assert (failed.value.status, failed.value.final) == (504, True)
    for later in (waiting, worker.call("M.predict", int)):
        with pytest.raises(Failure) as failed:
            await later
        assert failed.value.status == 503
    assert worker.told == ["M.predict did not return within 0.2s"]
    shown = capsys.readouterr().err
    assert shown.startswith("M.predict is here:\n")
    assert "waiter.acquire()" in shown
    gate.set()


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), SystemExit(1), KeyboardInterrupt(), StopAsyncIteration()])
async def test_whatever_is_raised_is_a_failure(worker, capsys, error):
    def plain():
        raise error

    async def in_loop():
        raise error

    for function in (plain, in_loop):
        with pytest.raises(Failure, match=f"f raised .*{type(error).__name__}"):
            await worker.call("f", function)
        assert type(error).__name__ in capsys.readouterr().err


async def test_a_cancellation_from_inside_is_a_failure_and_no_end(worker):
    async def call():
        raise asyncio.CancelledError

    async def generator():
        yield 1
        raise asyncio.CancelledError

    with pytest.raises(Failure, match="raised CancelledError"):
        await worker.call("f", call)
    items = worker.items("f", generator)
    assert await anext(items) == 1
    with pytest.raises(Failure, match="raised CancelledError"):
        await anext(items)


async def test_an_item_that_does_not_come_is_cancelled(worker):
    closed = asyncio.Event()

    async def generator():
        yield 1
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    items = worker.items("f", generator)
    assert await anext(items) == 1
    with pytest.raises(Failure, match=r"f did not yield within 0.2s and was cancelled"):
        await anext(items)
    await asyncio.wait_for(closed.wait(), 5)


async def test_one_task_runs_a_generator_from_its_first_item_to_its_end(worker):
    tasks = []

    async def generator():
        try:
            for number in range(3):
                tasks.append(asyncio.current_task())
                yield number
        finally:
            tasks.append(asyncio.current_task())

    items = worker.items("f", generator)
    assert [await asyncio.create_task(anext(items)) for _ in range(2)] == [0, 1]
    await items.aclose()
    async with asyncio.timeout(5):
        while len(tasks) < 4:
            await asyncio.sleep(0.001)
    assert len(set(tasks)) == 1


async def test_generators_share_the_thread_item_by_item(worker):
    order = []

    def generator(name):
        for number in range(3):
            order.append((number, name))
            yield number

    async def read(name):
        return [item async for item in worker.items("f", generator, name)]

    assert await asyncio.gather(read("a"), read("b")) == [[0, 1, 2]] * 2
    assert sorted(order[:2]) == [(0, "a"), (0, "b")]


async def test_what_is_no_generator_is_its_one_item(worker):
    async def call(word):
        return word

    assert [item async for item in worker.items("f", call, "a")] == ["a"]
    assert [item async for item in worker.items("f", str, 3)] == ["3"]
