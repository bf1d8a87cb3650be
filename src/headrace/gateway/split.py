"""Traffic split between a model's replicas and those on trial: by shares, with conversations that stay where they began."""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from headrace.gateway.openai import Ask
from headrace.traffic import Split

if TYPE_CHECKING:
    from headrace.gateway.exchange import Exchange

MOST_OPENINGS = 65_536
"""Conversations that are remembered: those that began longest ago are dealt anew."""
_DIGEST_BYTES = 8
_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Message(msgspec.Struct):
    role: str = ""


_message = msgspec.json.Decoder(_Message).decode


class Trial:
    """Which side each request is for.

    Requests that open a conversation are dealt by count, so that shares are exact however alike they are. One that continues a
    conversation goes where its opening went. Whoever the trial failed goes back to the replicas from before.
    """

    def __init__(self, split: Split) -> None:
        self.split = split
        self._owed = 0.5
        self._openings: OrderedDict[bytes, bool] = OrderedDict()
        self._sides: dict[Exchange, bool] = {}

    def enter(self, exchange: "Exchange") -> None:
        """A request came: deal it."""
        self._sides[exchange] = self.deal(exchange.ask)

    def leave(self, exchange: "Exchange") -> None:
        """A request is over."""
        self._sides.pop(exchange, None)

    def slots(self, exchange: "Exchange", slots: Mapping[str, int]) -> Mapping[str, int]:
        """Of `slots` by replica those of the request's side; all of them when its side has none."""
        trial = self._sides.get(exchange, False) and not (exchange.tried & self.split.replicas)
        return {name: count for name, count in slots.items() if (name in self.split.replicas) is trial} or slots

    def deal(self, ask: Ask) -> bool:
        """Whether a request is for the trial."""
        share = self.split.share
        if share >= 1 or share <= 0:
            return share >= 1
        opening, continues = opened(ask)
        if continues and opening in self._openings:
            return self._openings[opening]
        self._owed += share
        trial = self._owed >= 1
        self._owed -= trial
        if opening:
            self._openings[opening] = trial
            self._openings.move_to_end(opening)
            if len(self._openings) > MOST_OPENINGS:
                self._openings.popitem(last=False)
        return trial


def opened(ask: Ask) -> tuple[bytes, bool]:
    """(a digest of how its conversation began, whether it is past its beginning). Nothing, for what is no conversation.

    A conversation is known by its first messages, the user's first one included, with the `user` that the client names.
    """
    raw = ask.fields.get("messages") or ask.fields.get("input")
    if raw is None:
        return b"", False
    try:
        messages = _messages(raw)
        first = next((place for place, one in enumerate(messages) if _message(one).role == "user"), len(messages))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return b"", False
    digest = blake2b(bytes(ask.fields.get("user", b"")), digest_size=_DIGEST_BYTES)
    for one in messages[: first + 1]:
        digest.update(bytes(one))
    return digest.digest(), len(messages) > first + 1
