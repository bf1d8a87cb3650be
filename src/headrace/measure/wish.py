"""What a bench is asked for, parsed: loads, lengths, limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import UsageError
from headrace.measure.arrivals import Process
from headrace.measure.base import Load, Slo
from headrace.measure.prompts import Api
from headrace.simulate.traces import Trace
from headrace.spec.addresses import GATEWAY
from headrace.units import parse_duration

DEFAULT_USERS = (1.0, 8.0, 32.0)
_MOST_USERS, _MOST_RATE = 10_000, 100_000.0


@dataclass(frozen=True, slots=True)
class Wish:
    """A bench. Times in seconds, lengths in tokens.

    `lengths` draws prompts and answers as long as a trace's; `messages` are prompts of the user's own, in their order; else every
    prompt has `prompt` tokens, `shared` of them the same in all. `key` is sent as a bearer token and kept nowhere.
    """

    url: str = f"{GATEWAY}/v1"
    model: str | None = None
    key: str = ""
    api: Api = "chat"
    loads: tuple[Load, ...] = tuple(Load("closed", users) for users in DEFAULT_USERS)
    prompt: int = 512
    output: int = 128
    shared: int = 0
    lengths: Trace | None = None
    messages: tuple[tuple[object, int | None], ...] = ()
    context: int | None = None
    duration: float = 30.0
    warmup: float = 5.0
    requests: int | None = None
    slo: Slo | None = None
    find_rate: bool = False
    process: Process = "poisson"
    stall: float = 60.0
    longest: float = 600.0
    drain: float = 60.0
    seed: int = 1


def loads(concurrency: str, rate: str, process: Process, trace: Trace | None, speed: float) -> tuple[Load, ...]:
    """The loads of a command line, in order: those at once, those a second, the trace. Raises UsageError."""
    found = [Load("closed", users) for users in _numbers(concurrency, "--concurrency", _MOST_USERS, whole=True)]
    found += [Load("open", each, process) for each in _numbers(rate, "--rate", _MOST_RATE, whole=False)]
    return (*found, *([Load("trace", speed, trace=trace)] if trace else []))


def slo(text: str, share: str) -> Slo | None:
    """`ttft=500ms,tpot=50ms,e2e=10s`, and `95%` of requests that have to keep them. Raises UsageError."""
    if not text:
        return None
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in ("ttft", "tpot", "e2e") or name in limits:
            raise UsageError(f"--slo: {part.strip()!r} is no limit.", "Write ttft=500ms,tpot=50ms, or e2e=10s.")
        try:
            limits[name] = parse_duration(value)
        except ValueError as error:
            raise UsageError(f"--slo: {name}: {error}.") from None
    return Slo(**limits, share=_share(share))


def speed(text: str) -> float:
    """How many times as fast, as in `2x` or `0.5`. Raises UsageError."""
    (found,) = _numbers(text.lower().removesuffix("x"), "--speed", 10_000.0, whole=False) or [1.0]
    return found


def _share(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise UsageError(f"--share: {text!r} is no share.", "Write 95%.")
    return value / 100


def _numbers(text: str, flag: str, most: float, *, whole: bool) -> Sequence[float]:
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            value = float(part)
        except ValueError:
            value = 0.0
        if not 0 < value <= most or (whole and value != int(value)):
            what = "a whole number" if whole else "a number"
            raise UsageError(f"{flag}: {part!r} is not {what} above 0 and up to {most:,.0f}.", f"Write {flag} 1,8,32.")
        found.append(value)
    return found
