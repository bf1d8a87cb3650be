"""Token buckets: what a key may take a minute, and the header lines that tell a client of it; sans I/O."""

import math
from collections.abc import Iterable, Mapping

from headrace.gateway.leases import Limit

_TOLD = b"x-ratelimit-limit-%(name)b: %(limit)d\r\nx-ratelimit-remaining-%(name)b: %%d\r\nx-ratelimit-reset-%(name)b: %%b\r\n"
_MINUTE = 60.0


class Bucket:
    """A token bucket: `capacity` a minute, at most so many at once. Its level is below 0 when more was taken than estimated."""

    __slots__ = ("_lines", "at", "capacity", "level", "limit")

    def __init__(self, limit: Limit, capacity: int) -> None:
        self.limit = limit
        self.capacity = 0
        self.level = 0.0
        self.at = 0.0
        """When it was refilled last."""
        self._lines = b""
        self.resize(capacity)

    def refill(self, now: float) -> None:
        """Time passed; `now` in monotonic seconds."""
        level = self.level + (now - self.at) * self.capacity / _MINUTE
        self.level = level if level < self.capacity else float(self.capacity)
        self.at = now

    def resize(self, capacity: int) -> None:
        """It has another capacity: what was taken stays taken."""
        self.level += capacity - self.capacity
        self.capacity = capacity
        self._lines = _TOLD % {b"name": self.limit.encode(), b"limit": capacity}

    def told(self, level: float) -> bytes:
        """The header lines of a bucket with so much in it."""
        missing = self.capacity - level if level < self.capacity else 0.0
        return self._lines % (level if level > 0 else 0, shown(missing * _MINUTE / self.capacity).encode())

    def seconds_until(self, level: float) -> float:
        """How long until so much is in it."""
        return max(0.0, (level - self.level) * _MINUTE / self.capacity)


def buckets(limits: Mapping[Limit, int | None], before: Iterable[Bucket]) -> tuple[Bucket, ...]:
    """Those for the limits that there are. What was there `before` is kept, with another capacity."""
    known = {bucket.limit: bucket for bucket in before}
    found = []
    for limit, capacity in limits.items():
        if capacity is not None:
            bucket = known.get(limit) or Bucket(limit, capacity)
            bucket.resize(capacity)
            found.append(bucket)
    return tuple(found)


def shown(seconds: float) -> str:
    """A duration as OpenAI's headers have it: 120ms, 6s, 1m30s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
