"""What importing works on: values of other people's files that know their lines; notes, and what was found of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headrace.errors import HeadraceError
from headrace.spec.document import one_line

Path = tuple[str | int, ...]
Verdict = Literal["decided", "not carried", "not needed"]
"""Carried in another way than it was written; lost; lost and nothing is missing."""


class NotImported(HeadraceError):
    """Files that cannot be read as what they should be, or that name no model."""

    exit_code = 65


@dataclass(frozen=True, slots=True)
class At:
    """A value of a document, with its place. What is not there has the value None and the line of what it would be in."""

    value: Any
    file: str
    lines: Mapping[Path, int] = field(default_factory=dict, repr=False)
    path: Path = ()

    @property
    def line(self) -> int:
        path = self.path
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    @property
    def text(self) -> str:
        """A scalar as text, as a program would get it; "" for all else."""
        if isinstance(self.value, bool):
            return str(self.value).lower()
        return str(self.value) if isinstance(self.value, str | int | float) else ""

    @property
    def number(self) -> int | None:
        """A whole number, also one in quotes."""
        text = self.text.strip()
        return int(text) if text.removeprefix("-").isdigit() and len(text) < 10 else None

    def get(self, *keys: str) -> "At":
        value, path = self.value, self.path
        for key in keys:
            value, path = (value.get(key) if isinstance(value, dict) else None), (*path, key)
        return At(value, self.file, self.lines, path)

    def items(self) -> Iterator[tuple[str, "At"]]:
        """The keys of a mapping; none of anything else."""
        for key in self.value if isinstance(self.value, dict) else ():
            yield str(key), self.get(key)

    def each(self) -> Iterator["At"]:
        """The items of a list; none of anything else."""
        for place, value in enumerate(self.value if isinstance(self.value, list) else ()):
            yield At(value, self.file, self.lines, (*self.path, place))

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return self.value not in (None, {}, [], "")


@dataclass(frozen=True, slots=True, order=True)
class Note:
    """What became of one field. `what` and `why` never hold a secret's value."""

    file: str
    line: int
    verdict: Verdict
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.verdict}: {one_line(self.what)}: {one_line(self.why)}"


def note(at: At, verdict: Verdict, what: str, why: str) -> Note:
    """A note on the value at `at`."""
    return Note(at.file, at.line, verdict, what, why)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a command line: its long form with dashes (`--max-model-len`), its values, as it was written, where."""

    name: str
    values: tuple[str, ...]
    words: tuple[str, ...]
    line: int

    @property
    def value(self) -> str:
        return self.values[0] if self.values else ""


@dataclass(slots=True)
class Found:
    """One model as it is put together from a workload: keys of ours with what they are and why, flags, notes."""

    name: str
    at: At
    title: str
    """As in `Deployment vllm-llama2`."""
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    engine: str = "auto"
    location: str = ""
    """The model as the engine was given it: org/name, a path, a URL."""
    revision: str = ""
    pick: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the engine."""
    args: list[str] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    """What clients call it, where its command line says so."""
    aliases: list[str] = field(default_factory=list)
    scale: dict[str, str] = field(default_factory=dict)
    """Replicas, as a number or a range, and the keys of `scale`, all as text."""
    sku: str = ""
    machines: int | None = None
    gpus: int | None = None
    kaito: bool = False
    node_labels: dict[str, str] = field(default_factory=dict)
    taints: list[str] = field(default_factory=list)
    secret: str = ""
    """The name of the Secret with the hub's token."""
    claims: list[str] = field(default_factory=list)
    """The names of the PersistentVolumeClaims that it mounts."""
    notes: list[Note] = field(default_factory=list)

    def note(self, verdict: Verdict, what: str, why: str, line: int | None = None) -> None:
        self.notes.append(Note(self.at.file, self.at.line if line is None else line, verdict, what, why))

    def set(self, key: str, value: Any, why: str = "") -> None:
        """Write `key`; what is said twice is the last, as on a command line."""
        self.keys[key] = value
        if why:
            self.why[key] = why
