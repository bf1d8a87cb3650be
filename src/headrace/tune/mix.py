"""The user's own mix: how many at once and how long, from recorded requests or from what was said."""

from collections.abc import Callable, Sequence

from headrace.simulate.traces import Trace
from headrace.tune.base import Mix

LEAST_REQUESTS = 50
"""Fewer recorded requests say little of a mix."""
MOST_USERS = 256
_SPREAD = 0.5
_DRAWN = 256

Row = tuple[float, int, int, float]
"""Of one recorded request: when it came, prompt tokens, output tokens, how long it took; seconds."""


def said(users: int, prompt: int, output: int, uniform: Callable[[], float], whence: str) -> Mix:
    """Lengths within half of those said, evenly: requests of one length march in step, and no traffic does."""
    lengths = Trace()
    for number in range(_DRAWN):
        lengths.at.append(float(number))
        lengths.prompt.append(_about(prompt, uniform()))
        lengths.output.append(_about(output, uniform()))
    text = f"{_users(users)}, prompts of {prompt} and answers of {output} tokens, each within half of that ({whence})"
    return Mix(users, lengths, text)


def recorded(rows: Sequence[Row], users: int | None) -> Mix | None:
    """Lengths of these requests as they came, and as many users as were there in busy moments; None when they are too few."""
    known = [row for row in rows if row[1] > 0 and row[2] > 0]
    if len(known) < LEAST_REQUESTS:
        return None
    lengths = Trace()
    for at, prompt, output, _ in sorted(known):
        lengths.at.append(at - known[0][0])
        lengths.prompt.append(prompt)
        lengths.output.append(output)
    count = users or busy(known)
    mix = Mix(count, lengths, "")
    told = f"{_users(count)}, lengths of {len(known):,} recorded requests: {mix.prompt:.0f} in, {mix.output:.0f} out on average"
    return Mix(count, lengths, told)


def busy(rows: Sequence[Row]) -> int:
    """Requests at once that a new one found there, itself included: exceeded by one request in twenty."""
    events = sorted([(at, 1) for at, *_ in rows] + [(at + seconds, -1) for at, _, _, seconds in rows])
    found, running = [], 0
    for _, change in events:
        running += change
        if change > 0:
            found.append(running)
    found.sort()
    return max(1, min(MOST_USERS, found[(95 * len(found) - 1) // 100])) if found else 1


def _about(length: int, uniform: float) -> int:
    return max(1, round(length * (1 - _SPREAD + 2 * _SPREAD * uniform)))


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count} users at once"
