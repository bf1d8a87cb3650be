"""Words of YAML → values, as YAML 1.1 has them: true, 012, 1_000, ~; what cannot be read so stays text."""

from functools import lru_cache
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

_TAG = "tag:yaml.org,2002:"
_RESOLVER: Any = yaml.resolver.Resolver()
_CONSTRUCT = SafeConstructor()


def scalar(event: Any) -> Any:
    """The value of a scalar event; a tag that is not YAML's own leaves the text."""
    if event.tag:
        return _tagged(str(event.tag), str(event.value))
    return plain(str(event.value)) if event.implicit[0] else str(event.value)


def _tagged(tag: str, text: str) -> Any:
    return _typed(tag.removeprefix(_TAG), text) if tag.startswith(_TAG) else text


@lru_cache(maxsize=8192)
def plain(text: str) -> Any:
    """What YAML 1.1 makes of a word without quotes."""
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    return _typed(str(tag).removeprefix(_TAG), text)


def _typed(kind: str, text: str) -> Any:
    node = yaml.ScalarNode(f"{_TAG}{kind}", text)
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return _CONSTRUCT.construct_yaml_bool(node)
        if kind == "int" and len(text) < 400:
            return _CONSTRUCT.construct_yaml_int(node)
        if kind == "float":
            return _CONSTRUCT.construct_yaml_float(node)
    except (ValueError, KeyError, IndexError, OverflowError):
        return text
    return text
