"""Models → the text of our file, with a comment where something was decided."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from headrace.importing.models import Model
from headrace.spec.document import one_line


def text(
    models: Sequence[Model], aliases: Mapping[str, str], machine: Mapping[str, Any] | None, cluster: Mapping[str, Any]
) -> str:
    """The file. `machine` and `cluster` (keys of `kubernetes`) are what all models have in common."""
    lines = ["models:"]
    for model in models:
        lines += _model(model)
    if aliases:
        lines += ["aliases:", *(f"  {scalar(alias)}: {scalar(name)}" for alias, name in aliases.items())]
    if machine:
        lines.append(f"machine: {scalar(dict(machine))}")
    if cluster:
        lines += ["kubernetes:", *_mapping(cluster, "  ")]
    return "\n".join(lines) + "\n"


def scalar(value: Any) -> str:
    """A value on one line, as YAML that our loader reads back as it is."""
    said: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return said.removesuffix("\n").removesuffix("\n...")


def _model(model: Model) -> Iterator[str]:
    yield f"  {scalar(model.name)}:  # {one_line(model.title)}"
    for key, value in model.keys.items():
        why = f"  # {one_line(model.why[key])}" if key in model.why else ""
        if isinstance(value, dict):
            yield f"    {key}:{why}"
            yield from _mapping(value, "      ")
        else:
            yield f"    {key}: {scalar(value)}{why}"


def _mapping(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, below in value.items():
        if isinstance(below, dict):
            yield f"{indent}{scalar(key)}:"
            yield from _mapping(below, indent + "  ")
        else:
            yield f"{indent}{scalar(key)}: {scalar(below)}"
