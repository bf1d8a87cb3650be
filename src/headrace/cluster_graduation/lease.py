"""Who carries out a graduation: one holder at a time writes its record, over the version that it read last."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from headrace.control.cluster_record import Record, kept, read
from headrace.errors import HeadraceError
from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.refusals import ClusterError
from headrace.targets.kubernetes.resources import Resource

BEAT_SECONDS = 4.0
"""How often a holder writes at least."""
GONE_SECONDS = 15.0
"""A record that was not written for so long has no holder: by this clock, so that no two clocks are compared."""
_CONFIG = Resource("v1", "ConfigMap", "configmaps", True)


class LostError(ClusterError):
    """Somebody else writes the record."""

    exit_code = 75


class BusyError(HeadraceError):
    """Somebody else carries it out."""

    exit_code = 75


def myself() -> str:
    """A name for this process, for people and unlike all others."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}"


@dataclass(slots=True)
class Lease:
    """The record of one model's graduation in the cluster. While it is `held`, a thread shows that somebody is there."""

    api: Api
    namespace: str
    name: str
    holder: str
    record: Record | None = None
    lost: ClusterError | None = None
    """Why it is held no more."""
    _version: Mapping[str, str] = field(default_factory=dict)
    """Which object was read, and its version; empty where there was none."""
    _written: float = 0.0
    """When the last write was sent, in seconds since 1970: what is monotonic stands still while a machine sleeps."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)
    _beating: threading.Thread | None = None

    def look(self) -> Record | None:
        """The record as it is now; None where there is none. Raises ClusterError for one that cannot be read."""
        self.record, self._version = self._now()
        return self.record

    def begin(self, record: Record) -> None:
        """Write the first record, over one that is over. Raises LostError when somebody else was faster."""
        self.look()
        if self.record is not None and not self.record.over:
            raise LostError(f"{self.record}: another headrace began that just now.")
        self._hold(record)

    def take(self, say: Callable[[str], None]) -> None:
        """Take over the record of whoever has gone. Raises BusyError while somebody carries it out."""
        record = self.look()
        if record is not None and record.holder:
            say(f"{record.holder} carried it out; waiting {GONE_SECONDS:.0f} s to see whether it still does.")
            until, seen = time.monotonic() + GONE_SECONDS, record.beat
            while time.monotonic() < until:
                time.sleep(0.5)
                record = self.look()
                if record is None or record.over or record.beat != seen:
                    raise BusyError(
                        f"{record or 'It is over'}, and somebody carries that out.",
                        "headrace graduate MODEL --cluster --status watches it, --abort has it go back.",
                    )
                if not record.holder:
                    break
        if record is None:
            raise LostError("Its record was removed.")
        self._hold(record)

    def sure(self) -> None:
        """Before something is changed: it is held still, or LostError. Asked again where the last word is old, as after sleep;
        ClusterError where the answer comes too late to tell.
        """
        with self._lock:
            if self.lost is not None:
                raise self.lost
            if self.record is None or self._age < BEAT_SECONDS:
                return
            self.write(self.record)
            # Nobody takes it over within GONE_SECONDS after a write was sent: half of them are for the change.
            if self._age >= GONE_SECONDS / 2:
                raise ClusterError(f"The API server took {self._age:.0f} s to answer: somebody else may have taken over by now.")

    @property
    def _age(self) -> float:
        """Seconds since the last write was sent. Not since its answer, which may come when somebody else has taken over."""
        return abs(time.time() - self._written)

    def release(self) -> None:
        """Leave it as it stands: whoever comes next need not wait."""
        self._over.set()
        if self._beating is not None:
            self._beating.join()
        with self._lock:
            if self.lost is None and self.record is not None and self.record.holder == self.holder:
                with suppress(ClusterError):  # whoever comes next waits a while, then
                    self.write(replace(self.record, holder=""))

    def _hold(self, record: Record) -> None:
        self.write(replace(record, holder=self.holder))
        self._beating = threading.Thread(target=self._beat, name="graduation", daemon=True)
        self._beating.start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS / 4):
            with self._lock:
                if self.record is None or self._age < BEAT_SECONDS:
                    continue
                try:
                    self.write(self.record)
                except LostError as error:
                    self.lost = error
                    return
                except ClusterError:  # the server is away: the next try is soon
                    continue

    def write(self, record: Record) -> None:
        """Keep it: after this it survives whatever happens here. Raises LostError when somebody else has written meanwhile;
        a wish to go back is taken up instead.
        """
        with self._lock:
            if self.lost is not None:
                raise self.lost
            record = replace(record, beat=record.beat + 1)
            for _ in range(3):
                if self._put(record):
                    return
                now, version = self._now()
                if now is None or now.holder != self.holder:
                    raise LostError(f"{now or 'The record is gone'}: somebody else has taken over here.")
                # Ours, of a write whose answer was lost; or with a wish to go back.
                self._version = version
                record = replace(record, abort=now.abort or record.abort, beat=now.beat + 1)
            raise LostError("Its record changes too often to be written.")

    def wish_back(self, by: str) -> None:
        """Ask whoever carries it out to go back."""
        for _ in range(5):
            record = self.look()
            if record is None or record.over:
                return
            if self._put(replace(record, abort=f"asked to go back by {by}", beat=record.beat + 1)):
                return

    def _now(self) -> tuple[Record | None, Mapping[str, str]]:
        """The record and its version."""
        found = self.api.get(_CONFIG, self.namespace, self.name)
        if not found:
            return None, {}
        if (record := read(found)) is None:
            raise ClusterError(
                f"The ConfigMap {self.name} is no record that this version can read.",
                "Use the headrace that wrote it; or, where no model is on its way, delete it.",
            )
        return record, _version(found)

    def _put(self, record: Record) -> bool:
        """False where the version that was read is not the newest."""
        made, sent = kept(record, self.name, self.namespace), time.time()
        try:
            if self._version:
                made["metadata"] |= self._version
                after, _ = self.api.apply(_CONFIG, made, force=True)
            else:
                after = self.api.create(_CONFIG.path(self.namespace), made, f"create ConfigMap {self.name}")
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        self.record, self._version, self._written = record, _version(after), sent
        return True


def _version(found: Mapping[str, Any]) -> dict[str, str]:
    """With its uid: by a version alone, an object that was deleted would be made again."""
    return {key: str(found["metadata"][key]) for key in ("uid", "resourceVersion") if key in found["metadata"]}
