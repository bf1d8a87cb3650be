"""Which replica gets a request: filter → score → pick."""

from collections.abc import Mapping


def pick(slots: Mapping[str, int], running: Mapping[str, int], last: Mapping[str, int], avoid: frozenset[str]) -> str | None:
    """The replica with a free slot and the least outstanding work, or None when all are full.

    Replicas in `avoid` (they just failed this very request) are taken only when no other is free, so that no slot stays free
    while a request waits. Ties go to the replica served longest ago: `last` holds the number of its last request.
    `running` and `last` know every replica in `slots`.
    """
    best, second = None, None
    least = oldest = 0
    for replica, limit in slots.items():
        busy = running[replica]
        if busy >= limit:
            continue
        if replica in avoid:
            second = second or replica
        elif best is None or busy < least or (busy == least and last[replica] < oldest):
            best, least, oldest = replica, busy, last[replica]
    return best or second
