"""What a bench may be asked, as people write it on a command line or in a program → a Wish; the files that it names are read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from headrace.errors import UsageError
from headrace.measure import wish as wishes
from headrace.measure.arrivals import Process
from headrace.measure.base import Load
from headrace.measure.prompts import Api, read
from headrace.measure.wish import Wish
from headrace.simulate import traces
from headrace.simulate.traces import Trace
from headrace.units import parse_count, parse_duration

Numbers = str | float | Sequence[float]
"""One, several, or as text: 8, [1, 8], "1,8"."""
Name = str | os.PathLike[str]


class Options(TypedDict, total=False):
    """The options of `headrace bench` by their names, which its --help tells. Tokens are numbers or text ("4k"), times seconds or
    text ("30s"), a share is 0.95 or "95%". What is left out is as in a Wish.
    """

    api: Api
    concurrency: Numbers
    rate: Numbers
    arrivals: Process
    trace: Name | None
    speed: str | float
    find_rate: bool
    slo: str
    share: str | float
    prompt: str | int
    output: str | int
    shared_prefix: str | int
    lengths: Name | None
    messages: Name | None
    context: str | int | None
    duration: str | float
    warmup: str | float
    requests: int | None
    stall: str | float
    seed: int


_TOKENS = {"prompt": "prompt", "output": "output", "shared_prefix": "shared", "context": "context"}
_TIMES = ("duration", "warmup", "stall")
_AS_IT_IS = {"api": "api", "find_rate": "find_rate", "arrivals": "process", "requests": "requests", "seed": "seed"}
"""Options → fields of a Wish."""
_PART_OF = {"share": "slo", "speed": "trace"}
"""Options that say nothing without another."""
_INSTEAD = {
    "messages": ("lengths", "prompt", "shared_prefix", "context"),
    "lengths": ("prompt", "output"),
    "trace": ("messages", "lengths", "prompt", "output"),
}
"""Options that take the place of others, for the loads that they are about."""
_OF_TRACES = ("shared_prefix", "context")
"""Options that are about a trace's prompts as well."""


def asked(url: str, model: str | None, key: str, options: Options) -> Wish:
    """The Wish. None and an empty text are as if they were left out. Raises UsageError, with the option as the command has it."""
    if unknown := sorted(options.keys() - Options.__annotations__.keys()):
        raise UsageError(f"A bench has no option {', '.join(unknown)}.", f"It has {', '.join(sorted(Options.__annotations__))}.")
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None and value != ""}
    trace, lengths = _trace(given.get("trace")), _trace(given.get("lengths"))
    loads = wishes.loads(
        _listed(given.get("concurrency", "")), _listed(given.get("rate", "")), given.get("arrivals", "poisson"),
        trace, wishes.speed(str(given.get("speed", "1x"))),
    )  # fmt: skip
    if given.get("find_rate") and any(load.kind != "open" for load in loads):
        raise UsageError(
            "--find-rate searches a rate by itself.", "Leave out --concurrency and --trace; --rate is where it begins."
        )
    _consistent(given, loads)
    if given.get("requests", 1) < 1:
        raise UsageError(f"--requests: {given['requests']} is not above 0.")
    fields: dict[str, Any] = {field: given[name] for name, field in _AS_IT_IS.items() if name in given}
    fields |= {field: _count(given[name], name) for name, field in _TOKENS.items() if name in given}
    fields |= {name: _seconds(given[name], name) for name in _TIMES if name in given}
    if trace is not None and len(loads) == 1:  # alone it is as long as it is, and is measured whole
        fields = {"duration": 0.0, "warmup": 0.0} | fields
    return Wish(
        url=url,
        model=model,
        key=key,
        loads=loads or Wish().loads,
        lengths=lengths,
        messages=_messages(given.get("messages"), given.get("api", "chat")),
        slo=wishes.slo(given.get("slo", ""), _share(given.get("share", "95%"))),
        **fields,
    )


def _consistent(given: Mapping[str, Any], loads: Sequence[Load]) -> None:
    """Raises UsageError for what would be ignored: who gave it believes that it was measured."""
    for part, whole in _PART_OF.items():
        if part in given and whole not in given:
            raise UsageError(f"{_flag(part)} says nothing without {_flag(whole)}.", f"Add {_flag(whole)}, or leave it out.")
    for one, others in _INSTEAD.items():
        if one not in given or (one == "trace" and any(load.kind != "trace" for load in loads)):
            continue  # beside a trace, the others are for the other loads
        for other in others:
            if other in given and not (other in _OF_TRACES and "trace" in given):
                raise UsageError(f"{_flag(one)} takes the place of {_flag(other)}.", "Leave out one of them.")
    rates = sum(load.kind == "open" for load in loads)
    if given.get("arrivals") == "constant" and not rates and not given.get("find_rate"):
        raise UsageError("--arrivals is about --rate, which is missing.", "For example: --rate 4 --arrivals constant")
    if given.get("find_rate") and rates > 1:
        raise UsageError("--find-rate begins at one rate, and there are several.", "Leave all but one out of --rate.")


def content(name: Name) -> bytes:
    """What a file has in it. Raises UsageError."""
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{os.fspath(name)} cannot be read: {error.strerror}.") from None


def _lines(name: Name) -> list[str]:
    return content(name).decode("utf-8", "replace").splitlines()


def _trace(name: Name | None) -> Trace | None:
    return None if name is None else traces.read(_lines(name), os.fspath(name))


def _messages(name: Name | None, api: Api) -> tuple[tuple[object, int | None], ...]:
    return () if name is None else tuple(read(_lines(name), os.fspath(name), api))


def _listed(value: Numbers) -> str:
    if isinstance(value, str):
        return value
    return ",".join(map(str, value)) if isinstance(value, Sequence) else str(value)


def _share(value: str | float) -> str:
    return value if isinstance(value, str) else f"{100 * value:g}%"


def _count(value: str | int, name: str) -> int:
    try:
        return parse_count(str(value))
    except ValueError as error:
        raise UsageError(f"{_flag(name)}: {error}.") from None


def _seconds(value: str | float, name: str) -> float:
    try:
        return parse_duration(value if isinstance(value, str) else f"{value}s")
    except ValueError as error:
        raise UsageError(f"{_flag(name)}: {error}.") from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
