"""Objects as YAML, the same bytes for the same object."""

from collections.abc import Mapping
from typing import Any

import yaml

MARK = "# Made by headrace render. Edit headrace.yaml instead."
"""The first line of every file that is ours to change."""

_WIDTH = 10**6  # no line is broken: a query stays one that can be copied


def dumped(value: Mapping[str, Any]) -> str:
    """YAML as the API machinery reads it: no anchors, and what would be read as something else in quotes."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, value: str) -> Any:
    """Files in ConfigMaps line by line."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
