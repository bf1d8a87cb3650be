"""Limits in a real Redis: the script decides as `granted` does, gateways keep to the limits together, an absence fails nobody."""

import asyncio
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("redis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace import shared_limits
from headrace.errors import UsageError
from headrace.gateway.accounts import Account, Charge, Key, Short
from headrace.gateway.keys import Keys
from headrace.gateway.leases import Pool, Rule, Wish, granted
from headrace.gateway.openai import Ask, Refusal
from headrace.money import Money, Price
from headrace.shared_limits import SharedLimits
from headrace.spec.limits import RedisSpec
from headrace.traffic import Finished
from tests.redis_server import Redis, needs_redis, running

pytestmark = needs_redis


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy: a Redis that is slow for that is not away."""
    monkeypatch.setattr(shared_limits, "ANSWER_SECONDS", 20.0)


SOON_SECONDS = 30
RULES = (Rule(40), Rule(30, 0.5), Rule(4, places=True))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with running(tmp_path) as server:
        yield server


class Front:
    """What one gateway does with a key."""

    def __init__(self, redis: Redis, key: Key, name: str = "headrace", password: str | None = None) -> None:
        self.said: list[str] = []
        spec = RedisSpec(url=redis.url, name=name, password="env:PW" if password else None)
        self.shared = SharedLimits(spec, {"PW": password or ""}, self.said.append)
        self.keys = Keys([key], None, self.shared)
        self.account: Account = self.keys.accounts[key.name]
        self.account.in_month("2026-11")
        self.shared.of(lambda: self.keys.accounts.values())
        self.task = asyncio.create_task(self.shared.run())
        self.charges: list[Charge] = []

    async def request(self, price: Price | None = None) -> bool:
        """Whether a request is let in, as gateway.handle would: at once, or after the others were asked."""
        ask, loop = Ask("chat", False, 1, {}, True), asyncio.get_running_loop()
        for asked in (False, True):
            try:
                about = {"generates": False, "now": loop.time(), "price": price, "asked": asked}
                self.charges.append(self.account.charge(ask, b"x" * 36, None, **about))  # type: ignore[arg-type]
                return True
            except Refusal:
                return False
            except Short:
                done = asyncio.Event()
                self.shared.ask(self.account, done.set)
                await done.wait()
        raise AssertionError("it was asked, and is short still")

    def ended(self) -> None:
        self.account.settle(self.charges.pop(), Finished(0.0, "chat", "chat-1", 200, 10, 0, 0.0, None, 1.0), 0)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def key(**limits: object) -> Key:
    return Key("search", sha256(b"x").digest(), **limits)  # type: ignore[arg-type]


async def until(true: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + SOON_SECONDS
    while not true():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


async def test_the_script_decides_as_the_function_does(redis: Redis) -> None:
    from redis.asyncio import Redis as Client

    front = Front(redis, key())
    front.task.cancel()
    client, trial = Client.from_url(redis.url), 0
    say = st.tuples(
        st.sampled_from("abc"), st.integers(0, 30), st.integers(0, 4), st.integers(0, 12), st.floats(0, 9), st.integers(0, 20)
    )

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(RULES), st.lists(say, max_size=12))
    def same(rule: Rule, said: list) -> None:
        loop.run_until_complete(compare(rule, said))

    async def compare(rule: Rule, said: list) -> None:
        nonlocal trial
        trial += 1
        pools: dict[str, Pool] = {}
        async with Client.from_url(redis.url) as here:
            for who, spent, holds, need, more, before in said:
                wish = Wish(rule, spent, holds, need, more, before)
                seconds, micros = await here.time()
                front.shared._who = who
                script = here.register_script(front.shared._script.script)
                answer = await script([f"t{trial}"], front.shared._arguments([(None, "", wish)]))  # type: ignore[list-item]
                expected = granted(pools, "x", who, wish, seconds + micros / 1e6)
                # Time passes between the two: what refills in it is the difference.
                assert [float(each) for each in answer] == pytest.approx(list(expected), abs=1.01 if rule.per_second else 1e-6)

    loop = asyncio.new_event_loop()
    try:
        await asyncio.to_thread(same)
    finally:
        loop.close()
        await client.aclose()
        await front.close()


@pytest.mark.parametrize("gateways", [1, 2, 3])
@pytest.mark.parametrize(
    ("limits", "most", "refill"),
    [
        ({"rpm": 60}, 60, 1.0),
        ({"tpm": 1000}, 100, 1000 / 600),  # of 10 tokens each
        ({"concurrent": 7}, 7, 0.0),
        ({"budget": 500}, 50, 0.0),
        ({"budget": Money(500_000, "USD")}, 50, 0.0),  # of 10 tokens at 1000 billionths
        ({"rpm": 2, "concurrent": 9, "budget": 10**6}, 2, 1 / 30),
    ],
)
async def test_gateways_let_in_together_what_one_would(
    redis: Redis, gateways: int, limits: dict, most: int, refill: float
) -> None:
    fronts = [Front(redis, key(**limits)) for _ in range(gateways)]
    began, count = asyncio.get_running_loop().time(), 0
    price = Price(1.0, 0.0, 1.0)
    for _ in range(most + 5):
        # All at once, then one alone: what others hold and do not use is had again.
        count += sum(await asyncio.gather(*(front.request(price) for front in fronts)))
    alone = 0
    while count + alone < most and asyncio.get_running_loop().time() < began + SOON_SECONDS:
        alone += await fronts[0].request(price)
        await asyncio.sleep(0.01)
    passed = asyncio.get_running_loop().time() - began
    last = gateways if "budget" in limits else 0  # the last request of a budget need not fit into it, at each
    assert not [front.said for front in fronts if front.said]
    assert most <= count + alone <= most + refill * passed + last, (count, alone)
    for front in fronts:
        await front.close()


async def test_places_are_free_again_everywhere_when_requests_end_and_when_a_gateway_does(redis: Redis) -> None:
    one, two = Front(redis, key(concurrent=3)), Front(redis, key(concurrent=3))
    assert [await one.request() for _ in range(4)] == [True, True, True, False]
    assert not await two.request()
    one.ended()

    async def can() -> bool:
        return await two.request()

    deadline = asyncio.get_running_loop().time() + SOON_SECONDS
    while not await can():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    while one.charges:
        one.ended()
    await one.close()
    while not await can():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    await two.close()


async def test_while_redis_is_away_each_goes_by_itself_and_comes_back(redis: Redis) -> None:
    front = Front(redis, key(rpm=5, budget=1000))
    assert await front.request()
    redis.stop()
    await until(lambda: not front.shared.answers, "it is noticed")
    alone = [await front.request() for _ in range(8)]
    assert alone[:4] == [True] * 4
    assert not all(alone), "its own limits hold"
    await until(lambda: front.shared.failures > 1, "it is asked again")
    assert len(front.said) == 1, front.said
    assert "is away" in front.said[0]
    redis.start()
    await until(lambda: front.shared.answers, "it is back")
    assert len(front.said) == 2
    other = Front(redis, key(rpm=5, budget=1000))
    await front.request()
    await other.request()
    assert other.account.leases["budget"].used >= 50, "what was taken before and meanwhile counts for all"
    await front.close()
    await other.close()


@pytest.mark.parametrize(
    ("refuses", "allows"),
    [
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),  # to be read only
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),  # full
        ("SET headrace:{search}:requests x", "DEL headrace:{search}:requests"),  # something else is there
    ],
)
async def test_a_redis_that_answers_and_refuses_is_away_until_it_takes_what_it_is_told(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, refuses: str, allows: str
) -> None:
    from redis.asyncio import Redis as Client

    monkeypatch.setattr(shared_limits, "AGAIN_SECONDS", 0.02)
    front = Front(redis, key(rpm=600))
    async with Client.from_url(redis.url) as client:
        await client.execute_command(*refuses.split())
        assert await front.request()
        await until(lambda: front.shared.failures > 5, "it is asked again and again")
        assert await front.request()
        assert not front.shared.answers
        assert len(front.said) == 1, front.said
        await client.execute_command(*allows.split())
        await until(lambda: front.shared.answers, "it is back")
    assert len(front.said) == 2
    assert await front.request()
    await until(lambda: front.account.leases["requests"].heard_at is not None, "it is shared")
    await front.close()


async def test_a_wrong_password_is_an_absence_and_a_right_one_is_taken(tmp_path: Path) -> None:
    with running(tmp_path, "--requirepass", "right-password") as redis:
        right, wrong = Front(redis, key(rpm=5), password="right-password"), Front(redis, key(rpm=5), password="wrong-password")
        assert await right.request()
        await until(lambda: not wrong.shared.answers, "it is noticed")
        assert await wrong.request()
        assert "wrong-password" not in "".join(wrong.said)
        assert right.shared.answers
        await right.close()
        await wrong.close()


def test_a_password_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match="no NOT_THERE"):
        SharedLimits(RedisSpec(url="redis://127.0.0.1:1", password="env:NOT_THERE"), {}, print)


def renewed(front: Front, after: Key | None) -> None:
    """The file of keys has another key, or none, by that name."""
    front.keys = Keys([after] if after else [], front.keys)
    if after:
        front.account = front.keys.accounts[after.name]
        front.account.in_month("2026-11")


@pytest.mark.parametrize("between", [None, key(rpm=100)])
async def test_a_key_made_again_or_a_limit_it_has_again_forgets_nothing(redis: Redis, between: Key | None) -> None:
    front, other = Front(redis, key(budget=1000)), Front(redis, key(budget=1000))
    for _ in range(20):
        assert await front.request()
        front.ended()
    await until(lambda: front.account.leases["budget"].used == 200, "it is told")
    renewed(front, between)
    renewed(front, key(budget=1000))
    assert await front.request()
    front.ended()
    assert await other.request()
    await until(lambda: other.account.leases["budget"].used >= 210, "what was taken before counts")
    for each in (front, other):
        await each.close()


async def test_a_clock_that_is_wrong_for_a_moment_takes_nothing_back_of_a_budget(redis: Redis) -> None:
    front = Front(redis, key(budget=1000))
    for month, told in (("2026-11", 100), ("2026-10", 100), ("2026-11", 200)):
        front.account.in_month(month)
        for _ in range(10):
            assert await front.request()
            front.ended()
        await until(lambda told=told: front.account.leases["budget"].used == told, "it is told")  # type: ignore[misc]
    await front.close()


@pytest.mark.parametrize("made_again", [True, False])
async def test_a_budget_in_money_starts_from_what_was_paid_not_from_tokens(redis: Redis, made_again: bool) -> None:
    front = Front(redis, key(budget=Money(10**9, "USD")))
    price = Price(1000.0, 0.0, 0.0)
    for _ in range(3):
        assert await front.request(price)
        front.ended()
    await until(lambda: front.account.leases["budget"].used == 3 * 10**7, "it is told")
    if made_again:
        renewed(front, None)
    renewed(front, key(budget=1000))
    assert await front.request(price), "10 millions of billionths are not so many tokens"
    await front.close()


async def test_what_was_taken_of_a_budget_while_redis_was_out_of_reach_is_told_to_it(redis: Redis) -> None:
    front, other = Front(redis, key(budget=1000)), Front(redis, key(budget=1000))
    assert await front.request()
    await front.shared._away(OSError("cut off"))  # of this one only: Redis itself forgets nothing
    for _ in range(30):
        assert await front.request()
    for _ in range(31):
        front.ended()
    await until(lambda: front.shared.answers, "it is back")
    await until(lambda: front.account.leases["budget"].used == 310, "it is told")
    assert await other.request()
    assert other.account.leases["budget"].used == 310
    assert front.account.leases["budget"].left + other.account.leases["budget"].left <= 1000 - 310
    for each in (front, other):
        await each.close()


async def test_a_bug_in_one_request_leaves_no_other_waiting(redis: Redis) -> None:
    front, told, done = Front(redis, key(rpm=5)), [], asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: told.append(what["exception"]))
    front.shared.ask(front.account, lambda: [][0])
    front.shared.ask(front.account, done.set)
    async with asyncio.timeout(SOON_SECONDS):
        await done.wait()
    assert [type(error) for error in told] == [IndexError]
    await front.close()
