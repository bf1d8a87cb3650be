"""Why a replica ended, in a sentence: how its process exited, and the last that it said."""

import signal

from headrace.units import show_duration

_LONGEST_REASON = 1000


def exited(code: int, seconds: float) -> str:
    """How a process ended after so long; a negative code is the signal that killed it."""
    how = f"exited with code {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
    return f"{how} after {show_duration(seconds)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def with_last_words(what: str, why: str | None, lines: list[str]) -> str:
    """The cause is said first, where the engine knows which line it is: what is too long is cut at its end."""
    if not lines:
        return f"{what}; it wrote nothing"
    said = f"{what}; cause: {why.strip()[:300]}" if why else what
    if why and len(lines) == 1:
        return said
    title = "last line" if len(lines) == 1 else f"last {len(lines)} lines"
    return f"{said}; {title}: {' | '.join(line.strip()[:300] for line in lines)}"[:_LONGEST_REASON]
