"""What starts have taught, as data to keep: an entry for each version of vLLM and card, and constants with them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.errors import PlanError
from headrace.plan.vllm.constants import Constants, Range, VersionConstants, card_key, release

_RANGES = ("sampler_bytes", "runtime_bytes", "runtime_parallel_bytes", "graph_bytes")
_MOST_BYTES = 2**40
_DIGITS = 3


def entry(taught: VersionConstants) -> dict[str, Any]:
    """What is kept of constants that a start has corrected: its version and card, its log with what it said, four ranges."""
    ranges = {name: [round(float(number), _DIGITS) for number in getattr(taught, name)] for name in _RANGES}
    return {"version": taught.version, "card": taught.card, "source": taught.source, **ranges}


def merged(entries: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """With the new one in place of what was known of its version and card, in order of both."""
    kept = [one for one in entries if _key(one) != _key(new)]
    return sorted([*kept, new], key=_key)


def with_entries(constants: Constants, entries: object) -> Constants:
    """The constants as those starts have corrected them. Raises PlanError that names what is no entry."""
    if not isinstance(entries, list):
        raise PlanError("It is not a list of starts.")
    for number, one in enumerate(entries, 1):
        try:
            constants = constants.with_learned(_taught(constants, one))
        except (KeyError, TypeError, ValueError, AttributeError, PlanError) as mistake:
            raise PlanError(f"Start {number} in it is not understood: {mistake}.") from mistake
    return constants


def _key(one: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    return str(one["card"]), release(str(one["version"]))


def _taught(constants: Constants, one: Mapping[str, Any]) -> VersionConstants:
    version, card = str(one["version"]), card_key(str(one["card"]))
    if not card:
        raise ValueError("it names no card")
    ranges: dict[str, Any] = {name: _range(name, one[name]) for name in _RANGES}
    known = constants.at(version)
    return replace(
        known, since=release(version), card=card, version=version, measured=(card,), source=str(one["source"]), **ranges
    )


def _range(name: str, pair: Sequence[float]) -> Range:
    expected, worst = (float(number) for number in pair)
    if not 0 <= expected <= worst <= _MOST_BYTES:
        raise ValueError(f"{name} {expected:g} to {worst:g}")
    return Range(expected, worst)
