"""Every request gets its own outputs, whoever else it was put together with; and nobody waits without a reason."""

import asyncio
import selectors

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runners.batching import Batcher, Patience
from headrace.runners.custom_failure import Failure


class _Leap(selectors.SelectSelector):
    """Waits by moving the clock on."""

    now = 0.0

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose seconds take no time."""

    def __init__(self):
        self._leap = _Leap()
        super().__init__(self._leap)
        self._clock_resolution = 1e-9

    def time(self):
        return self._leap.now


def run(coroutine):
    """The result of `coroutine`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


class Model:
    """Answers each input x with 10 x; counts what it is called with. An input `bad` fails its call."""

    def __init__(self, seconds=0.1, bad=()):
        self.seconds, self.bad = seconds, bad
        self.calls, self.began, self.busy = [], [], False

    async def __call__(self, inputs):
        assert not self.busy, "two calls at once"
        self.busy = True
        self.calls.append(list(inputs))
        self.began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.seconds)
        self.busy = False
        if any(each in self.bad for each in inputs):
            raise Failure(500, "bad", "model_error")
        return [10 * each for each in inputs]


async def ask(batcher, inputs, at=0.0, leaves=None, key=None):
    """What a request got: outputs, a Failure's message, or "left" after `leaves` seconds."""
    await asyncio.sleep(at)
    try:
        async with asyncio.timeout(leaves):
            return await batcher.outputs(inputs, key)
    except TimeoutError:
        return "left"
    except Failure as failure:
        return str(failure)


request = st.tuples(
    st.integers(1, 7),  # how many inputs
    st.floats(0, 1).map(lambda at: round(at, 3)),
    st.one_of(st.none(), st.floats(0, 0.5).map(lambda leaves: round(leaves, 3))),
    st.sampled_from(["a", "a", "a", "b"]),  # the key
)


@given(
    st.lists(request, max_size=20),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.005, 0.3]),
    st.sampled_from([0.0, 0.001, 0.1]),
    st.sets(st.integers(0, 60), max_size=6),
    st.booleans(),
)
def test_every_request_gets_its_own_outputs_in_order(requests, batch, delay, seconds, bad, isolate):
    async def all_asked():
        model = Model(seconds, bad)
        batcher = Batcher(model, batch, delay, isolate=isolate)
        first, asks, owners = 0, [], {}
        for number, (size, at, leaves, key) in enumerate(requests):
            inputs = list(range(first, first + size))
            owners |= dict.fromkeys(inputs, (number, key))
            first += size
            asks.append((inputs, ask(batcher, inputs, at, leaves, key)))
        answers = await asyncio.gather(*(coroutine for _, coroutine in asks))
        return model, batcher, owners, [(inputs, answer) for (inputs, _), answer in zip(asks, answers, strict=True)]

    model, batcher, owners, answered = run(all_asked())
    assert batcher.waiting == 0
    for inputs, answer in answered:
        if answer == "bad":
            neighbours = {owners[each][0] for call in model.calls for each in call if set(call) & set(inputs)}
            assert bad & set(inputs) or (not isolate and len(neighbours) > 1)
        elif answer != "left":
            assert answer == [10 * each for each in inputs]
            assert not bad & set(inputs)
    for call in model.calls:
        assert 1 <= len(call) <= batch
        assert len({owners[each][1] for each in call}) == 1
    whole = [inputs for inputs, _ in answered if len(inputs) <= batch]
    for inputs in whole:  # not cut: all of it is in a call, or none
        assert all(set(inputs) <= set(call) or not set(inputs) & set(call) for call in model.calls)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 4), st.sampled_from([0.0, 0.01]))
def test_it_is_first_come_first_served(sizes, batch, delay):
    async def asked():
        model = Model()
        batcher = Batcher(model, batch, delay)
        asks = [ask(batcher, [(number, part) for part in range(size)], 0.001 * number) for number, size in enumerate(sizes)]
        model.__class__ = type("Echo", (Model,), {"__call__": _echo})
        await asyncio.gather(*asks)
        return model

    async def _echo(self, inputs):
        self.calls.append(list(inputs))
        await asyncio.sleep(self.seconds)
        return inputs

    run_order = [each for call in run(asked()).calls for each in call]
    assert run_order == sorted(run_order)


def test_a_request_larger_than_a_batch_is_cut_and_put_together_again():
    model = Model()
    assert run(ask(Batcher(model, 4, 0.005), list(range(10)))) == [10 * each for each in range(10)]
    assert [len(call) for call in model.calls] == [4, 4, 2]


def test_a_large_request_that_fails_does_not_run_to_its_end():
    model = Model(bad=[1])
    assert run(ask(Batcher(model, 2, 0.005), list(range(10)))) == "bad"
    assert len(model.calls) <= 2


def test_nothing_asked_is_nothing_run():
    model = Model()
    assert run(ask(Batcher(model, 4, 0.005), [])) == []
    assert model.calls == []


