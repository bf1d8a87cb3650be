"""The settings that keep the limit at least cost, of those that a file can say: the fewest replicas, and `scale.queue`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from headrace.scaling.base import Policy
from headrace.scaling.names import scaler
from headrace.simulate.outcome import Outcome
from headrace.simulate.run import Setting, run
from headrace.simulate.traces import Trace

_LEAST_TRIED = 6


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A policy and what it made of the trace; `meets` says whether `share` of the requests are within the limit, `of` how many
    settings were tried.
    """

    policy: Policy
    outcome: Outcome
    meets: bool
    of: int


def suggest(
    trace: Trace, setting: Setting, policy: Policy, share: float, tell: Callable[[Outcome], None] = lambda outcome: None
) -> Suggestion:
    """The cheapest settings that serve `share` of the requests within the limit; else those that serve most.

    Tried are the fewest replicas from 0 to 6, queues of nothing to all slots, and what `policy` has: a grid small enough to be
    simulated in full.
    """
    found, grid = [], _grid(policy)
    for tried in grid:
        outcome = run(trace, setting, scaler("headrace", tried))
        tell(outcome)
        found.append(Suggestion(tried, outcome, outcome.met >= share, len(grid)))
    good = [one for one in found if one.meets]
    if good:
        return min(good, key=lambda one: (one.outcome.replica_seconds, one.outcome.wait.p99))
    return max(found, key=lambda one: (one.outcome.met, -one.outcome.replica_seconds))


def _grid(policy: Policy) -> list[Policy]:
    slots = round(policy.slots)
    queues = sorted({0, slots // 4, slots // 2, slots, policy.queue})
    leasts = sorted({*range(min(policy.most, _LEAST_TRIED) + 1), policy.least})
    return [replace(policy, least=least, queue=queue) for least in leasts for queue in queues]
