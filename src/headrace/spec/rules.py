"""Rules between the keys of a spec; they judge values as written too, so that all mistakes are told at once."""

from collections.abc import Iterator, Mapping
from typing import Any

_OURS = ("engine", "quantization", "tensor_parallel", "share", "for")
"""Keys for what is still to be started."""


def conflicts(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for keys of one model that exclude or need each other; "" for the model itself."""
    if given.get("source") and given.get("url"):
        yield "url", "cannot stand beside `source`: a model is either run from weights or already running."
    if not given.get("source") and not given.get("url"):
        yield "", "needs a `source` (weights to run) or a `url` (a server that runs already)."
    if given.get("key") is not None and not given.get("url"):
        yield "key", "belongs to servers given by `url`, and there are none."
    if given.get("replicas") is not None and given.get("url"):
        yield "replicas", "is not for servers given by `url`: each address there is one replica."
    for key in _OURS if given.get("url") and not given.get("source") else ():
        if given.get(key) not in (None, "auto"):
            yield key, "is not for servers given by `url`: they run already."


def astray(models: Mapping[str, Any], aliases: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(alias, what is wrong) for aliases that hide a model or lead to none."""
    for alias, target in aliases.items():
        if alias in models:
            yield alias, "is a model's name already, which the alias would hide."
        elif isinstance(target, str) and target not in models:
            yield alias, f'leads to "{target}", which is not a model here.'
