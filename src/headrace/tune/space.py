"""What is tried: for each engine that can serve the model here its settings, with a few values each; and what is left alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from headrace.facts.model import ModelFacts
from headrace.plan.here import Here
from headrace.spec.engines import EngineOptions
from headrace.spec.model import ModelSpec
from headrace.traffic import Task
from headrace.tune.base import Candidate

ABLE = ("llamacpp", "openvino", "vllm")
"""Engines whose settings are known here."""
_BATCHES: Mapping[str, tuple[int, ...]] = {
    "llamacpp": (128, 256, 512, 1024),
    "openvino": (128, 256, 512, 1024),
    "vllm": (512, 1024, 2048, 4096),
}
_FULL = {"llamacpp": ("f16",)}
_LOSSY = {"llamacpp": ("f16", "q8_0")}


@dataclass(frozen=True, slots=True)
class Branch:
    """One engine with one version of the weights: the values of each setting, and where the search begins."""

    engine: str
    source: str | None
    dimensions: Mapping[str, tuple[str, ...]]
    start: Candidate

    @property
    def size(self) -> int:
        return prod(len(values) for values in self.dimensions.values())

    def candidates(self) -> Iterator[Candidate]:
        """All of them."""
        for values in product(*self.dimensions.values()):
            yield self.candidate(dict(zip(self.dimensions, values, strict=True)))

    def candidate(self, settings: Mapping[str, str]) -> Candidate:
        """`settings` on this engine with these weights."""
        return Candidate.of({"engine": self.engine, **({"source": self.source} if self.source else {}), **settings})


@dataclass(frozen=True, slots=True)
class Space:
    """All branches, and in sentences what is not searched and why."""

    branches: tuple[Branch, ...]
    said: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(branch.size for branch in self.branches)


@dataclass(frozen=True, slots=True)
class Weights:
    """One version of the weights: the source where it is not the model's own, and its facts."""

    source: str | None
    facts: ModelFacts


def space(
    model: ModelSpec, task: Task, weights: Sequence[Weights], here: Here, cores: int, users: int, *, lossy: bool = False
) -> Space:
    """What may be tried of `model` for so many `users`. Settings that its file sets stay as they are. `lossy`: also caches of
    fewer bits, which answer a little worse.
    """
    branches: list[Branch] = []
    said: list[str] = []
    fixed = _fixed(model)
    if fixed:
        said.append(f"as the file says: {', '.join(f'{name} {value}' for name, value in fixed.items())}")
    for name in _engines(model, here):
        for one in weights:
            where = name if one.source is None else f"{name} with {one.source}"
            if reason := _refused(name, one.facts, task, here):
                said.append(f"not tried: {where}: {reason.rstrip('.')}")
            else:
                branches.append(_branch(name, one.source, fixed, cores, users, lossy=lossy))
    return Space(tuple(branches), tuple(said))


def _engines(model: ModelSpec, here: Here) -> list[str]:
    if model.engine_name != "auto":
        return [model.engine_name]
    return [name for name in here.engines if name in ABLE]


def _refused(name: str, facts: ModelFacts, task: Task, here: Here) -> str | None:
    if name not in ABLE:
        return "its settings are not searched in this version"
    return here.missing(name) or here.engines[name].refuse(facts, task)


def _fixed(model: ModelSpec) -> dict[str, str]:
    """What the file sets itself: neither the lock nor tuning goes before it."""
    found = {} if model.slots == "auto" else {"slots": str(model.slots)}
    if isinstance(model.engine, EngineOptions):
        options = getattr(model.engine, model.engine_name)
        given = {name: getattr(options, name) for name in sorted(options.model_fields_set)}
        found |= {name: str(value) for name, value in given.items() if value != "auto"}
    return found


def _branch(engine: str, source: str | None, fixed: Mapping[str, str], cores: int, users: int, *, lossy: bool) -> Branch:
    dimensions = _dimensions(engine, cores, users, lossy=lossy)
    searched = {name: (fixed[name],) if name in fixed else values for name, values in dimensions.items()}
    start = {name: values[-1] for name, values in searched.items()} | _start(engine, searched)
    return Branch(engine, source, searched, Branch(engine, source, searched, Candidate(())).candidate(start))


def _dimensions(engine: str, cores: int, users: int, *, lossy: bool) -> dict[str, tuple[str, ...]]:
    """The last value of each is where the search begins, unless `_start` says otherwise."""
    found: dict[str, tuple[str, ...]] = {"slots": _slots(engine, users)}
    if engine != "vllm":  # which binds its threads to cores by itself
        found["threads"] = _texts({max(1, cores // 2), max(1, cores - 1), cores})
    found["batch"] = _texts(_BATCHES[engine])
    if engine == "llamacpp":
        found["wait"] = ("passive", "brief")
        found["cache_type"] = (_LOSSY if lossy else _FULL)[engine]
    if engine == "vllm":
        found["dtype"] = ("float32", "auto")
    return found


def _start(engine: str, searched: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    middle = {"llamacpp": "512", "openvino": "256", "vllm": "2048"}[engine]
    return {name: value for name, value in {"batch": middle, "cache_type": "f16"}.items() if value in searched.get(name, ())}


def _slots(engine: str, users: int) -> tuple[str, ...]:
    """As many as there are users, and fewer; where requests are batched together no fewer than a quarter."""
    least = max(1, users // (8 if engine == "llamacpp" else 4))
    powers = {1 << place for place in range(12)}
    return _texts({count for count in powers if least <= count < users} | {users})


def _texts(counts: set[int] | tuple[int, ...]) -> tuple[str, ...]:
    return tuple(map(str, sorted(counts)))
