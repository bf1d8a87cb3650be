"""Bytes, durations, counts and ranges, as people write them: parse and print.

Sizes: `16GB` is decimal (10**9), `16GiB` binary (2**30), as in the IEC standard and in Kubernetes' `Gi`.
Durations: `500ms`, `60s`, `10m`, `1h30m`, `7d`. Counts of tokens: `50`, and `8k` is 8192.
"""

import math
import re

from headrace.errors import UsageError

SIZE_PATTERN = r"[0-9]+(?:\.[0-9]+)?\s*(?:[kKmMgGtT]i?)?[bB]?"
COST_PATTERN = r"[0-9]+(?:\.[0-9]+)?\s*USD\s*/\s*h"
COUNT_PATTERN = r"[0-9]+(?:\.[0-9]+)?\s*[kKmM]?"
DURATION_PATTERN = r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+"

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kKmMgGtT])(i?))?[bB]?")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(DURATION_PATTERN)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_COUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmM]?)")
_COST = re.compile(COST_PATTERN)
_RANGE = re.compile(r"([0-9]+)(?:\.\.([0-9]+))?")
_LONGEST_NUMBER = 30
"""Characters of a number; longer ones are typing accidents that would only overflow further on."""


def parse_bytes(text: str) -> int:
    """Bytes in `text`, such as `16GB`, `512MiB`, `100`. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match or len(match[1]) > _LONGEST_NUMBER:
        raise ValueError(f'"{_short(text)}" is not a size; write 16GB, 512MiB or a number of bytes')
    number, prefix, binary = match[1], match[2] or "", match[3]
    factor: int = (1024 if binary else 1000) ** _POWERS[prefix.lower()]
    return round(float(number) * factor)


def parse_duration(text: str) -> float:
    """Seconds in `text`, such as `500ms`, `60s`, `1h30m`. Raises ValueError."""
    if not _DURATION.fullmatch(text.strip()) or len(text) > 2 * _LONGEST_NUMBER:
        raise ValueError(f'"{_short(text)}" is not a duration; write 500ms, 60s, 10m or 1h30m')
    return math.fsum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_count(text: str) -> int:
    """The whole number above 0 in `text`: `50`, and `8k` is 8192, as tokens are counted. Raises ValueError."""
    match = _COUNT.fullmatch(text.strip())
    number = round(float(match[1]) * 1024 ** _POWERS[match[2].lower()]) if match and len(match[1]) <= _LONGEST_NUMBER else 0
    if not number:
        raise ValueError(f'"{_short(text)}" is not a number above 0; write 50, or 8k for 8192')
    return number


def parse_cost(text: str) -> float:
    """US dollars per hour in `text`: `3.67 USD/h`. The catalogue's prices are in dollars, and these are compared with them.

    Raises ValueError.
    """
    if not _COST.fullmatch(text.strip()) or len(text) > _LONGEST_NUMBER:
        raise ValueError(f'"{_short(text)}" is not a price in US dollars per hour; write 3.67 USD/h')
    return float(text.partition("USD")[0])


def asked_duration(option: str, text: str) -> float:
    """Seconds of the duration that an option was given. Raises UsageError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def parse_range(text: str) -> tuple[int, int]:
    """(least, most) in `text`: `2` is (2, 2), `0..8` is (0, 8). Raises ValueError."""
    match = _RANGE.fullmatch(text.strip())
    if not match or len(text) > _LONGEST_NUMBER:
        raise ValueError(f'"{_short(text)}" is not a count; write 2, or a range such as 1..8')
    least, most = int(match[1]), int(match[2] or match[1])
    if most < least:
        raise ValueError(f'"{text}" ends below its start; write {most}..{least}')
    return least, most


def show_bytes(count: float) -> str:
    """`count` bytes in binary units, three digits of them: `93.8 MiB`, `360 MiB`, `4.88 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1023.5:
            return f"{_three_digits(count)} {unit}"
        count /= 1024
    return f"{_three_digits(count)} TiB"


def show_duration(seconds: float) -> str:
    """`seconds` in its two largest units: `1h30m`, `12s`, `350ms`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds else "0s"
    if seconds < 59.95:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours else f"{days}d"


def _three_digits(number: float) -> str:
    decimals = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
