"""What a promise of an engine is: a function that holds it to that, the request that asks for it, and whom it is about."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deployment import Deployment

from headrace.traffic import Task

Kept = Callable[[Deployment], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends who wants the thing that is promised."""

    path: str
    body: Any

    def of(self, model: str) -> "Request":
        """The same, of another model."""
        named = {**self.body, "model": model} if "model" in self.body else self.body
        return Request(self.path.replace("tensors", model), named)


@dataclass(frozen=True, slots=True)
class Promise:
    """`kept` fails with an AssertionError where the promise is not kept. Engines that cannot keep it refuse `request`; without
    one there is nothing that a client could ask for.
    """

    name: str
    sentence: str
    task: Task
    kept: Kept
    request: Request | None


MADE: list[Promise] = []
"""Those of the modules that were imported."""


def promise(task: Task, path: str = "", body: Any = None) -> Callable[[Kept], Kept]:
    """Registers a function whose docstring is the promise."""

    def registered(kept: Kept) -> Kept:
        request = Request(path, body) if path else None
        sentence = " ".join((kept.__doc__ or "").split()).rstrip(".")
        MADE.append(Promise(kept.__name__, sentence, task, kept, request))
        return kept

    return registered


@dataclass(frozen=True, slots=True)
class Kept:
    """The engine keeps the promise."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine cannot, and whoever asks is told so: with this status and these words in the message."""

    status: int
    words: str
    why: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """The engine answers as if it had not been asked for it."""

    why: str


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """The engine is not held to it, and there is nothing that a client could ask for."""

    why: str


Cell = Kept | Refused | Ignored | NotApplicable
Exceptions = Mapping[str, Refused | Ignored | NotApplicable]
"""By promise; one that is not there is kept."""

MARKS: Mapping[type[Cell], str] = {Kept: "yes", Refused: "refused", Ignored: "ignored", NotApplicable: "–"}
