"""Bytes of memory by account: RAM, and each GPU by its name."""

from collections.abc import Mapping

from headrace.units import show_bytes

RAM = "memory"
"""The account of this machine's own memory."""

Bytes = Mapping[str, int]
Capacity = Mapping[str, int]
"""What there is of each account; one that is not named is unlimited."""

UNLIMITED = 1 << 62


def plus(*each: Bytes) -> dict[str, int]:
    """The sum by account."""
    total: dict[str, int] = {}
    for one in each:
        for account, size in one.items():
            total[account] = total.get(account, 0) + size
    return total


def times(size: Bytes, count: int) -> dict[str, int]:
    """So many of it."""
    return {account: count * one for account, one in size.items()}


def less(size: Bytes, other: Bytes) -> dict[str, int]:
    """What `size` takes more than `other`, by account; negative where it takes less."""
    return plus(size, times(other, -1))


def missing(size: Bytes, free: Bytes) -> dict[str, int]:
    """What `size` takes beyond what is free; an account that `free` does not name has enough."""
    found = {account: wanted - max(0, free.get(account, UNLIMITED)) for account, wanted in size.items()}
    return {account: short for account, short in found.items() if short > 0}


def enough(freed: Bytes, short: Bytes) -> bool:
    """Whether `freed` makes up for all that is short."""
    return all(freed.get(account, 0) >= size for account, size in short.items())


def show(account: str, size: int) -> str:
    """`4 GiB of memory`, or of a GPU."""
    return f"{show_bytes(size)} of {account}"
