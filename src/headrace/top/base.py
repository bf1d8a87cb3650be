"""What `headrace top` knows of a gateway: one look after another, and what their differences say."""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import floor
from typing import Any

RATE_SECONDS = 15.0
"""Tokens a second are counted over so long: answers are counted when they are complete."""
WAIT_SECONDS = 60.0
"""The percentiles of waiting are those of requests of so long."""
CURVE_SECONDS = 300.0
"""How much of the past the small curves show."""
_LOOKS = int(WAIT_SECONDS) + 1


@dataclass(frozen=True, slots=True)
class ModelLook:
    """A model at one moment. Durations in seconds; None: not known yet, or nothing happened that could tell."""

    name: str
    state: str
    reason: str
    replicas_ready: int
    replicas: int
    """All that there are, in whatever state."""
    running: int
    slots: int
    waiting: int
    wait_p50: float | None
    wait_p99: float | None
    ttft: float | None
    tpot: float | None
    tokens_in_rate: float | None
    tokens_out_rate: float | None
    memory_bytes: int | None
    curve: tuple[float, ...] = ()
    """Tokens out a second at each look, the newest last."""


@dataclass(frozen=True, slots=True)
class Look:
    """A gateway at one moment, `at` in seconds since 1970. `lost` says why it does not answer; the rest is what was."""

    at: float
    url: str
    models: tuple[ModelLook, ...] = ()
    draining: bool = False
    decisions: tuple[tuple[float, str], ...] = ()
    """(seconds ago, what and why), the newest last."""
    keys: tuple[Mapping[str, Any], ...] | None = None
    """What each key may and took; None where the gateway asks nobody for one."""
    lost: str = ""
    lost_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Counts:
    at: float
    tokens_in: int
    tokens_out: int
    waits: tuple[tuple[float, float], ...]
    """(upper bound in seconds, requests that waited no longer)."""

    def begins_again(self, before: "_Counts") -> bool:
        """Whether it is another gateway that counts: from nothing."""
        waited, waited_before = (one.waits[-1][1] if one.waits else 0 for one in (self, before))
        return self.tokens_in < before.tokens_in or self.tokens_out < before.tokens_out or waited < waited_before


@dataclass(slots=True)
class _Past:
    counts: deque[_Counts] = field(default_factory=lambda: deque(maxlen=_LOOKS))
    curve: deque[float] = field(default_factory=lambda: deque(maxlen=int(CURVE_SECONDS)))


class Watched:
    """The looks at one gateway. `whole`: waiting is told since its start, where there is only one moment to look at."""

    def __init__(self, url: str, *, whole: bool = False) -> None:
        self._url, self._whole = url, whole
        self._past: dict[str, _Past] = {}
        self._last = Look(0.0, url)
        self._answered: float | None = None

    def seen(
        self,
        at: float,
        status: Mapping[str, Any],
        decisions: Sequence[Mapping[str, Any]],
        keys: Sequence[Mapping[str, Any]] | None,
    ) -> Look:
        """The look that the gateway's answers make."""
        names = {model["name"] for model in status["models"]}
        self._past = {name: past for name, past in self._past.items() if name in names}
        models = tuple(self._model(at, model) for model in status["models"])
        told = tuple((float(row["ago_seconds"]), str(row["decision"])) for row in decisions)
        self._answered = at
        self._last = Look(at, self._url, models, status["draining"], told, None if keys is None else tuple(keys))
        return self._last

    def before(self, at: float, model: str, times: Sequence[float], rates: Sequence[float | None]) -> None:
        """Let a model's curve begin with what was recorded until `at`: tokens out a second up to each of `times`, as seconds
        since 1970. None: nobody watched.
        """
        if not times:
            return
        curve = self._past.setdefault(model, _Past()).curve
        end, span = floor(at) - len(curve), int(RATE_SECONDS)
        first = end - (int(CURVE_SECONDS) - len(curve)) - span
        each = [_recorded(second, times, rates) for second in range(first, end)]
        curve.extendleft(reversed([sum(each[place : place + span]) / span for place in range(1, len(each) - span + 1)]))

    def lost(self, at: float, why: str) -> Look:
        """The look while it does not answer."""
        last = self._last
        since = 0.0 if self._answered is None else max(0.0, at - self._answered)
        return Look(at, self._url, last.models, last.draining, last.decisions, last.keys, why, since)

    def _model(self, at: float, model: Mapping[str, Any]) -> ModelLook:
        load, replicas = model["load"], model["replicas"]
        past = self._past.setdefault(model["name"], _Past())
        now = _Counts(at, load["tokens_in"], load["tokens_out"], _waits(model.get("waits", ())))
        if past.counts and now.begins_again(past.counts[-1]):
            past.counts.clear()
        past.counts.append(now)
        tokens_in, tokens_out = _rates(past.counts)
        if tokens_out is not None:
            past.curve.append(tokens_out)
        waits = now.waits if self._whole else _since(past.counts[0].waits, now.waits)
        memory = [one["memory_bytes"] for one in replicas if one["memory_bytes"] is not None]
        return ModelLook(
            name=model["name"],
            state=model["phase"],
            reason=model["reason"],
            replicas_ready=sum(one["state"] == "ready" for one in replicas),
            replicas=len(replicas),
            running=sum(load["running"].values()),
            slots=model["slots"],
            waiting=load["waiting"],
            wait_p50=quantile(waits, 0.5),
            wait_p99=quantile(waits, 0.99),
            ttft=load["ttft_seconds"],
            tpot=load["tpot_seconds"],
            tokens_in_rate=tokens_in,
            tokens_out_rate=tokens_out,
            memory_bytes=sum(memory) if memory else None,
            curve=tuple(past.curve),
        )


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The duration that `share` of the requests do not exceed, straight lines within buckets as Prometheus' histogram_quantile.

    `buckets` are (upper bound, cumulative count), the last bound infinite. None for no requests.
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = share * buckets[-1][1]
    for (low, before), (high, count) in pairwise([(0.0, 0.0), *buckets]):
        if count >= rank and count > before:
            return low if high == float("inf") else low + (high - low) * (rank - before) / (count - before)
    return None


def _recorded(second: float, times: Sequence[float], rates: Sequence[float | None]) -> float:
    """The rate at a second; nothing after the last one, and where nobody watched."""
    place = bisect_left(times, second)
    gap = place == len(times) or (place > 0 and rates[place - 1] is None)
    return 0.0 if gap else rates[place] or 0.0


def _waits(buckets: Sequence[Sequence[Any]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(bound), float(count)) for bound, count in buckets)


def _since(before: Sequence[tuple[float, float]], now: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(bound, count - then) for (_, then), (bound, count) in zip(before, now, strict=False)]


def _rates(counts: Sequence[_Counts]) -> tuple[float | None, float | None]:
    """Tokens in and out a second over the last RATE_SECONDS; None with nothing to compare with."""
    now = counts[-1]
    then = next(one for one in counts if now.at - one.at <= RATE_SECONDS)
    seconds = now.at - then.at
    if seconds <= 0:
        return None, None
    return (now.tokens_in - then.tokens_in) / seconds, (now.tokens_out - then.tokens_out) / seconds
