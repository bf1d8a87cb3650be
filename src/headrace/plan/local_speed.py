"""How fast engines are on a CPU, by what was measured with one small model: enough to rank them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any

from headrace.facts.model import ModelFacts
from headrace.plan.base import Decision
from headrace.traffic import Task

_TITLES = {"llamacpp": "llama.cpp", "openvino": "OpenVINO", "vllm": "vLLM"}
WORTH = 1.3
"""How many times faster than the embedded engine another must be to be worth a slower start and more memory: OpenVINO's are ten
times and 1.6 times llama.cpp's (SmolLM2-135M, 4 slots of 4,096 tokens).
"""
_SPREAD = 2
"""Models and machines other than the measured ones were off by up to this factor in what was published of llama.cpp."""
_MOST_CORES = 16
"""More cores than this share the memory's bandwidth rather than add speed, on the desktops and small servers in mind."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Output tokens per second of all requests together, by requests at once, of a model of `weight_bytes` on `cores`."""

    weight_bytes: int
    cores: int
    rates: Mapping[int, float]

    def at(self, users: int) -> float:
        """Between measured points by the logarithm of `users`, beyond them the nearest."""
        below = max((point for point in self.rates if point <= users), default=min(self.rates))
        above = min((point for point in self.rates if point >= users), default=max(self.rates))
        if below == above:
            return float(self.rates[below])
        part = log2(users / below) / log2(above / below)
        return float(self.rates[below] + part * (self.rates[above] - self.rates[below]))


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured of engines on a CPU, by name (see constants/local.yaml)."""

    engines: Mapping[str, Measured] = field(default_factory=dict)

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> "Rates":
        """The table as it stands in its file."""
        return cls({name: Measured(**values) for name, values in table.items()})

    def at(self, engine: str, users: int) -> float | None:
        """Tokens per second in the measured set-up; None for what was not measured."""
        return self.engines[engine].at(users) if engine in self.engines else None

    def gain(self, engine: str, other: str, users: int) -> tuple[float, float] | None:
        """How many times as fast another engine is, at worst and at best: as measured, and off by what models and machines were;
        None for what was not measured.
        """
        now, then = self.at(engine, users), self.at(other, users)
        return (then / now / _SPREAD, then / now * 1.2) if now and then else None

    def fastest(self, able: Sequence[str], facts: ModelFacts, task: Task, users: int | None) -> Decision:
        """Of the engines that can, the fastest measured for so many users where that is worth it, with the others' figures; the
        first where none was measured.
        """
        count = users or 1
        rates = {name: found for name in able if (found := self.at(name, count)) is not None}
        if task != "generate" or len(rates) < 2:
            return Decision("engine", able[0], f"can {task} with {facts.format} weights")
        best = max(rates, key=lambda name: rates[name])
        if able[0] in rates and rates[best] < WORTH * rates[able[0]]:
            best = able[0]  # it starts sooner and takes less
        others = ", ".join(f"{_TITLES.get(name, name)} {found:.0f}" for name, found in rates.items() if name != best)
        load = "one request at a time" if count == 1 else f"{count} requests at once"
        cores = self.engines[best].cores
        why = f"with {load} {rates[best]:.0f} tokens/s against {others}, measured with a model of 135M on {cores} cores"
        return Decision("engine", best, why)

    def estimate(self, engine: str, facts: ModelFacts, slots: int, cores: int) -> tuple[Decision, ...]:
        """Tokens per second to expect: the measured figure by the weight bytes that a token reads and by cores, give or take a
        factor of two. Cores help until memory's bandwidth is the limit, which is not known of this machine: hence the range.
        """
        if engine not in self.engines or facts.encoder or not facts.weight_bytes:
            return ()
        known = self.engines[engine]
        active = facts.weight_bytes * (facts.parameters_active or facts.parameters or 1) / (facts.parameters or 1)
        scale = known.weight_bytes / active * min(cores, _MOST_CORES) / known.cores
        one, together = known.at(1), known.at(slots)
        value = f"{_range(one * scale)} tokens/s"
        all_of_them = f"; {_range(together * scale)} for {slots} at once" if slots > 1 else ""
        why = f"for one request{all_of_them}; low confidence: scaled by weight bytes and cores from one model of 135M"
        return (Decision("speed", value, why),)


def _range(rate: float) -> str:
    low, high = rate / _SPREAD, rate * _SPREAD
    return f"{low:.0f} to {high:.0f}" if low >= 2 else f"{low:.1f} to {high:.1f}"
