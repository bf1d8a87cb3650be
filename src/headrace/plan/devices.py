"""Models on the GPUs of this machine: which go there, and how each replica is started there with vLLM.

Models that may sleep keep their place where there is one for each, and take turns where there is not. RAM is planned as for
others.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

from headrace.engines.base import Bed, Placement
from headrace.facts.hardware import Card, Machine
from headrace.facts.model import ModelFacts
from headrace.plan import choose, intent
from headrace.plan.artifacts import Occupied
from headrace.plan.base import Decision, PlannedModel
from headrace.plan.cards import Seat, seats
from headrace.plan.fleet import Member
from headrace.plan.here import Here
from headrace.plan.intent import Intent
from headrace.plan.offer import Offer
from headrace.plan.ranges import Size, most, scale_of
from headrace.spec.engines import VllmOptions
from headrace.spec.model import ModelSpec, Spec
from headrace.traffic import Task
from headrace.units import show_bytes

HOST_BYTES = 3 * 2**30
"""RAM that vLLM's processes take for each GPU. An estimate: its CPU build took 1.9 GB, and CUDA's libraries are on top."""

_INSTALL = "headrace engines install vllm"


@dataclass(frozen=True, slots=True)
class OnCards:
    """The models that run on GPUs here; `stay` says why others that vLLM might serve there do not."""

    models: Mapping[str, Occupied]
    stay: Mapping[str, Decision]


def on_cards(spec: Spec, facts: Mapping[str, ModelFacts], weights: Mapping[str, str], machine: Machine, here: Here) -> OnCards:
    """Every model of `facts` that vLLM can serve on the cards of `machine`: none without cards, or without a vLLM for them."""
    if not machine.cards or here.knowledge is None:
        return OnCards({}, {})
    stay: dict[str, str] = {}
    members: dict[str, Member] = {}
    for name, known in facts.items():
        model = spec.models[name]
        if model.engine_name not in ("auto", "vllm"):
            continue
        if why := _unfit(model, known, here):
            stay[name] = why
        else:
            members[name] = Member(known, _each(model), _wanted(model), copies=most(model))
    sleepers = {name for name in members if (scale := scale_of(spec.models[name])) and scale.least == 0}
    made = seats(members, machine, here.knowledge, sleepers)
    refused, models = made.refused, {}
    for name, found in made.seats.items():
        turns = made.turns.get(name, ())
        models[name] = _Model(name, spec.models[name], facts[name], weights[name], found, here, turns).occupied()
    return OnCards(models, {name: Decision("GPU", "not used", why) for name, why in {**stay, **refused}.items()})


def for_gpus_only(model: ModelSpec, facts: ModelFacts) -> bool:
    """Whether the file asks for what no engine on a CPU gives, so that a model that has no place on a GPU cannot be served."""
    asked = model.quantization not in ("auto", "none") or model.tensor_parallel not in ("auto", 1)
    return facts.format != "gguf" and (model.engine_name == "vllm" or asked)


def remarks(machine: Machine, here: Here) -> tuple[str, ...]:
    """What there is to say of GPUs that are not used, a sentence each."""
    if not machine.cards or here.knowledge is not None:
        return machine.remarks
    installed = "vllm" in here.installed
    what = "the vLLM that is installed is for CPUs" if installed else "vLLM is not installed"
    would = f"Run: {_INSTALL}, and models with safetensors are served there after headrace plan --update"
    return (f"{_counted(machine.cards)} here and not used: {what}. {would}.", *machine.remarks)


def _counted(cards: tuple[Card, ...]) -> str:
    names = [card.gpu.name for card in cards]
    kinds = ", ".join(f"{names.count(kind)} x {kind}" for kind in dict.fromkeys(names))
    return f"{kinds} {'is' if len(cards) == 1 else 'are'}"


def _unfit(model: ModelSpec, facts: ModelFacts, here: Here) -> str | None:
    """Why vLLM on a GPU is nothing for the model, whatever the memory."""
    if model.share in ("process", "mig"):
        return f"share {model.share} is not done on the GPUs of this machine: write auto. Cards that are cut already are used so"
    return here.engines["vllm"].refuse(facts, _task(model, facts)) or choose.no_adapters(model, here.engines["vllm"])


def _task(model: ModelSpec, facts: ModelFacts) -> Task:
    return "embed" if choose.task(model, facts).value == "embed" else "generate"


def _each(model: ModelSpec) -> Intent:
    """What one of the most replicas that there may be is for."""
    whole = intent.asked(model)
    return replace(whole, users=-(-whole.users // most(model)))


def _wanted(model: ModelSpec) -> intent.Wanted:
    """Of one replica."""
    share: Literal["auto", "exclusive"] = "exclusive" if model.share == "exclusive" else "auto"
    return replace(intent.wanted(model), share=share, replicas=1)


@dataclass(frozen=True, slots=True)
class _Model:
    """One model that has places on cards, on its way to placements."""

    name: str
    spec: ModelSpec
    facts: ModelFacts
    weights: str
    seats: tuple[Seat, ...]
    here: Here
    turns: tuple[str, ...] = ()
    """The models with which it takes turns on its cards."""

    @property
    def offer(self) -> Offer:
        """Of its first replica; others may be on another kind of card."""
        return self.seats[0].offer

    @property
    def slots(self) -> Decision:
        if self.spec.slots != "auto":
            return Decision("slots", str(self.spec.slots), "asked for")
        users = _each(self.spec).users
        said = f"the {users} users of each replica" if self.spec.for_.users else f"{users} users, for `for` names none"
        return Decision("slots", str(self.offer.memory.batching.max_num_seqs), f"places for {said}, 16 at least")

    def occupied(self) -> Occupied:
        scale, replicas = scale_of(self.spec), tuple(map(self._placement, self.seats))
        planned = PlannedModel(
            name=self.name,
            task=_task(self.spec, self.facts),
            facts=self.facts,
            replicas=replicas,
            slots=int(self.slots.value),
            decisions=tuple(self._decisions()),
            context=self.offer.memory.context,
            also=tuple(self.spec.adapters),
            scale=scale,
        )
        least = len(replicas) if scale is None else scale.least
        return Occupied(planned, Size(self.name, replicas[0].memory_bytes, least, len(replicas)))

    def _placement(self, seat: Seat) -> Placement:
        return Placement(
            model=self.name,
            engine="vllm",
            task=_task(self.spec, self.facts),
            weights=self.weights,
            context=self.offer.memory.context,
            slots=int(self.slots.value),
            threads=0,
            memory_bytes=HOST_BYTES * len(seat.cards),
            options=self._options(seat),
            python=self.here.installed["vllm"].python,
            adapters={name: text.removeprefix("file:") for name, text in self.spec.adapters.items()},
            also=tuple(self.spec.adapters),
            devices={card.uuid: seat.taken_bytes for card in seat.cards},
            beds=self._beds(seat),
        )

    def _beds(self, seat: Seat) -> tuple[Bed, ...]:
        """How it sleeps in place: with its weights in RAM, or with nothing but its process. Weights that vLLM itself made smaller
        cannot be thrown away: reading them again would not do that again.
        """
        scale = scale_of(self.spec)
        if scale is None or scale.least or not self.spec.options(VllmOptions).sleep:
            return ()
        host, devices = HOST_BYTES * len(seat.cards), {card.uuid: seat.process_bytes for card in seat.cards}
        kept = Bed(1, host + self.facts.weight_bytes, devices)
        return (kept,) if seat.offer.quantization.name == "fp8" else (kept, Bed(2, host, devices))

    def _options(self, seat: Seat) -> dict[str, Any]:
        """Absolute sizes. vLLM looks at its start whether its part of the whole card is free, hence that part as well."""
        asked, offer = self.spec.options(VllmOptions), seat.offer
        part = ceil(1000 * seat.taken_bytes / min(card.gpu.memory_bytes for card in seat.cards)) / 1000
        stages = ("--pipeline-parallel-size", str(offer.pipeline_parallel)) if offer.pipeline_parallel > 1 else ()
        step = ("--max-num-batched-tokens", str(asked.batch or offer.memory.batching.max_num_batched_tokens))
        return {
            "device": "cuda",
            "tensor_parallel": offer.tensor_parallel,
            "quantization": offer.quantization.name if offer.quantization.name == "fp8" else "",
            "cache_bytes": seat.cache_bytes if offer.memory.request_bytes else None,
            "dtype": asked.dtype,
            "args": (*step, *stages, "--gpu-memory-utilization", str(part), *asked.args),
        }

    def _decisions(self) -> Iterator[Decision]:
        offer, asked = self.offer, self.spec.context_asked is not None
        yield choose.task(self.spec, self.facts)
        why = "asked for" if self.spec.engine_name == "vllm" else "serves safetensors to many users, on GPUs"
        yield Decision("engine", "vllm", why)
        yield self.here.version("vllm")
        yield Decision("GPUs", self._where(), self._memory())
        if self.turns:
            yield Decision("GPU turns", ", ".join(self.turns), "there is no room for all at once: who is asked for has it")
        yield from (one for one in offer.decisions if one.subject == "split")
        room = "room for prompt and answer twice, within the model's limit"
        yield Decision("context", str(offer.memory.context), "asked for" if asked else room)
        yield self.slots
        yield from self.here.start("vllm", self.weights)
        host = HOST_BYTES * offer.way.gpus
        yield Decision("memory", show_bytes(host), "RAM of vLLM's processes for each replica, an estimate; the rest is on GPUs")
        yield self._speed()
        yield from (Decision("misses", "what it is for", problem) for problem in offer.problems)

    def _where(self) -> str:
        """`1+2, 3+4 (L4), 20 GiB of each`: the cards of each replica, and what the one with least takes of them."""
        each = ("+".join(card.place for card in seat.cards) for seat in self.seats)
        kinds = dict.fromkeys(seat.offer.gpu.name for seat in self.seats)
        quantized = ", fp8" if self.offer.quantization.name == "fp8" else ""
        taken = show_bytes(min(seat.taken_bytes for seat in self.seats))
        return f"{', '.join(each)} ({', '.join(kinds)}{quantized}), {taken} of each"

    def _memory(self) -> str:
        """What that is of the cards, and how sure it is."""
        seat = min(self.seats, key=lambda each: each.taken_bytes)
        free = show_bytes(min(card.free_bytes for card in seat.cards))
        cache = f", {show_bytes(seat.cache_bytes)} of it KV cache" if self.offer.memory.request_bytes else ""
        return f"{free} are free{cache}; confidence {self.offer.memory.confidence}: {self.offer.memory.why}"

    def _speed(self) -> Decision:
        offer = self.offer
        if not offer.gpu.source:
            return Decision("speed", "unknown", f"{offer.gpu.name} is not in the catalogue of GPUs")
        rate, token, speed = offer.speed.tokens_per_second, offer.speed.tpot_seconds.expected * 1000, offer.speed
        each = "each replica " if len(self.seats) > 1 else ""
        what = f"{each}for {_each(self.spec).users} users on idle cards" + ("" if offer.embeds else f", {token:.1f} ms per token")
        value = f"{rate.low:,.0f} to {rate.high:,.0f} tokens/s"
        return Decision("speed", value, f"{what}; {speed.confidence} confidence: {speed.reason}")
