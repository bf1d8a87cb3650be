"""How fast a simulated replica is: given by hand, from the planner's estimate for GPUs, or from what was measured on a CPU."""

from dataclasses import dataclass

from headrace.facts.model import ModelFacts
from headrace.plan.local_speed import Measured
from headrace.plan.offer import Offer
from headrace.plan.speed import step_times
from headrace.plan.speed_constants import SpeedConstants
from headrace.simulate.replica import Rates
from headrace.units import parse_count, parse_duration, show_duration

_CHUNK = 2048
"""Prompt tokens at once when their rate is asked of the planner: what engines read in one step."""
_CPU_PREFILL = 4.3
"""How many times faster a CPU reads prompts than it writes one answer: llama.cpp with Q4_1 reads 309 to 349 tokens/s on 2 cores
(facts/engine-llamacpp.md) where it writes 75.6. A guess for other models.
"""
_KEYS = ("slots", "prefill", "step", "each", "gpus")


@dataclass(frozen=True, slots=True)
class Known:
    """Rates, and in words where they are from."""

    rates: Rates
    source: str

    def __str__(self) -> str:
        rates = self.rates
        return (
            f"{rates.slots} slots, prompts at {rates.prefill_tokens_per_second:,.0f} tokens/s, "
            f"{show_duration(rates.step_seconds)} per token alone and {show_duration(rates.step(rates.slots))} "
            f"with all slots ({self.source})"
        )


def given(text: str) -> Known:
    """`slots=32,prefill=9000,step=11.6ms,each=0.12ms,gpus=1` → rates. Raises ValueError."""
    said: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in _KEYS:
            raise ValueError(f'"{part}" is none of {", ".join(f"{key}=" for key in _KEYS)}')
        said[key.strip()] = value.strip()
    if missing := [key for key in ("slots", "prefill", "step") if key not in said]:
        raise ValueError(f"{' and '.join(missing)} missing; write slots=32,prefill=9000,step=11.6ms,each=0.12ms")
    rates = Rates(
        slots=parse_count(said["slots"]),
        prefill_tokens_per_second=parse_count(said["prefill"]),
        step_seconds=parse_duration(said["step"]),
        each_seconds=parse_duration(said["each"]) if "each" in said else 0.0,
        gpus=parse_count(said["gpus"]) if "gpus" in said else 1,
    )
    return Known(rates, "as given")


def of_offer(offer: Offer, facts: ModelFacts, speed: SpeedConstants, slots: int, context: float) -> Known:
    """The planner's estimate for one replica of an offer, with `context` tokens in each request on average."""
    way, gpu = offer.way, offer.gpu
    bits = facts.weight_bytes * 8 / facts.parameters if facts.parameters else 16.0
    rates = speed.choose("vllm", gpu).fit.rates
    seconds = step_times(facts, gpu, way.tensor_parallel, bits, 16, rates, way.pipeline_parallel)
    one, all_of_them = seconds(1, context, 0), seconds(slots, context, 0)
    reading = seconds(slots, context, _CHUNK) - all_of_them
    each = max(0.0, all_of_them - one) / max(1, slots - 1)
    why = f"estimated for {way.on(gpu)}, {offer.speed.confidence} confidence"
    return Known(Rates(slots, _CHUNK / reading, one, each, way.gpus), why)


def of_cpu(measured: Measured, facts: ModelFacts, slots: int, cores: int) -> Known:
    """What was measured of an engine, by weight bytes and cores; see local_speed for how far off that can be."""
    scale = measured.weight_bytes / max(1, facts.weight_bytes) * min(cores, 16) / measured.cores
    one, together = measured.at(1) * scale, measured.at(slots) * scale
    each = max(0.0, slots / together - 1 / one) / max(1, slots - 1)
    return Known(Rates(slots, _CPU_PREFILL * one, 1 / one, each, 0), "scaled from one small model, within a factor of two")
