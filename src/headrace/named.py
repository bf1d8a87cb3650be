"""What is named, on a command line or in a notebook → its spec."""

from pathlib import Path

from headrace.errors import UsageError
from headrace.spec.load import load, spec_for
from headrace.spec.model import Spec
from headrace.weights.source import from_argument, parse


def spec_named(what: str, name: str | None = None) -> Spec:
    """The spec in a YAML file, or one for a model that is called `name`. Raises SpecError and UsageError."""
    if what.endswith((".yaml", ".yml")) or Path(what).is_dir():
        if name:
            raise UsageError("--name belongs to a model; in a file the models have names.")
        return load(what, parse)
    try:
        source = from_argument(what)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return spec_for(str(source), name or source.name)
