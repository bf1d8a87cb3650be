"""What judges replicas on trial against those that they are to replace: errors, refusals and speed, by tests and not by spikes.

Errors and refusals: Wald's sequential probability ratio test (1945), begun anew each time that it has accepted, so that what
goes wrong late is seen as fast. Speed: the rank test of Mann and Whitney (1947) against the old replicas' times stretched by as
much as is allowed, at 20, 40, 80 … answers, so that looking often does not make up a difference. Ranks know no outliers.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from headrace.traffic import Finished
from headrace.units import show_duration

NORMAL_ERRORS, TOO_MANY_ERRORS = 0.005, 0.05
"""Shares of requests: what is still normal, and what must be found."""
NORMAL_REFUSALS, TOO_MANY_REFUSALS = 0.02, 0.2
FALSE_ALARM, MISS = 0.001, 0.05
"""Wald's bounds, for each test: breaching although the share is normal; accepting although it is too many."""
FEWEST_LOOKS = 3
"""A breach is seen in so many different looks at least: what happens in one moment is a spike."""
LEAST_ANSWERS = 20
DECISIVE = 2 * LEAST_ANSWERS
"""Times of each side from which on twice as slow is found as good as always."""
_SURE = 3.29
"""Standard normal quantile of 0.9995: one look at one kind of time makes up a difference in 1 of 2,000 cases."""
_LEANS = 1.64
"""Of 0.95: from there on the next look is waited for."""
_MOST_KEPT = 2000

_CLIENT_LEFT, _FULL = 499, 429


@dataclass(slots=True)
class Sequential:
    """Whether a share is `normal` or `too_many`, one case after the other."""

    normal: float
    too_many: float
    count: int = 0
    hits: int = 0
    breached: bool = False
    accepted: int = 0
    """How often it came to the verdict that the share is normal."""
    _ratio: float = 0.0
    _looks: int = 0
    _fresh: int = 0
    _last: float = float("-inf")

    @property
    def doubt(self) -> int:
        """Hits since it last accepted, while they speak against it without being enough; one alone does not."""
        return self._fresh if self._fresh > 1 and self._ratio > 0 else 0

    def see(self, hit: bool, now: float) -> None:
        """One more case; `now` tells looks apart."""
        self.count += 1
        self.hits += hit
        bad, good = self.too_many, self.normal
        self._ratio += math.log(bad / good) if hit else math.log((1 - bad) / (1 - good))
        self._fresh += hit
        if hit and now != self._last:
            self._looks, self._last = self._looks + 1, now
        if self._ratio <= math.log(MISS / (1 - FALSE_ALARM)):
            self._ratio, self._looks, self._fresh, self.accepted = 0.0, 0, 0, self.accepted + 1
        if self._looks >= FEWEST_LOOKS and self._ratio >= math.log((1 - MISS) / FALSE_ALARM):
            self.breached = True


