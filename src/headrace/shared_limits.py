"""The limits of keys in Redis, shared by every gateway that names it: leases fetched and given back, beside the requests.

Each limit of a key is one hash there, changed by one script (shared_limits.lua, the same as `leases.granted`). While Redis does
not answer each gateway goes by what it counts itself: no request fails by it.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from time import monotonic
from typing import Any

from headrace.errors import UsageError
from headrace.gateway.accounts import Account
from headrace.gateway.leases import GONE_SECONDS, Grant, Lease, Wish
from headrace.money import Money
from headrace.spec.limits import RedisSpec

SYNC_SECONDS = 0.5
"""How often what is held is renewed, and what was taken is told."""
ANSWER_SECONDS = 2.0
"""A Redis that takes longer is away. Requests that need an answer wait so long once, and no more until it is back."""
AGAIN_SECONDS = 1.0
"""How often a Redis that is away is asked whether it is back."""
_PLACES_KEPT = 3
"""Of a limit, so many are remembered: a clock that was wrong is set right again, and a budget goes back to its month."""
_KEPT_SECONDS = 600
_BUDGETS_KEPT_SECONDS = 40 * 86_400

Asked = tuple[Lease, str, Wish]


class SharedLimits:
    """A `gateway.keys.Shared`. `say` tells once when Redis is away, and once when it is back."""

    def __init__(self, spec: RedisSpec, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._spec, self._say = spec, say
        self._client, self._errors = _client(spec, environment)
        self._script = self._client.register_script(files("headrace").joinpath("shared_limits.lua").read_text("utf-8"))
        self._who = secrets.token_hex(6)
        self._accounts: Callable[[], Iterable[Account]] = tuple
        self._leases: dict[tuple[str, str], dict[str, Lease]] = {}
        """By key and limit, then by where it is told: the lease that was told of there last."""
        self._untold: set[Account] = set()
        """Those of whom Redis could not be told the last time."""
        self._waiting: list[tuple[Account, Callable[[], None]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._one = asyncio.Lock()
        self.answers = True
        self.failures = 0
        self.waits = 0

    def of(self, accounts: Callable[[], Iterable[Account]]) -> None:
        """Whose limits are shared; asked again each time."""
        self._accounts = accounts

    def ask(self, account: Account, then: Callable[[], None]) -> None:
        """Ask for what the account needs, and call `then` soon, whether or not there was an answer."""
        self.waits += 1
        self._waiting.append((account, then))
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def run(self) -> None:
        """Renew what is held until cancelled, then give it back."""
        try:
            while True:
                if self.answers:
                    await self._sync([one for one in self._accounts() if not _silent(one)])
                else:
                    await self._look()
                await asyncio.sleep(SYNC_SECONDS if self.answers else AGAIN_SECONDS)
        finally:
            await self._give_back()

    async def _ask(self) -> None:
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                accounts = list({id(account): account for account, _ in asked}.values())
                try:
                    if self.answers:
                        await self._sync(accounts)
                finally:
                    _go_on_all(then for _, then in asked)
                self._forget(accounts)
        finally:
            self._asking = None

    def _forget(self, accounts: list[Account]) -> None:
        """What clients that left had waited for is not asked for again."""
        waited_for = {id(account) for account, _ in self._waiting}
        for account in accounts:
            if id(account) not in waited_for:
                for lease in account.leases.values():
                    lease.need = 0.0

    async def _sync(self, accounts: list[Account]) -> bool:
        """Say what was taken and is held, hear what may be taken besides; returns whether Redis answered, and never raises for
        one that does not.
        """
        async with self._one:  # what is given back is not to be overtaken by what was said before
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._tell(accounts)
            except self._errors as error:
                self._untold = set(accounts)
                await self._away(error)
                return False
        return True

    async def _tell(self, accounts: list[Account]) -> None:
        if not accounts:
            await self._client.ping()
            return
        asked = [self._wishes(account, monotonic()) for account in accounts]
        async with self._client.pipeline(transaction=False) as sent:
            for wishes in asked:
                await self._script(keys=[name for _, name, _ in wishes], args=self._arguments(wishes), client=sent)
            answers = await sent.execute()
        for wishes, answer in zip(asked, answers, strict=True):
            numbers = list(map(float, answer))
            for at, (lease, _, _) in enumerate(wishes):
                lease.heard(Grant(*numbers[3 * at : 3 * at + 3]), monotonic())

    def _wishes(self, account: Account, now: float) -> list[Asked]:
        found = []
        for limit, lease in account.leases.items():
            before, kind = 0.0, ""
            if limit == "budget":
                before, budget = account.budget_taken(), account.key.budget
                kind = f":{account.month}" + (f":{budget.currency}" if isinstance(budget, Money) else "")
            name = f"{self._spec.name}:{{{account.key.name}}}:{limit}{kind}"
            self._go_on((account.key.name, limit), name, lease)
            found.append((lease, name, lease.wish(account.running, before, now)))
        return found

    def _go_on(self, of: tuple[str, str], name: str, lease: Lease) -> None:
        """Redis is told totals: those of a key that was revoked and made again, or of a month that it is again, go on there."""
        told = self._leases.setdefault(of, {})
        if (before := told.get(name)) is lease:
            return
        if before is not None:
            lease.spent += before.spent
        told.pop(name, None)
        told[name] = lease
        if len(told) > _PLACES_KEPT:
            del told[next(iter(told))]

    def _arguments(self, wishes: list[Asked]) -> list[Any]:
        told: list[Any] = [self._who, GONE_SECONDS]
        for _, _, wish in wishes:
            rule = wish.rule
            kept = _BUDGETS_KEPT_SECONDS if rule.sums_up else _KEPT_SECONDS
            told += [
                rule.capacity,
                rule.per_second,
                int(rule.places),
                wish.spent,
                wish.holds,
                wish.need,
                wish.more,
                wish.before,
                kept,
            ]
        return told

    async def _away(self, error: BaseException) -> None:
        self.failures += 1
        if self.answers:
            self.answers = False
            why = str(error).strip(". ") or f"no answer within {ANSWER_SECONDS:g} s"
            self._say(
                f"Redis at {self._spec.url} is away ({why}): until it answers this gateway counts the limits of keys by itself."
            )
        for account in self._accounts():
            account.alone()
        with contextlib.suppress(*self._errors):
            await self._client.connection_pool.disconnect()

    async def _look(self) -> None:
        """Whether Redis can be told again of those it could not be: one that answers a PING may refuse the rest, as a replica
        to read only does, or one that is full.
        """
        if not await self._sync([one for one in self._accounts() if one in self._untold or not _silent(one)]):
            return
        self.answers = True
        for account in self._accounts():
            account.live = True
        self._say(f"Redis at {self._spec.url} answers again: the limits of keys are shared.")

    async def _give_back(self) -> None:
        waiting, self._waiting = self._waiting, []
        _go_on_all(then for _, then in waiting)
        if self.answers:
            held = [account for account in self._accounts() if account.leases]
            for account in held:
                account.alone()
            if held:
                await self._sync(held)
        with contextlib.suppress(*self._errors):
            await self._client.aclose()


def _go_on_all(waiting: Iterable[Callable[[], None]]) -> None:
    """Whatever becomes of one of them: nothing else would end the others' wait."""
    for then in waiting:
        try:
            then()
        except Exception as error:
            said = {"message": "a request that waited for its limits failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(said)


def _silent(account: Account) -> bool:
    return all(lease.silent(account.running) for lease in account.leases.values())


def _client(spec: RedisSpec, environment: Mapping[str, str]) -> tuple[Any, tuple[type[Exception], ...]]:
    """The client, which connects when it is used, and what it raises. Raises UsageError."""
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError
    except ImportError:
        raise UsageError(
            "gateway.redis needs the package redis, which is not here.", "Run: pip install 'headrace[redis]'"
        ) from None
    password = None
    if spec.password is not None:
        variable = spec.password.removeprefix("env:")
        if variable not in environment:
            raise UsageError(f"gateway.redis.password: the environment has no {variable}.", f"Set it: export {variable}=…")
        password = environment[variable]
    # One more try: a connection that was kept may be from before Redis was started anew. Saying a thing twice does no harm.
    limits: dict[str, Any] = {
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 1),
    }
    return Redis.from_url(spec.url, password=password, **limits), (RedisError, OSError, TimeoutError)
