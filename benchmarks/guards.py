"""How often the guards of a graduation undo a good one, and how soon they find a bad one: by simulation, seeded, nothing runs.

    python benchmarks/guards.py [--graduations 1000] [--json]

A model gets a steady number of requests per second. Answers take log-normal times (sigma 0.4), a fifth of them three times as
long, the same on both sides but for what the case says. The real state machine and guards decide, with the default rules.
"""

import argparse
import json
import random
from dataclasses import asdict, dataclass

from headrace.control.graduation import Rules, Seen, Standing, judged, step
from headrace.control.guards import Evidence
from headrace.traffic import Finished

OLD, NEW = "chat-1", "chat-2"
BEFORE_SECONDS = 60
"""How long the old replicas are watched before the first conversation is shifted: a start takes as long."""
TOKENS = 20


@dataclass(frozen=True)
class Case:
    """A target, and its traffic. `fails` and `empty` are shares of its answers, `both` of those of either side."""

    name: str
    good: bool
    fails: float = 0.0
    empty: float = 0.0
    slow: float = 1.0
    both: float = 0.001
    sigma: float = 0.4
    grows: float = 1.0
    """How many times as long everything takes after 200 seconds: the load grows meanwhile."""
    per_second: int = 4


@dataclass(frozen=True)
class End:
    """How one ended; answers of the new side, seconds, and errors of the new side until then."""

    rolled_back: bool
    answers: int
    seconds: float
    why: str


CASES = (
    Case("as good", True),
    Case("as good, 1 request/s", True, per_second=1),
    Case("as good, 20 requests/s", True, per_second=20),
    Case("1.15 times as slow (1.3 are allowed)", True, slow=1.15),
    Case("both fail 0.5 %", True, both=0.005),
    Case("both fail 5 %", True, both=0.05),
    Case("as good, wilder times (sigma 0.8)", True, sigma=0.8),
    Case("as good, while the load makes all 1.2 times as slow", True, grows=1.2),
    Case("fails 10 %", False, fails=0.1),
    Case("fails 10 %, 1 request/s", False, fails=0.1, per_second=1),
    Case("fails 10 %, 20 requests/s", False, fails=0.1, per_second=20),
    Case("fails 5 %", False, fails=0.05),
    Case("answers nothing to 50 %", False, empty=0.5),
    Case("2 times as slow", False, slow=2.0),
    Case("2 times as slow, 1 request/s", False, slow=2.0, per_second=1),
    Case("2 times as slow, wilder times (sigma 0.8)", False, slow=2.0, sigma=0.8),
    Case("3 times as slow", False, slow=3.0),
)


class Traffic:
    """Requests that end, each at the side that the state machine gives it to."""

    def __init__(self, case: Case, seed: int) -> None:
        self._case, self._draw = case, random.Random(f"{case.name} {seed}")
        self._owed = 0.0

    def second(self, share: float, passed: float) -> list[Finished]:
        """Those of one second, of which the new side gets `share`; `passed` seconds since the shift began."""
        found = []
        for _ in range(self._case.per_second):
            self._owed += share
            new = self._owed >= 1
            self._owed -= new
            found.append(self._answer(passed, new=new))
        return found

    def _answer(self, passed: float, *, new: bool) -> Finished:
        case, draw, replica = self._case, self._draw, NEW if new else OLD
        if draw.random() < (max(case.both, case.fails) if new else case.both):
            return Finished(passed, "chat", replica, 500, None, None, 0.0, None, 0.1)
        tokens = 0 if new and draw.random() < case.empty else TOKENS
        stretch = draw.lognormvariate(0, case.sigma) * (3 if draw.random() < 0.2 else 1)
        stretch *= (case.slow if new else 1.0) * case.grows ** (passed / 200)
        return Finished(passed, "chat", replica, 200, 30, tokens, 0.0, 0.1 * stretch, (0.1 + 0.02 * TOKENS) * stretch)


def graduation(case: Case, seed: int, rules: Rules) -> End:
    """One, from its first shifted conversation until it is decided."""
    traffic, evidence, answers, now = Traffic(case, seed), Evidence(rules.slower), 0, 0.0
    for second in range(BEFORE_SECONDS):
        evidence.see(traffic.second(0.0, 0.0), {NEW}, 0, float(second), shifting=False)
    standing = Standing("shifting", now)
    evidence.next_step(alone=False)
    while standing.phase == "shifting":
        now += 1.0
        finished = traffic.second(standing.share(rules), now)
        answers += sum(one.replica == NEW for one in finished)
        evidence.see(finished, {NEW}, 0, now, shifting=True)
        seen = judged(Seen(new_ready=1), evidence)
        before, standing = standing, step(standing, seen, rules, now)
        if standing is not before:
            evidence.next_step(alone=standing.share(rules) >= 1)
    return End(standing.phase == "rolling back", answers, now, standing.reason)


def summary(case: Case, ends: list[End]) -> dict[str, object]:
    """Shares, and how many answers of the new side and seconds it took: in the middle, and not exceeded by 95 %."""
    back = sum(end.rolled_back for end in ends)
    wrong = [end for end in ends if end.rolled_back == case.good]
    answers, seconds = sorted(end.answers for end in ends), sorted(end.seconds for end in ends)
    middle, most = len(ends) // 2, (len(ends) * 95 - 1) // 100
    return {
        **asdict(case),
        "graduations": len(ends),
        "rolled_back": back,
        "wrong": len(wrong),
        "answers": (answers[middle], answers[most]),
        "seconds": (seconds[middle], seconds[most]),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--graduations", type=int, default=1000)
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    if not options.json:
        print(f"{'target':<54} {'rolled back':>11}  answers (95 %)  seconds (95 %)")
    for case in CASES:
        row = summary(case, [graduation(case, seed, Rules()) for seed in range(options.graduations)])
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        share = f"{100 * row['rolled_back'] / options.graduations:.1f} %"  # type: ignore[operator]
        (answers, most), (seconds, longest) = row["answers"], row["seconds"]  # type: ignore[misc]
        print(f"{case.name:<54} {share:>11}  {answers:>6} {most:>7}  {seconds:>6.0f} {longest:>7.0f}", flush=True)


if __name__ == "__main__":
    main()
