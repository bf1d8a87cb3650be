"""The keys of a running gateway: read again when their file changes, and what they took this month, kept beside it."""

import asyncio
import calendar
import hashlib
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from headrace.changed import Followed
from headrace.gateway.accounts import Account, Key, Use
from headrace.gateway.audit import Audit
from headrace.gateway.gateway import Gateway
from headrace.gateway.keys import Keys
from headrace.key_store import NAME, KeysError, KeysUnread, Store, beside, locked, write_whole
from headrace.money import Money, Price
from headrace.shared_limits import SharedLimits
from headrace.spec.limits import PriceSpec, RedisSpec
from headrace.spec.model import GatewaySpec

LOOK_SECONDS = 1.0
"""How often a running gateway looks at the file: a revoked key is refused after so long at most."""
SAVE_SECONDS = 5.0
"""How often what keys took is written."""
MONTHS_KEPT = 3
"""Of what keys took: a clock that was wrong for a moment is set right again, and comes back to a month that it had left."""
SHORTEST = 16
"""Characters of a key that an operator chose, in the environment. Ours have 43 random ones."""


class Uses:
    """What keys took each month, beside their file, shared by all gateways that read it: each adds what is new."""

    def __init__(self, path: Path) -> None:
        self._path = beside(path, ".use.json")
        self._known: dict[str, dict[str, Use]] = {}
        """By month and key, the month that was begun last at the end."""

    def read(self, month: str) -> dict[str, Use]:
        """By key; empty for a month that the file does not have, or no file. Raises OSError for one that cannot be read."""
        return self._read(month)[0]

    def share(self, accounts: Mapping[str, Account], month: str) -> None:
        """Add what was taken here, learn what was taken elsewhere; accounts are in this month, or begin it. Raises OSError, and
        KeysError while others write.
        """
        known = self._begun(accounts, month)
        with locked(self._path, seconds=0.0):
            total, others = self._read(month)
            before = dict(total)
            for name, account in accounts.items():
                new = zip(account.use, known.get(name, Use()), total.get(name, Use()), strict=True)
                # A file that was lost or spoilt has less than it was told: what is known here stays taken.
                total[name] = Use(*(max(have, then) + max(0, now - then) for now, then, have in new))
            if any(total[name] != before.get(name, Use()) for name in total):
                content = {"month": month, "keys": total, "others": others}
                write_whole(self._path, json.dumps(content).encode() + b"\n", sure=False)
        for name, account in accounts.items():
            account.use = known[name] = total[name]

    def _begun(self, accounts: Mapping[str, Account], month: str) -> dict[str, Use]:
        """It is this month for all of them, with what is known of it here; what they took of another stays known."""
        moved = [(name, account, account.month, account.use) for name, account in accounts.items() if account.month != month]
        in_month(accounts, month)
        if moved or month not in self._known:
            self._known[month] = self._known.pop(month, {})
        for name, account, left, taken in moved:
            if left in self._known:
                self._known[left][name] = taken
            account.use = self._known[month].get(name, Use())
        while len(self._known) > MONTHS_KEPT:
            del self._known[next(iter(self._known))]
        return self._known[month]

    def _read(self, month: str) -> tuple[dict[str, Use], dict[str, Any]]:
        """What the file has of the month, and of others as it has it, the one that was written last first."""
        try:
            kept = json.loads(self._path.read_bytes())
            months = {kept["month"]: kept["keys"], **kept.get("others", {})}
            taken = months.pop(month, {})
            return {name: Use(*map(int, use)) for name, use in taken.items()}, dict(islice(months.items(), MONTHS_KEPT - 1))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return {}, {}


class Source:
    """`gateway.keys` of the spec: read now, and again when it changes. `say` tells of what is wrong, once for each change."""

    def __init__(
        self,
        where: str,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        currency: str = "USD",
        redis: RedisSpec | None = None,
    ) -> None:
        kind, _, self._value = where.partition(":")
        self._currency = currency
        self.shared = SharedLimits(redis, environment, say) if redis is not None else None
        self._environment, self._say = environment, say
        self._store = Store(Path(self._value)) if kind == "file" else None
        self._uses = Uses(self._store.path) if self._store else None
        self._file = Followed(*[self._store.path] if self._store else ())
        self._saved = 0.0
        self._unsaved = False
        self.keys = Keys(())

    def first(self) -> Keys:
        """The keys now in force. Raises KeysError."""
        if self._store is None:
            self.keys = Keys(from_environment(self._value, self._environment), None, self.shared)
        else:
            self._file.changed()
            self.keys = Keys(payable(self._store.keys(), self._currency), None, self.shared)
            self._file.read()
        if self.shared is not None:
            self.shared.of(lambda: self.keys.accounts.values())
        self._share()
        return self.keys

    def again(self) -> Keys:
        """The keys now in force: those of before where the file is as it was, or is wrong."""
        if self._store is not None and self._file.changed():
            self._renew(self._store)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._share()
        return self.keys

    def save(self) -> None:
        """Write what keys took, before the end."""
        self._share()

    def _renew(self, store: Store) -> None:
        try:
            found = payable(store.keys(), self._currency)
        except KeysError as error:
            if self._file.is_news(str(error), unread=isinstance(error, KeysUnread)):
                self._say(f"The keys stay as they were: {error}")
        else:
            self._file.read()
            self._share()  # also what those took that are revoked: they may be made again
            self.keys = Keys(found, self.keys)
            self._say(f"The keys changed: {', '.join(self.keys.accounts) or 'there are none now'}.")
            self._saved = 0.0  # new ones learn what they took before

    def _share(self) -> None:
        self._saved = time.monotonic()
        month = this_month()
        if self._uses is None:
            in_month(self.keys.accounts, month)
            return
        try:
            self._uses.share(self.keys.accounts, month)
        except (OSError, KeysError) as error:
            if not self._unsaved and not isinstance(error, KeysError):
                self._unsaved = True
                self._say(f"What keys take is counted in memory only: {error}")


