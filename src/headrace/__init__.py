"""Headrace serves AI models: one YAML says which, Headrace decides how, says why, and keeps it true."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.notebook.fleet import Fleet as Fleet

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`Fleet`, imported when it is asked for: `import headrace` stays instant."""
    if name == "Fleet":
        from importlib import import_module

        return import_module("headrace.notebook.fleet").Fleet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "Fleet"]
