"""What was found → models of our file: keys that our own rules accept, names that clients use, aliases."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from headrace.importing.base import Found
from headrace.importing.takes import place
from headrace.spec.model import NAME_PATTERN, ModelSpec
from headrace.spec.sentences import sentences
from headrace.units import parse_range
from headrace.weights.source import parse

ORDER = (
    "source",
    "task",
    "engine",
    "context",
    "slots",
    "quantization",
    "tensor_parallel",
    "share",
    "adapters",
    "replicas",
    "scale",
)
_ASKED_BY_ID = ("vllm", "sglang", "tei")
"""Servers that know a model by org/name, where no other name is given."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model of our file: its keys in order, and the reason of some."""

    name: str
    title: str
    keys: Mapping[str, Any]
    why: Mapping[str, str]
    aliases: tuple[str, ...] = ()


def models(found: Sequence[Found]) -> list[tuple[Found, Model]]:
    """The models of `found` that have weights we can name, each by a name of its own."""
    made: list[tuple[Found, Model]] = []
    taken: set[str] = set()
    for one in found:
        source = _source(one)
        if source is None:
            continue
        name, others = _names(one, source)
        name = _free(name, taken)
        taken.add(name)
        keys = _keys(one, source)
        if "source" in keys:
            made.append((one, Model(name, one.title, keys, one.why, tuple(others))))
    return made


def aliases(made: Sequence[tuple[Found, Model]]) -> dict[str, str]:
    """Other names by the model they lead to. A name that means two models leads to the first, with a note."""
    taken = {model.name: model.name for _, model in made}
    taken |= {name: model.name for _, model in made for name in model.keys.get("adapters", {})}
    led: dict[str, str] = {}
    for found, model in made:
        for alias in dict.fromkeys(model.aliases):
            before = taken.get(alias) or led.get(alias)
            if before is None and re.fullmatch(NAME_PATTERN, alias):
                led[alias] = model.name
            elif before not in (None, model.name):
                found.note("not carried", f"the name {alias} for {model.name}", f"it leads to {before} already")
    return led


def _source(found: Found) -> str | None:
    """Where the weights are, None (with a note) where our file has no way to say it."""
    location = found.location
    if found.engine == "ollama":
        why = "Ollama keeps models in a store of its own: name the GGUF, as in source: hf:org/name:Q4_K_M with engine llamacpp"
        found.note("not carried", found.title, why)
        return None
    if not location or "$" in location:
        what = f"its model is {location}, a variable without a value here" if location else "its command line names no model"
        found.note("not carried", found.title, what)
        return None
    text = place(location) if not re.match(r"\w+://", location) else location
    if text.startswith("hf:"):
        text += f"@{found.revision}" * bool(found.revision) + f":{found.pick}" * bool(found.pick)
    try:
        source = str(parse(text))
    except ValueError as error:
        found.note("not carried", found.title, str(error))
        return None
    if source.startswith("file:"):
        found.why["source"] = "a path in its container: name where it is for Headrace"
        found.note("decided", f"model {location}", "a path in its container; Headrace looks for it on the machine it runs on")
    return source


def _names(found: Found, source: str) -> tuple[str, list[str]]:
    """What clients call it, and the other names that they may use."""
    served = [name for name in found.served if re.fullmatch(NAME_PATTERN, name)]
    name = served[0] if served else _legal(found.name) if found.name else parse(source).name
    others = [*served[1:], *found.aliases]
    if not served and found.engine in _ASKED_BY_ID:
        others = [found.location, *others]
    if found.kaito:
        others.append(found.name)
    return name, [other for other in others if other != name]


def _legal(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._/:-]+", "-", name).lstrip("._/:-")[:120] or "model"


def _free(name: str, taken: set[str]) -> str:
    return next(free for free in (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))) if free not in taken)


def _keys(found: Found, source: str) -> dict[str, Any]:
    engine = "auto" if found.engine == "tei" else found.engine
    settings = found.options | ({"args": found.args} if found.args else {})
    wanted = dict(found.keys) | {"source": source}
    if found.engine == "tei":
        wanted.setdefault("task", "embed")
    if engine != "auto":
        wanted["engine"] = {engine: settings} if settings else engine
    _per_request(found, wanted)
    _split(found, wanted)
    _scaling(found, wanted)
    accepted = _accepted(found, wanted)
    return {key: accepted[key] for key in ORDER if key in accepted}


def _per_request(found: Found, wanted: dict[str, Any]) -> None:
    """llama.cpp's context is that of all its slots together."""
    slots = wanted.get("slots", 1)
    if found.engine == "llamacpp" and wanted.get("context") and slots > 1:
        found.set("context", max(16, wanted["context"] // slots), f"{wanted['context']} over {slots} slots")
        wanted["context"] = found.keys["context"]


def _split(found: Found, wanted: dict[str, Any]) -> None:
    """GPUs of the pod against those of the engine."""
    split = wanted.get("tensor_parallel", 1)
    if found.gpus is not None and found.gpus != split and found.engine in ("vllm", "sglang", "tgi"):
        why = f"the pod takes {found.gpus} GPUs and the engine uses {split}; the plan takes as many as it uses"
        found.note("decided", "nvidia.com/gpu", why)


def _scaling(found: Found, wanted: dict[str, Any]) -> None:
    """Replicas: a number, or a range with what scales in it."""
    text = found.scale.get("replicas", "1")
    least, most = parse_range(text)
    if most == 0:
        found.note("decided", "replicas 0", "a model that is in the file runs; 0..1 lets it sleep")
    elif least == most and most > 1:
        wanted["replicas"] = most
    elif least < most:
        said = {key: int(value) if value.isdigit() else value for key, value in found.scale.items() if key != "replicas"}
        wanted["scale"] = {"replicas": text, **said}


def _accepted(found: Found, wanted: dict[str, Any]) -> dict[str, Any]:
    """`wanted` without the keys that our own rules refuse, each with a note."""
    while True:
        problems = dict(_refused(wanted))
        for key, why in problems.items():
            found.note("not carried", key, why)
        if not problems:
            return wanted
        wanted = {key: value for key, value in wanted.items() if key not in problems}


def _refused(wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        ModelSpec.model_validate(wanted)
    except ValidationError as error:
        for path, what, fix in sentences(error.errors(), wanted):
            key = str(path[0]) if path else next((key for key in wanted if key != "source"), "source")
            yield key, f"{what} {fix}".strip()
