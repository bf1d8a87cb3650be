"""The catalogue beside this file: GPUs, CPUs, sizes to rent, known models and KAITO's presets, loaded when first asked for."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from headrace.facts import entries
from headrace.facts.entries import Entry
from headrace.facts.hardware import Gpu, Sku
from headrace.facts.model import ModelFacts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cpu:
    """One socket: its cores, and bytes per second of its memory."""

    name: str
    cores: int
    bandwidth: float
    source: str


@cache
def gpus() -> Mapping[str, Gpu]:
    """Every known GPU by name. Raises ValueError that names the entry and key that are wrong."""
    return _read("gpus.yaml", entries.gpu)


@cache
def gpus_by_driver() -> Mapping[str, Gpu]:
    """The GPUs by what nvidia-smi calls them."""
    return {name: gpu for gpu in gpus().values() for name in gpu.nvidia}


@cache
def cpus() -> Mapping[str, Cpu]:
    """CPUs by name."""
    return _read("cpus.yaml", _cpu)


@cache
def skus(cloud: str) -> Mapping[str, Sku]:
    """The GPU sizes of a cloud by name; a cloud is the file `catalogue/<cloud>.yaml`. Raises ValueError for another."""
    if cloud not in clouds():
        raise ValueError(f'"{cloud}" is not a cloud in the catalogue; known: {", ".join(clouds())}')
    known = gpus()
    return _read(f"{cloud}.yaml", lambda entry: entries.sku(entry, cloud, known))


@cache
def every_sku() -> Mapping[str, Sku]:
    """The sizes of all clouds by name."""
    return {name: sku for cloud in clouds() for name, sku in skus(cloud).items()}


@cache
def clouds() -> tuple[str, ...]:
    """The clouds whose sizes are known: the files of the catalogue that are not about something else."""
    names = (file.name for file in files("headrace.facts").joinpath("catalogue").iterdir())
    found = (name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
    return tuple(sorted(name for name in found if name not in ("gpus", "cpus", "models", "kaito", "engines")))


def known_model(repo: str) -> ModelFacts | None:
    """The facts of a model by its name on the Hugging Face hub, in any case; their `doubts` say that they are not read."""
    # One entry is parsed and not all: a hundred take longer than the rest of a plan.
    found = re.search(rf"^{re.escape(repo)}:.*(?:\n[ \t].*)*", _text("models.yaml"), re.I | re.M)
    if found is None or not repo:
        return None
    ((name, values),) = _parsed(found[0], "models.yaml").items()
    return entries.model(Entry("models.yaml", str(name), values))


def known_models() -> tuple[str, ...]:
    """The names of the models that `known_model` knows."""
    return tuple(re.findall(r"^([^\s#][^:\n]*):", _text("models.yaml"), re.M))


@dataclass(frozen=True, slots=True)
class EngineUse:
    """An engine, what it is for and not for, and what this version does with it."""

    name: str
    good_for: str
    not_for: str
    here: str


@cache
def engine_uses() -> tuple[EngineUse, ...]:
    """The table that a choice of engine starts from."""
    entries_ = _content("engines.yaml").items()
    return tuple(EngineUse(str(name), entry["for"], entry["not for"], entry["here"]) for name, entry in entries_)


def kaito_preset(repo: str) -> str | None:
    """KAITO's preset for a model by its name on the Hugging Face hub; None when it has none."""
    return _presets().get(repo.lower())


@cache
def kaito_repository(preset: str) -> str | None:
    """The name on the Hugging Face hub of the model behind a preset of KAITO's; None for a preset that is not known."""
    return next((str(name) for name, known in _content("kaito.yaml").items() if str(known).lower() == preset.lower()), None)


@cache
def kaito_presets() -> tuple[str, ...]:
    """The names of KAITO's presets, in small letters."""
    return tuple(preset.lower() for preset in _presets().values())


@cache
def _presets() -> Mapping[str, str]:
    return {name.lower(): str(preset) for name, preset in _content("kaito.yaml").items()}


def _cpu(entry: Entry) -> Cpu:
    return Cpu(entry.name, entry.count("cores"), entry.number("bandwidth") * 1e9, entry.text("source"))


def _read(file: str, read: Callable[[Entry], T]) -> Mapping[str, T]:
    return {str(name): read(Entry(file, str(name), values)) for name, values in _content(file).items()}


def _content(file: str) -> Mapping[str, Any]:
    return _parsed(_text(file), file)


@cache
def _text(file: str) -> str:
    return files("headrace.facts").joinpath("catalogue", file).read_text(encoding="utf-8")


def _parsed(text: str, file: str) -> Mapping[str, Any]:
    """A file of the catalogue as a mapping, by libyaml where it is there: ten times as fast."""
    import yaml

    content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a mapping of names to entries")
    return content