@dataclass(slots=True)
class Times:
    """Seconds of answers of one side, the newest: to the first token, per further token, and of the whole answer per token."""

    ttft: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    def add(self, one: Finished) -> None:
        """An answer that is complete."""
        served = one.seconds - one.waited
        streamed = one.ttft is not None and one.seconds - one.ttft > 0.02 * served
        if streamed and one.ttft is not None:
            self._keep(self.ttft, one.ttft - one.waited)
        if one.tokens_out:
            self._keep(self.whole, served / one.tokens_out)
            if streamed and one.ttft is not None and one.tokens_out > 1:
                self._keep(self.tpot, (one.seconds - one.ttft) / (one.tokens_out - 1))

    def _keep(self, values: list[float], value: float) -> None:
        values.append(value)
        if len(values) > _MOST_KEPT:
            del values[: _MOST_KEPT // 2]


LEAST_FIRST, LEAST_PER_TOKEN = 0.02, 0.002
"""Seconds that are as good as less: where the old replicas take less still, what the host's scheduler and the network add
outweighs the engine (an answer written in one piece has 0 s per token, and any other is infinitely slower)."""
KINDS = (
    ("ttft", "time to first token", LEAST_FIRST),
    ("tpot", "time per output token", LEAST_PER_TOKEN),
    ("whole", "time per token of whole answers", LEAST_PER_TOKEN),
)


@dataclass(slots=True)
class Evidence:
    """What was seen of both sides. `slower` is how many times as long the trial may take."""

    slower: float = 1.3
    answers: int = 0
    """Of the trial, since `next_step`."""
    old: Times = field(default_factory=Times)
    new: Times = field(default_factory=Times)
    before: Times = field(default_factory=Times)
    """Of the old replicas, before the trial got any requests."""
    errors: Sequential = field(default_factory=lambda: Sequential(NORMAL_ERRORS, TOO_MANY_ERRORS))
    refusals: Sequential = field(default_factory=lambda: Sequential(NORMAL_REFUSALS, TOO_MANY_REFUSALS))
    slow: str = ""
    _old_counts: list[int] = field(default_factory=lambda: [0, 0, 0])
    _looked: dict[str, int] = field(default_factory=dict)
    _leaning: dict[str, str] = field(default_factory=dict)
    _alone: bool = False

    def next_step(self, *, alone: bool) -> None:
        """More traffic from now on; `alone`: all of it, so that the old replicas' times from before are what compares."""
        self.answers = 0
        if alone and not self._alone:
            self._alone, self.new, self._looked, self._leaning = True, Times(), {}, {}

    def see(self, finished: Iterable[Finished], trial: AbstractSet[str], lost: int, now: float, *, shifting: bool) -> None:
        """Requests that are over, and how many more attempts the trial failed that were answered elsewhere."""
        for _ in range(lost if shifting else 0):
            self.answers += 1
            self.errors.see(True, now)
        for one in finished:
            if not one.replica or one.status in (_CLIENT_LEFT, _FULL):
                continue
            if one.replica in trial:
                self._see_new(one, now)
            else:
                self._see_old(one, shifting)
        if shifting:
            self._compare()

    def _see_new(self, one: Finished, now: float) -> None:
        self.answers += 1
        self.errors.see(one.status >= 500, now)
        if one.status < 500:
            self.refusals.see(refused(one), now)
        if one.status == 200:
            self.new.add(one)

    def _see_old(self, one: Finished, shifting: bool) -> None:
        count, failed, refusals = self._old_counts
        self._old_counts = [count + 1, failed + (one.status >= 500), refusals + refused(one)]
        self._expect(self.errors, failed, count, NORMAL_ERRORS, TOO_MANY_ERRORS)
        self._expect(self.refusals, refusals, count, NORMAL_REFUSALS, TOO_MANY_REFUSALS)
        if one.status == 200:
            (self.old if shifting else self.before).add(one)

    def _expect(self, test: Sequential, hits: int, count: int, normal: float, too_many: float) -> None:
        """As many as the old replicas have are normal too, before the trial gets requests and meanwhile."""
        if count >= LEAST_ANSWERS:
            test.normal = min(0.5, max(normal, hits / count if hits > 1 else 0.0))  # one may be the only one of a day
            test.too_many = min(0.9, max(too_many, 4 * test.normal))

    def _compare(self) -> None:
        other = self.before if self._alone else self.old
        for kind, title, least in KINDS:
            new, old = getattr(self.new, kind), getattr(other, kind)
            count = min(len(new), len(old))
            due = self._looked.get(kind, LEAST_ANSWERS)
            if count >= due and not self.slow:
                self._looked[kind] = max(2 * due, 2 * LEAST_ANSWERS)
                sure, said = slower_than(new, old, self.slower, title, least)
                self.slow = said if sure >= _SURE else ""
                self._leaning[kind] = said if sure >= _LEANS else ""

    @property
    def breach(self) -> str:
        """Which guard is broken, in a sentence with its numbers; empty when none is."""
        if self.errors.breached:
            return f"{self.errors.hits} of {self.errors.count} requests failed there ({self._share(self.errors)} were normal)"
        if self.refusals.breached:
            counts = f"{self.refusals.hits} of {self.refusals.count}"
            return f"{counts} requests were refused or answered with nothing there ({self._share(self.refusals)} were normal)"
        return self.slow

    @property
    def undecided(self) -> str:
        """What the guards cannot tell yet; empty when errors were found normal, and its times were compared often enough."""
        if not self.errors.accepted:
            return f"{self.errors.count} requests are too few to tell normal errors from too many"
        other = self.before if self._alone else self.old
        kinds = (kind for kind, *_ in KINDS if len(getattr(other, kind)) >= DECISIVE)
        few = next((len(getattr(self.new, kind)) for kind in kinds if len(getattr(self.new, kind)) < DECISIVE), None)
        return "" if few is None else f"{few} answers are too few to tell how fast it is"

    @property
    def doubt(self) -> str:
        """What speaks against it without being enough for a breach; empty when nothing does."""
        errors, refusals = self.errors.doubt, self.refusals.doubt
        if errors:
            return f"{errors} requests failed there of late, more than is normal and too few to be sure"
        if refusals:
            return f"{refusals} requests were refused there of late, more than is normal and too few to be sure"
        return next((f"{said}, without being sure" for said in self._leaning.values() if said), "")

    def _share(self, test: Sequential) -> str:
        return f"{100 * test.normal:.2g} %"

    @property
    def summary(self) -> str:
        """What was seen, for whoever watches."""
        said = [f"{self.errors.count} requests, {self.errors.hits} failed, {self.refusals.hits} refused or empty"]
        other = self.before if self._alone else self.old
        for kind, *_ in KINDS[:2]:
            new, old = getattr(self.new, kind), getattr(other, kind)
            if new and old:
                said.append(f"{kind.upper()} {show_duration(median(new))} against {show_duration(median(old))}")
        return ", ".join(said)


def refused(one: Finished) -> bool:
    """A request that was answered with nothing, or with an error that says it was the client's."""
    return 400 <= one.status < 500 or (one.status == 200 and one.tokens_out == 0)


def slower_than(new: Sequence[float], old: Sequence[float], times: float, title: str, least: float) -> tuple[float, str]:
    """How sure it is that `new` takes longer than `times` as long as `old`, in standard deviations; and so in a sentence.

    Seconds; `old` counts as `least` where it is less.
    """
    base = [max(value, least) for value in old]
    ratio = median(new) / max(median(base), 1e-9)
    numbers = f"{show_duration(median(new))} against {show_duration(median(base))}"
    said = f"{title}: {numbers} in the middle of {len(new)} and {len(old)}, {ratio:.1f} times as long, {times:g} are allowed"
    return rank_z(new, [value * times for value in base]), said


def rank_z(new: Sequence[float], old: Sequence[float]) -> float:
    """How many standard deviations `new` ranks above `old` (Mann and Whitney's U, ties counted half); 0 without values."""
    if not new or not old:
        return 0.0
    ordered = sorted(old)
    above = sum((bisect_left(ordered, value) + bisect_right(ordered, value)) / 2 for value in new)
    pairs = len(new) * len(old)
    return (above - pairs / 2) / math.sqrt(pairs * (len(new) + len(old) + 1) / 12)


def median(values: Sequence[float]) -> float:
    """The middle one; of nothing 0."""
    return sorted(values)[len(values) // 2] if values else 0.0
