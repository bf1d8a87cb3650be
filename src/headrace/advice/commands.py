"""The commands that signals name, as they work when they are pasted where the question was asked."""

import shlex

from headrace.advice.base import Observed

IMPORTED = " imported.yaml"
"""The file that `importing` writes, as an argument of a command: not the usual one, which may be there already."""


def importing(namespace: str | None = None, *, kaito: bool = False) -> str:
    """Writes a file of what runs in a cluster."""
    kinds = "deployments,statefulsets" + (",workspaces" if kaito else "")
    where = f" -n {shlex.quote(namespace)}" if namespace else ""
    return f"kubectl get {kinds}{where} -o yaml | headrace import - >{IMPORTED}"


def of_file(seen: Observed, command: str, more: str = "") -> str:
    """A command about the file, which is made first where there is none."""
    first = f"{seen.importing} && " if seen.importing else ""
    return f"{first}headrace {command}{seen.file}{more and f' {more}'}"


def planned(seen: Observed, more: str = "") -> str:
    """Shows a plan of the file."""
    return of_file(seen, "plan", more)


def in_force(seen: Observed) -> str:
    """Puts into force what was written into the file; where there is none, makes the one to write it into."""
    return f"headrace reload{seen.at}" if seen.here else seen.importing or of_file(seen, "apply")


def moved(seen: Observed, engine: str) -> tuple[str, str]:
    """(what has to be written first, the command) of a move to another engine. What the file says would win at the next start."""
    command = f"headrace graduate {seen.model} --to {engine}{seen.at}"
    if "engine" not in seen.fixed:
        return "", command
    return f", once the file says engine: auto instead of {seen.engine}", f"{in_force(seen)} && {command}"


def shorter(seen: Observed, context: int) -> tuple[str, str]:
    """(how the change is made, the command) of another context."""
    if not seen.here or "context" in seen.fixed:
        return f"write context: {context} into the file", in_force(seen)
    return f"context: {context}", f"headrace graduate {seen.model} --to {seen.engine} --context {context}{seen.at}"
