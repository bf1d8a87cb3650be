"""The file of keys: hashes and limits, written whole by one process at a time; and a log of who changed it."""

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from headrace.errors import HeadraceError, UsageError
from headrace.gateway.accounts import Key, Priority
from headrace.money import parse_money

MOST_KEYS = 10_000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What keys may be called."""
_LARGEST_BYTES = 8 * 1024 * 1024
_LOCK_SECONDS = 5.0
_PREFIX = "hr-"


class KeysError(HeadraceError):
    """Keys that cannot be read, or that a gateway cannot go by."""

    exit_code = 78


class KeysUnread(KeysError):
    """The system refused to read them, which may pass."""


class Stored(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One key as the file has it. None, or an empty list of models, is no limit."""

    name: str
    sha256: str
    created: str = ""
    models: list[str] = []
    admin: bool = False
    priority: Priority = "interactive"
    weight: float = 1.0
    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    budget: int | str | None = None
    """Tokens, or money as in 50 USD."""
    metrics: bool = False

    def key(self) -> Key:
        """The value that the gateway goes by. Raises ValueError."""
        limits = (self.rpm, self.tpm, self.concurrent, self.budget if isinstance(self.budget, int) else None)
        if not NAME.fullmatch(self.name):
            raise ValueError(f'"{self.name[:80]}" is no name of a key; letters, digits and . _ - are allowed, up to 64')
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.name}: sha256 must be 64 hexadecimal digits")
        if any(limit is not None and limit < 1 for limit in limits) or not 0.001 <= self.weight <= 1000:
            raise ValueError(f"{self.name}: limits must be above 0, and weight between 0.001 and 1000")
        digest, models = bytes.fromhex(self.sha256), frozenset(self.models)
        budget = parse_money(self.budget) if isinstance(self.budget, str) else self.budget
        kept = (self.admin, self.priority, self.weight, self.rpm, self.tpm, self.concurrent, budget, self.metrics)
        return Key(self.name, digest, models, *kept)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Stored]


class Store:
    """The file of keys at `path`. Written whole or not at all, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Stored]:
        """What it holds. Raises KeysError."""
        try:
            with self.path.open("rb") as stream:
                content = stream.read(_LARGEST_BYTES + 1)
        except FileNotFoundError:
            raise KeysUnread(
                f"{self.path} does not exist.", f"Make a key: headrace key add --name NAME --file {self.path}"
            ) from None
        except OSError as error:
            raise KeysUnread(f"{self.path} cannot be read: {error.strerror}.") from None
        return self._parsed(content)

    def keys(self) -> list[Key]:
        """The same as the gateway goes by it."""
        return [stored.key() for stored in self.read()]

    def add(self, stored: Stored) -> str:
        """Put one more in; returns the key itself, which is nowhere kept. Raises KeysError, UsageError."""
        secret = _PREFIX + secrets.token_urlsafe(32)
        stored.sha256 = hashlib.sha256(secret.encode()).hexdigest()
        stored.created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with locked(self.path):
            there = self.read() if self.path.exists() else []
            if any(other.name == stored.name for other in there):
                raise UsageError(
                    f'There is a key "{stored.name}" already.', f"headrace key revoke {stored.name}, or another --name."
                )
            if len(there) >= MOST_KEYS:
                raise UsageError(f"{self.path} holds {MOST_KEYS:,} keys, as many as it may.")
            try:
                stored.key()
            except ValueError as error:
                raise UsageError(f"{error}.") from None
            self._write([*there, stored])
            self._audit(
                "add", stored.name, {name: value for name, value in msgspec.to_builtins(stored).items() if name != "sha256"}
            )
        return secret

    def revoke(self, name: str) -> None:
        """Take one out. Raises KeysError, UsageError."""
        with locked(self.path):
            there = self.read()
            left = [stored for stored in there if stored.name != name]
            if len(left) == len(there):
                names = ", ".join(stored.name for stored in there) or "none"
                raise UsageError(f'There is no key "{name[:80]}" in {self.path}.', f"There: {names}.")
            self._write(left)
            self._audit("revoke", name, {})

    def _parsed(self, content: bytes) -> list[Stored]:
        if len(content) > _LARGEST_BYTES:
            raise KeysError(f"{self.path} is larger than {_LARGEST_BYTES:,} bytes.")
        try:
            stored = msgspec.json.decode(content, type=_File).keys
            names = [one.name for one in stored]
            keys = [one.key() for one in stored]
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise KeysError(f"{self.path} is no file of keys: {error}.", "headrace key add and revoke write it.") from None
        if len(set(names)) < len(names) or len({key.digest for key in keys}) < len(keys):
            raise KeysError(f"{self.path} has a name or a hash twice.", "headrace key add and revoke write it.")
        return stored

    def _write(self, stored: list[Stored]) -> None:
        write_whole(self.path, msgspec.json.format(msgspec.json.encode(_File(stored)), indent=1) + b"\n")

    def _audit(self, action: str, name: str, what: Mapping[str, object]) -> None:
        """A line of JSON for who did what; beside the file, for its owner only."""
        with contextlib.suppress(KeyError, OSError):
            line = {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "by": getpass.getuser(),
                "action": action,
                "key": name,
            }
            log = os.open(beside(self.path, ".audit.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(log, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(line | dict(what)) + "\n")


def default_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where keys are kept when nothing else is said: not in the cache, which may be deleted at any time."""
    folder = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(folder, "headrace", "keys.json")


def beside(path: Path, suffix: str) -> Path:
    """The file of another suffix next to this one."""
    return path.with_name(path.name.removesuffix(".json") + suffix)


def write_whole(path: Path, content: bytes, *, sure: bool = True) -> None:
    """Replace the file by another one, which only its owner may read; if `sure`, on the disk when it returns. Raises OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as stream:
            stream.write(content)
            stream.flush()
            _owned_as(path, stream.fileno())
            if sure:
                os.fsync(stream.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def _owned_as(path: Path, descriptor: int) -> None:
    """Who owns the file at `path` owns the one in its place: a gateway reads on what root wrote with sudo."""
    with contextlib.suppress(OSError):
        there = path.stat()
        os.fchown(descriptor, there.st_uid, there.st_gid)


@contextlib.contextmanager
def locked(path: Path, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Nobody else changes the file at `path` meanwhile. Raises KeysError after `seconds`, OSError for a folder to read only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise KeysError(f"Another process is changing {path}.", "Try again.") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(lock)
