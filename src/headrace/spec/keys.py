"""Which keys may stand where: shorthand written out, keys of later versions and unknown ones refused by name."""

from typing import Any

from headrace.spec.document import Document, Path
from headrace.spec.model import NOT_YET, SECTIONS, fields
from headrace.spec.sentences import kind, nearest
from headrace.units import parse_range

_LATER = "is not supported yet in this version."


def known(document: Document) -> dict[str, Any]:
    """The document's mapping with shorthand written out and without the keys that were reported here."""
    value = _section(document, (), document.value)
    models = value.get("models")
    if isinstance(models, dict):
        value["models"] = {name: _model(document, ("models", name), model) for name, model in models.items()}
    for section in ("gateway", "weights", "machine", "kubernetes"):
        if isinstance(value.get(section), dict):
            value[section] = _section(document, (section,), value[section])
    gateway = value.get("gateway")
    for section in ("connections", "queue", "redis", "tls"):
        if isinstance(gateway, dict) and isinstance(gateway.get(section), dict):
            gateway[section] = _section(document, ("gateway", section), gateway[section])
    cluster = value.get("kubernetes")
    for section in ("storage", "nodes", "expose", "inference_pool"):
        if isinstance(cluster, dict) and isinstance(cluster.get(section), dict):
            cluster[section] = _section(document, ("kubernetes", section), cluster[section])
    return value


def _model(document: Document, path: Path, value: Any) -> Any:
    """One model in its full form; `chat: hf:org/name` is short for a mapping with a source."""
    if isinstance(value, str):
        return {"source": value}
    if not isinstance(value, dict):
        document.report(path, f"must be a source such as hf:org/name, or a mapping, not {kind(value)}.")
        document.wrong.add(path)
        return value
    model = _section(document, path, value)
    if "engine" in model:
        model["engine"] = _engine(document, (*path, "engine"), model["engine"])
    for section in ("for", "scale", "price"):
        if isinstance(model.get(section), dict):
            model[section] = _section(document, (*path, section), model[section])
    return _ranged(model)


def _ranged(model: dict[str, Any]) -> dict[str, Any]:
    """`replicas: 0..8` is short for `scale: {replicas: 0..8}`. Only what is such a range is taken for one."""
    text, scale = model.get("replicas"), model.get("scale", {})
    if not isinstance(text, str) or not isinstance(scale, dict) or "replicas" in scale:
        return model
    try:
        least, most = parse_range(text)
    except ValueError:
        return model
    if least == most:
        return model
    return {**{key: value for key, value in model.items() if key != "replicas"}, "scale": {**scale, "replicas": text}}


def _engine(document: Document, path: Path, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    options = _section(document, path, value)
    if value and not options:
        return "auto"  # all of its engines are reported: there is nothing left to validate
    for name, settings in options.items():
        if settings is None:
            options[name] = {}  # `llamacpp:` with every setting left out
        elif isinstance(settings, dict):
            options[name] = _section(document, (*path, name), settings)
    return options


def _section(document: Document, path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """`value` with the keys that may stand in the section at `path`; the others are reported."""
    section = ".".join(str(part) if index != 1 or path[0] != "models" else "*" for index, part in enumerate(path))
    keys = list(fields(SECTIONS[section]))
    later = NOT_YET.get(section, ())
    for key in value:
        if key in later:
            document.report((*path, key), _LATER, "Remove it.", at_key=True)
        elif key not in keys:
            document.report((*path, key), "is not a key here.", _instead(key, keys), at_key=True)
    return {key: below for key, below in value.items() if key in keys}


def _instead(key: str, keys: list[str]) -> str:
    return f"{nearest(key, keys)} Keys here: {', '.join(keys)}.".strip()
