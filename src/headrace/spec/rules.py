"""Rules between the keys of a spec; they judge values as written too, so that all mistakes are told at once."""

from collections.abc import Iterator, Mapping
from typing import Any

_OURS = ("engine", "quantization", "tensor_parallel", "share", "for", "memory", "adapters")
"""Keys for what is still to be started."""


def conflicts(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) for keys of one model that exclude or need each other; "" for the model itself."""
    command = _command(given.get("engine"))
    if given.get("source") and given.get("url"):
        yield "url", "cannot stand beside `source`: a model is either run from weights or already running."
    if not given.get("source") and not given.get("url") and not command:
        yield "", "needs a `source` (weights or code to run) or a `url` (a server that runs already)."
    if given.get("source") and command:
        yield "source", "cannot stand beside a command, which finds its weights by itself."
    if given.get("key") is not None and not given.get("url"):
        yield "key", "belongs to servers given by `url`, and there are none."
    if given.get("replicas") is not None and given.get("url"):
        yield "replicas", "is not for servers given by `url`: each address there is one replica."
    if given.get("url") and _range(given.get("scale")) is not None:
        yield "scale", "has a range of replicas, and servers given by `url` run already: each address there is one replica."
    for key in _OURS if given.get("url") and not given.get("source") else ():
        if given.get(key) not in (None, "auto"):
            yield key, "is not for servers given by `url`: they run already."


def _range(scale: Any) -> Any:
    return scale.get("replicas") if isinstance(scale, Mapping) else getattr(scale, "replicas", None)


def _command(engine: Any) -> Any:
    """The command of a custom engine, as written or validated."""
    for key in ("custom", "command"):
        engine = engine.get(key) if isinstance(engine, Mapping) else getattr(engine, key, None)
    return engine


def astray(models: Mapping[str, Any], aliases: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(alias, what is wrong) for aliases that hide a model or lead to none."""
    for alias, target in aliases.items():
        if alias in models:
            yield alias, "is a model's name already, which the alias would hide."
        elif isinstance(target, str) and target not in models:
            yield alias, f'leads to "{target}", which is not a model here.'


def doubled(models: Mapping[str, Any], aliases: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(model, adapter, what is wrong) for adapters whose name means something else already."""
    taken: dict[str, str] = dict.fromkeys(models, "a model") | dict.fromkeys(aliases, "an alias")
    for model, value in models.items():
        adapters = value.get("adapters") if isinstance(value, Mapping) else getattr(value, "adapters", None)
        for name in adapters if isinstance(adapters, Mapping) else ():
            if name in taken:
                yield model, name, f"is {taken[name]} already; clients ask for either by its name."
            taken[name] = f"an adapter of {model}"
