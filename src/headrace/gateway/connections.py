"""Clients' connections counted by address and by key, and the bytes of bodies on their way: what no one client may take alone."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

from headrace.gateway.openai import Refusal

if TYPE_CHECKING:
    from headrace.gateway.accounts import Account
    from headrace.gateway.wire import Client

RECEIVING_BYTES = 512 * 1024 * 1024
"""Bytes of bodies that are being received at once, of all clients; past it further ones are refused."""
_CODE, _KIND = "too_many_connections", "rate_limit_error"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the spec allows: see its `gateway` section for meanings and units. None is no limit."""

    queue: int
    wait_seconds: float
    body_bytes: int
    connections: int = 1_000_000
    """Clients' connections at once: descriptors must be left for engines, probes and files."""
    per_address: int | None = None
    per_key: int | None = None


class Connections:
    """What is open now."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.turned_away: set[Client] = set()
        """Those that are told why they may not stay."""
        self.refused = {"all": 0, "address": 0, "key": 0}
        """Connections that were refused, by which limit."""
        self.open = 0
        """Connections, those that are turned away included."""
        self.receiving = 0
        """Bytes of bodies that are not complete yet."""
        self._places: dict[str, int] = {}
        self._keys: dict[Account, int] = {}

    def crowded(self, place: str, handshakes: int, here: int) -> str | None:
        """Which limit so many handshakes, `here` of them from `place`, are over together with what is open."""
        most = self.limits.per_address
        if place and most is not None and self._places.get(place, 0) + here > most:
            return "address"
        return "all" if self.open + handshakes > self.limits.connections else None

    def opened(self, place: str) -> Refusal | None:
        """A connection from `place` is open until `closed`; why it may not stay."""
        self.open += 1
        if place:
            self._places[place] = self._places.get(place, 0) + 1
        if self.open > self.limits.connections:
            self.refused["all"] += 1
            return Refusal(503, "Too many connections are open. Try again.", _CODE, "server_error")
        most = self.limits.per_address
        if not place or most is None or self._places[place] <= most:
            return None
        self.refused["address"] += 1
        message = f"{most:,} connections from your address are open, as many as may be. Close some, or use them again."
        return Refusal(429, message, _CODE, _KIND, retry_after=1)

    def closed(self, client: "Client") -> None:
        """It is closed."""
        self.open -= 1
        _less(self._places, client.place)
        _less(self._keys, client.account)
        self.receiving -= client.held
        self.turned_away.discard(client)

    def moved(self, before: "Account | None", account: "Account") -> Refusal | None:
        """A connection uses the key of `account` from now on, unless that has as many as it may."""
        count, most = self._keys.get(account, 0), self.limits.per_key
        if most is not None and count >= most:
            self.refused["key"] += 1
            account.refused["connections"] = account.refused.get("connections", 0) + 1
            message = f"{most:,} connections use this key, as many as may. Close some, or use them again."
            return Refusal(429, message, _CODE, _KIND, retry_after=1)
        _less(self._keys, before)
        self._keys[account] = count + 1
        return None

    def received(self, more: int) -> Refusal | None:
        """`more` bytes of a body have come (below 0: they are complete, or given up); why no more may."""
        self.receiving += more
        if more <= 0 or self.receiving <= RECEIVING_BYTES:
            return None
        message = f"Bodies of {self.receiving:,} bytes are being received at once, more than are kept. Try again."
        return Refusal(503, message, "too_much_arriving", "server_error", retry_after=1)


def place(address: str) -> str:
    """What counts as one place: an IPv4 address, or the first 64 bits of an IPv6 one; empty for loopback and what is no address.

    A proxy on this machine brings everybody's requests: it is not counted.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, IPv6Address):
        mapped = found.ipv4_mapped
        if mapped is None:
            return "" if found.is_loopback else found.exploded[:19]
        found = mapped
    return "" if found.is_loopback else str(found)


def _less(counts: dict[Any, int], key: object) -> None:
    """One less; what is at none is forgotten."""
    if key in counts:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
