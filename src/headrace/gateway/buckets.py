"""Token buckets: what a key may take a minute, and the header lines that tell a client of it; sans I/O."""

import math
from collections.abc import Mapping

from headrace.gateway.leases import Limit

_TOLD = b"x-ratelimit-limit-%(name)b: %(limit)d\r\nx-ratelimit-remaining-%(name)b: %%d\r\nx-ratelimit-reset-%(name)b: %%b\r\n"
_MINUTE = 60.0


class Bucket:
    """A token bucket: `capacity` a minute, at most so many at once. Its level is below 0 when more was taken than estimated."""

    __slots__ = ("at", "capacity", "level", "limit", "lines", "per_second")

    def __init__(self, limit: Limit, capacity: int) -> None:
        self.limit = limit
        self.capacity = self.per_second = 0.0
        self.level = 0.0
        self.at = 0.0
        """When it was refilled last."""
        self.lines = b""
        self.resize(capacity)

    def refill(self, now: float) -> None:
        """Time passed; `now` in monotonic seconds."""
        level = self.level + (now - self.at) * self.per_second
        self.level = level if level < self.capacity else self.capacity
        self.at = now

    def resize(self, capacity: int) -> None:
        """It has another capacity: what was taken stays taken."""
        self.level += capacity - self.capacity
        self.capacity, self.per_second = float(capacity), capacity / _MINUTE
        self.lines = _TOLD % {b"name": self.limit.encode(), b"limit": capacity}

    def told(self, level: float) -> bytes:
        """The header lines of a bucket with so much in it."""
        seconds = (self.capacity - level) / self.per_second if level < self.capacity else 0.0
        return self.lines % (level if level > 0 else 0, shown(seconds).encode())

    def seconds_until(self, level: float) -> float:
        """How long until so much is in it."""
        return max(0.0, (level - self.level) / self.per_second)


class Buckets:
    """Those of one key, for requests and for tokens, as far as it has these limits."""

    __slots__ = ("_soon", "all", "tokens")

    def __init__(self) -> None:
        self.all: tuple[Bucket, ...] = ()
        self.tokens: Bucket | None = None
        """One of them."""
        self._soon = b""  # the lines of all, where each is full again within a second

    def resize(self, limits: Mapping[Limit, int | None]) -> None:
        """There are these limits now; what was taken stays taken."""
        known = {bucket.limit: bucket for bucket in self.all}
        found: dict[Limit, Bucket] = {}
        for limit, capacity in limits.items():
            if capacity is not None:
                found[limit] = known.get(limit) or Bucket(limit, capacity)
                found[limit].resize(capacity)
        self.all, self.tokens = tuple(found.values()), found.get("tokens")
        self._soon = b"".join(bucket.lines.replace(b"%b", b"%dms") for bucket in self.all)

    def refill(self, now: float) -> None:
        """Time passed; `now` in monotonic seconds."""
        for bucket in self.all:
            bucket.refill(now)

    def take(self, tokens: float, now: float) -> Bucket | None:
        """Take a request of so many tokens; else the first bucket that has too little, and nothing was taken."""
        own = self.tokens
        for bucket in self.all:
            level, capacity = bucket.level + (now - bucket.at) * bucket.per_second, bucket.capacity  # as `refill` has it
            bucket.level = level = level if level < capacity else capacity
            bucket.at = now
            if level < (tokens if bucket is own else 1):
                return bucket
        for bucket in self.all:
            bucket.level -= tokens if bucket is own else 1
        return None

    def count(self, tokens: float, now: float) -> None:
        """A request of so many tokens was let in, whatever there was."""
        self.refill(now)  # before: what came meanwhile fills no more than there is room for
        for bucket in self.all:
            bucket.level -= tokens if bucket is self.tokens else 1

    def told(self, now: float) -> bytes:
        """The header lines that tell a client of all of them."""
        values: list[float] = []
        for bucket in self.all:
            if bucket.at != now:
                bucket.refill(now)
            level = bucket.level
            milliseconds = -((bucket.capacity - level) / bucket.per_second * -1000 // 1)  # rounded up
            if milliseconds >= 1000:
                self.refill(now)
                return b"".join([bucket.told(bucket.level) for bucket in self.all])
            values += (level if level > 0 else 0, milliseconds)
        return self._soon % tuple(values)


def shown(seconds: float) -> str:
    """A duration as OpenAI's headers have it: 120ms, 6s, 1m30s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
