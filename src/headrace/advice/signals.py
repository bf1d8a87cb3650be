"""When to move on, and when to stay: every signal on one model, each with numbers, a window and a command."""

from headrace.advice import asked, ceiling, load, setup
from headrace.advice.base import Observed, Signal

_JUDGES = (
    load.throughput,
    ceiling.slots,
    load.engine,
    load.memory,
    asked.cold,
    asked.context,
    asked.prefixes,
    load.spare,
    setup.crowd,
    setup.routed,
    setup.listed,
)


def signals(seen: Observed) -> tuple[Signal, ...]:
    """Every signal on one model."""
    return tuple(judge(seen) for judge in _JUDGES)
