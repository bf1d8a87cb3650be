"""The commands that signals name, as they work when they are pasted where the question was asked."""

from headrace.advice.base import Observed


def planned(seen: Observed, more: str = "") -> str:
    """Shows a plan of the file."""
    return f"headrace plan{seen.file}{more and f' {more}'}"


def in_force(seen: Observed) -> str:
    """Puts into force what was written into the file."""
    return f"headrace reload{seen.at}" if seen.here else f"headrace apply{seen.file}"


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
