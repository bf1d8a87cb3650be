"""One thing that stands in the way of a model, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """`kind` is for machines (quota, taint, image, …), `what` and `fix` are sentences; `passes`: it may end by itself."""

    kind: str
    what: str
    fix: str = ""
    passes: bool = True

    def __str__(self) -> str:
        return f"{self.what} {self.fix}".strip()
