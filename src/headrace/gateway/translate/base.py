"""What a translation is: one request's way to an engine that speaks otherwise, and its answer's way back."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from headrace.gateway.openai import Ask, Usage
from headrace.gateway.paths import Kind


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to be translated, and what is known of its model: `there` is the engine's name for it, `context` its
    tokens per request, `template` its chat template. `identity` goes into the answer's id, `now` is the clock.
    """

    kind: Kind
    ask: Ask
    there: str
    context: int | None
    template: str | None
    identity: str
    now: Callable[[], datetime]


class Translation(Protocol):
    """One request and its answer. `feed` and `end` read a stream, `whole` an answer that is none; either is used once.

    Each may raise Refusal for an error of the engine's, and BrokenAnswer for what is none of its protocol.
    """

    target: bytes
    """The path at the engine."""
    body: bytes
    streams: bool
    """The client gets a stream of events; otherwise nothing before the end."""
    usage: Usage | None
    """Tokens, once the answer is complete."""

    def feed(self, data: bytes) -> bytes:
        """More of the engine's stream, split anywhere; what of it the client may have now."""

    def end(self) -> bytes:
        """The engine's stream ended cleanly: the rest, with [DONE]."""

    def whole(self, body: bytes) -> bytes:
        """All of an answer that is no stream."""
