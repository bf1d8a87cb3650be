"""How the user's file is called where nobody says, and where the decisions on it are kept."""

from pathlib import Path

USUAL = "headrace.yaml"
_ENDINGS = (".yaml", ".yml")


def usual() -> str | None:
    """The file of the usual name, where there is one in this folder."""
    return USUAL if Path(USUAL).is_file() else None


def lock_of(what: str) -> Path | None:
    """Where the decisions for a file are kept: beside it, under its name. None for a model."""
    return Path(what).with_suffix(".lock") if what.endswith(_ENDINGS) else None
