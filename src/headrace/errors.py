"""Everything Headrace refuses or fails at: where, what, what to do next; with an exit code for the shell."""

from dataclasses import dataclass


class HeadraceError(Exception):
    """An error for the person at the terminal: what happened, and what to do about it.

    `exit_code` follows sysexits(3): 64 usage, 65 bad input, 69 something needed is unavailable, 77 not allowed, 78 configuration.
    """

    exit_code = 70

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what} {fix}".strip())
        self.what = what
        self.fix = fix


def plainly(error: object) -> str:
    """What the system says went wrong, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class UsageError(HeadraceError):
    """The command line asked for something that cannot be."""

    exit_code = 64


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in the user's file. Lines and columns count from 1; `path` is dotted, as in `models.chat.engine`."""

    file: str
    line: int
    column: int
    path: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {path}{self.what} {self.fix}".rstrip()


class SpecError(HeadraceError):
    """All the mistakes of one file, in the order they stand in it."""

    exit_code = 78

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = sorted(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


class WeightsError(HeadraceError):
    """Weights that are missing, damaged, refused or cannot be fetched."""

    exit_code = 69


class ModelError(HeadraceError):
    """A model file or configuration that cannot be understood or served."""

    exit_code = 65


class PlanError(HeadraceError):
    """A spec that cannot be carried out on this machine; says by how much."""

    exit_code = 69


class ReplicaError(HeadraceError):
    """A replica that could not be started or kept running."""

    exit_code = 69
