"""The keys of a running gateway: read again when their file changes, and what they took this month, kept beside it."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace.gateway.accounts import Account, Key, Use
from headrace.gateway.gateway import Gateway
from headrace.gateway.keys import Keys
from headrace.key_store import NAME, KeysError, Store, beside, locked, write_whole

LOOK_SECONDS = 1.0
"""How often a running gateway looks at the file: a revoked key is refused after so long at most."""
SAVE_SECONDS = 5.0
"""How often what keys took is written."""
SHORTEST = 16
"""Characters of a key that an operator chose, in the environment. Ours have 43 random ones."""


class Uses:
    """What keys took this month, beside their file, shared by all gateways that read it: each adds what is new."""

    def __init__(self, path: Path) -> None:
        self._path = beside(path, ".use.json")
        self._told: dict[str, Use] = {}

    def read(self, month: str) -> dict[str, Use]:
        """By key; empty for a file that is of another month, or none."""
        try:
            kept = json.loads(self._path.read_bytes())
            return {name: Use(*map(int, taken)) for name, taken in kept["keys"].items()} if kept["month"] == month else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def share(self, accounts: Mapping[str, Account], month: str) -> None:
        """Add what was taken here, learn what was taken elsewhere. Raises OSError, and KeysError while others write."""
        if any(account.month != month for account in accounts.values()):
            self._told = {name: told for name, told in self._told.items() if name in accounts and accounts[name].month == month}
            for account in accounts.values():
                account.in_month(month)
        with locked(self._path, seconds=0.0):
            total = self.read(month)
            before = dict(total)
            for name, account in accounts.items():
                told, known = self._told.get(name, Use()), total.get(name, Use())
                new = zip(account.use, told, known, strict=True)
                total[name] = Use(*(have + max(0, now - then) for now, then, have in new))
            if any(total[name] != before.get(name, Use()) for name in total):
                write_whole(self._path, json.dumps({"month": month, "keys": total}).encode() + b"\n", sure=False)
        for name, account in accounts.items():
            account.use = self._told[name] = total[name]


class Source:
    """`gateway.keys` of the spec: read now, and again when it changes. `say` tells of what is wrong, once for each change."""

    def __init__(self, where: str, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        kind, _, self._value = where.partition(":")
        self._environment, self._say = environment, say
        self._store = Store(Path(self._value)) if kind == "file" else None
        self._uses = Uses(self._store.path) if self._store else None
        self._signature: object = None
        self._saved = 0.0
        self._unsaved = False
        self.keys = Keys(())

    def first(self) -> Keys:
        """The keys now in force. Raises KeysError."""
        if self._store is None:
            self.keys = Keys(from_environment(self._value, self._environment))
        else:
            self._signature = _signed(self._store.path)
            self.keys = Keys(self._store.keys())
        self._share()
        return self.keys

    def again(self) -> Keys:
        """The keys now in force: those of before where the file is as it was, or is wrong."""
        if self._store is not None and (signature := _signed(self._store.path)) != self._signature:
            self._signature = signature
            try:
                self.keys = Keys(self._store.keys(), self.keys)
            except KeysError as error:
                self._say(f"The keys stay as they were: {error}")
            else:
                self._say(f"The keys changed: {', '.join(self.keys.accounts) or 'there are none now'}.")
                self._saved = 0.0  # new ones learn what they took before
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._share()
        return self.keys

    def save(self) -> None:
        """Write what keys took, before the end."""
        self._share()

    def _share(self) -> None:
        self._saved = time.monotonic()
        month = this_month()
        if self._uses is None:
            for account in self.keys.accounts.values():
                account.in_month(month)
            return
        try:
            self._uses.share(self.keys.accounts, month)
        except (OSError, KeysError) as error:
            if not self._unsaved and not isinstance(error, KeysError):
                self._unsaved = True
                self._say(f"What keys take is counted in memory only: {error}")
            for account in self.keys.accounts.values():
                account.in_month(month)


async def follow(source: Source, gateway: Gateway) -> None:
    """Keep the gateway's keys as the source has them, and what they took on record, until cancelled."""
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            gateway.keys = source.again()
    finally:
        source.save()


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


def this_month() -> str:
    """Such as 2026-11, in UTC."""
    return time.strftime("%Y-%m", time.gmtime())


def _signed(path: Path) -> object:
    try:
        seen = os.stat(path)
    except OSError as error:
        return error.errno
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size
