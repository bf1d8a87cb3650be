"""Bytes, durations and ranges, as people write them: parse and print.

Sizes: `16GB` is decimal (10**9), `16GiB` binary (2**30), as in the IEC standard and in Kubernetes' `Gi`.
Durations: `500ms`, `60s`, `10m`, `1h30m`, `7d`.
"""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


def parse_bytes(text: str) -> int:
    """Bytes in `text`, such as `16GB`, `512MiB`, `100`. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'"{text}" is not a size; write 16GB, 512MiB or a number of bytes')
    number, prefix, binary = match.groups()
    return round(float(number) * (1024 if binary else 1000) ** _POWERS[prefix.lower()])


def parse_duration(text: str) -> float:
    """Seconds in `text`, such as `500ms`, `60s`, `1h30m`. Raises ValueError."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise ValueError(f'"{text}" is not a duration; write 500ms, 60s, 10m or 1h30m')
    return float(sum(float(number) * _SECONDS[unit] for number, unit in parts))


def parse_range(text: str) -> tuple[int, int]:
    """(least, most) in `text`: `2` is (2, 2), `0..8` is (0, 8). Raises ValueError."""
    match = _RANGE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'"{text}" is not a count; write 2, or a range such as 1..8')
    least, most = int(match[1]), int(match[2] or match[1])
    if most < least:
        raise ValueError(f'"{text}" ends below its start; write {most}..{least}')
    return least, most


def show_bytes(count: float) -> str:
    """`count` bytes in binary units with at most two decimals: `93.81 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def show_duration(seconds: float) -> str:
    """`seconds` in its two largest units: `1h30m`, `12s`, `350ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours}h" if hours else f"{days}d"