def begin(
    spec: GatewaySpec, models: Mapping[str, PriceSpec | None], gateway: Gateway, say: Callable[[str], None]
) -> Source | None:
    """Ask clients of the gateway for keys, where the spec wants that; `models` with their prices. Raises HeadraceError."""
    gateway.prices, gateway.currency = prices(models), spec.currency
    if spec.keys is None:
        return None
    source = Source(spec.keys, os.environ, say, spec.currency, spec.redis)
    gateway.keys = source.first()
    if said := unpriced(gateway.keys, models, gateway.prices):
        say(said)
    return source


async def follow(source: Source, gateway: Gateway, audit: Audit | None = None) -> None:
    """Keep the gateway's keys as the source has them, and what they took on record and shared, until cancelled."""
    sharing = watched(source.shared.run()) if source.shared is not None else None
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            before, gateway.keys = gateway.keys, source.again()
            if audit is not None and before is not None and before is not gateway.keys:
                audit.keys(before.accounts, gateway.keys.accounts)
    finally:
        source.save()
        if sharing is not None:
            sharing.cancel()
            await asyncio.gather(sharing, return_exceptions=True)


def watched(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that nobody waits for before the end: what it fails with is a bug, told at once by the loop's handler."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: None if done.cancelled() else done.result())
    return task


def from_environment(variable: str, environment: Mapping[str, str]) -> list[Key]:
    """Keys in a variable: KEY,KEY or NAME=KEY,NAME=KEY. They may use every model; the one named admin may administer.

    Raises KeysError.
    """
    text = environment.get(variable, "")
    keys: dict[str, Key] = {}
    for number, entry in enumerate((part.strip() for part in text.split(",") if part.strip()), 1):
        name, _, secret = (
            entry.partition("=") if NAME.fullmatch(entry.partition("=")[0]) and "=" in entry.rstrip("=") else ("", "", entry)
        )
        name = name or f"key-{number}"
        if len(secret) < SHORTEST or not secret.isascii() or not secret.isprintable() or " " in secret:
            wrong = f"{variable}: key {number} has fewer than {SHORTEST} characters, or some that no header can hold."
            raise KeysError(wrong, 'Make one: python -c "import secrets; print(secrets.token_urlsafe(32))"')
        if name in keys:
            raise KeysError(f'{variable}: two keys have the name "{name}".', "Give each its own: NAME=KEY,NAME=KEY")
        keys[name] = Key(name, hashlib.sha256(secret.encode()).digest(), admin=name == "admin")
    if not keys:
        raise KeysError(f"gateway.keys: the environment has no keys in {variable}.", f"Set it: export {variable}=NAME=KEY,…")
    return list(keys.values())


def prices(models: Mapping[str, PriceSpec | None]) -> dict[str, Price]:
    """Those that are known."""
    return {name: price.price for name, price in models.items() if price is not None}


def payable(keys: list[Key], currency: str) -> list[Key]:
    """The same keys. Raises KeysError for a budget in another currency than the prices are in."""
    for key in keys:
        if isinstance(key.budget, Money) and key.budget.currency != currency:
            wrong = f'The key "{key.name}" has a budget of {key.budget}, and prices are in {currency}.'
            raise KeysError(wrong, f"Make it with --budget in {currency}, or write gateway.currency: {key.budget.currency}.")
    return keys


def unpriced(keys: Keys, models: Iterable[str], prices: Mapping[str, Price]) -> str:
    """What to say where a budget is in money and models have no price; nothing where none is."""
    paying = [account.key for account in keys.accounts.values() if isinstance(account.key.budget, Money)]
    free = [name for name in models if name not in prices and any(not key.models or name in key.models for key in paying)]
    if not free:
        return ""
    names = ", ".join(key.name for key in paying)
    return (
        f"No price is known for {', '.join(free)}: its tokens cost the budget of {names} nothing. Write models.{free[0]}.price."
    )


def in_month(accounts: Mapping[str, Account], month: str) -> None:
    """It is this month for all of them."""
    year, number = map(int, month.split("-"))
    ends = calendar.timegm((year + number // 12, number % 12 + 1, 1, 0, 0, 0)) - time.time() + time.monotonic()
    for account in accounts.values():
        account.in_month(month, ends)


def this_month() -> str:
    """Such as 2026-11, in UTC."""
    return time.strftime("%Y-%m", time.gmtime())