def test_one_bad_request_does_not_fail_its_neighbours():
    async def asked():
        model = Model(bad=[2])
        batcher = Batcher(model, 8, 0.005)
        return model, await asyncio.gather(*(ask(batcher, [each]) for each in range(4)))

    model, answers = run(asked())
    assert answers == [[0], [10], "bad", [30]]
    assert model.calls == [[0], [1, 2, 3], [1], [2], [3]]


def test_unless_calls_must_not_be_repeated():
    async def asked():
        batcher = Batcher(Model(bad=[2]), 8, 0.005, isolate=False)
        return await asyncio.gather(*(ask(batcher, [each]) for each in range(4)))

    assert run(asked()) == [[0], "bad", "bad", "bad"]


def test_what_left_is_not_run():
    async def asked():
        model = Model(seconds=1.0)
        batcher = Batcher(model, 8, 0.005)
        answers = await asyncio.gather(ask(batcher, [1]), ask(batcher, [2], 0.1, leaves=0.2), ask(batcher, [3], 0.2))
        return model, answers

    model, answers = run(asked())
    assert answers == [[10], "left", [30]]
    assert model.calls == [[1], [3]]


def test_an_output_that_is_a_failure_fails_its_request_only():
    async def call(inputs):
        await asyncio.sleep(0.1)
        return [Failure(422, f"{each} is odd", "bad_input") if each % 2 else each for each in inputs]

    async def asked():
        batcher = Batcher(call, 8, 0.005)
        return await asyncio.gather(*(ask(batcher, inputs) for inputs in ([0], [2, 4], [6, 7], [8])))

    assert run(asked()) == [[0], [2, 4], "7 is odd", [8]]


def test_a_bug_of_ours_lets_nobody_wait():
    async def call(inputs):
        raise KeyError("bug")

    async def asked():
        batcher = Batcher(call, 8, 0.005)
        for _ in range(2):
            with pytest.raises(KeyError):
                await batcher.outputs([1])

    run(asked())


# ---- who waits


@pytest.mark.parametrize("pause", [0.0, 0.003, 1.0])
def test_a_lone_client_never_waits_for_company(pause):
    async def asked():
        model = Model(seconds=0.02)
        batcher = Batcher(model, 8, 0.005)
        asked = []
        for _ in range(20):
            asked.append(asyncio.get_running_loop().time())
            await batcher.outputs([1])
            await asyncio.sleep(pause)
        return model, asked

    model, asked = run(asked())
    assert model.began == asked


@pytest.mark.parametrize("clients", [2, 5, 8, 12])
def test_clients_in_step_are_run_together(clients):
    """After the first call, which does not wait for anybody, batches are as full as clients and limit allow."""

    async def client(batcher, number):
        for _ in range(10):
            await batcher.outputs([number])
            await asyncio.sleep(0.0005 + 0.0001 * number)

    async def asked():
        model = Model(seconds=0.02)
        batcher = Batcher(model, 8, 0.005)
        await asyncio.gather(*(client(batcher, number) for number in range(clients)))
        return [len(call) for call in model.calls]

    sizes = run(asked())
    assert sizes[0] == 1
    full = min(clients, 8)
    assert sizes.count(full) >= 10 * clients // full - 4, sizes


def test_where_waiting_is_in_vain_it_is_given_up():
    """Arrivals that do not depend on answers: of the calls that could begin at once, hardly any waits."""
    arrivals = [0.0037 * number for number in range(800)]

    async def asked():
        model = Model(seconds=0.01)
        batcher = Batcher(model, 8, 0.005)
        await asyncio.gather(*(ask(batcher, [number], at) for number, at in enumerate(arrivals)))
        return model

    model = run(asked())
    free = [0.0, *(began + 0.01 for began in model.began)]
    waited = [began - max(free[call], arrivals[model.calls[call][0]]) for call, began in enumerate(model.began)]
    assert max(waited) <= 0.005 + 1e-9
    assert 1 < sum(seconds > 1e-6 for seconds in waited) < 0.1 * len(waited)


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8), st.floats(0, 1), st.floats(0, 1)), max_size=30),
    st.floats(0, 0.1),
)
def test_patience_is_never_longer_than_its_limit_or_the_last_call(calls, limit):
    patience, now = Patience(8, limit), 0.0
    for answered, there, took, pause in calls:
        patience.began(answered, now)
        now += took
        patience.ended(answered, there, now)
        assert patience.wait(there, now) <= min(limit, took) + 1e-9
        now += pause


def test_the_end_of_a_gathering_does_not_start_an_empty_call():
    async def asked():
        model = Model()
        batcher = Batcher(model, 8, 0.05)
        await asyncio.gather(ask(batcher, [1]), ask(batcher, [2], 0.01), ask(batcher, [3], 0.12))
        assert await ask(batcher, [4], leaves=0.001) == "left"  # it waits for a second one, as there were two
        await asyncio.sleep(1)
        return model.calls

    assert run(asked()) == [[1], [2, 3]]
