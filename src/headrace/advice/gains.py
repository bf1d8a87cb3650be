"""What the planner expects of more or other hardware for the load that was seen: tokens per second as ranges, not one number."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil

from headrace.advice.base import Gain, Observed, peak, ranked
from headrace.advice.commands import planned
from headrace.errors import HeadraceError
from headrace.facts import catalogue, request
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.learned import knowledge
from headrace.plan.consider import consider
from headrace.plan.intent import Intent, Wanted, asked, wanted
from headrace.plan.offer import Knowledge, Offer
from headrace.plan.speed import Engine, estimate
from headrace.spec.model import ModelSpec, Spec
from headrace.weights.cache import default_root

_MOST_MACHINES = 8
_LEAST_TOKENS = 16


@dataclass(frozen=True, slots=True)
class _Question:
    facts: ModelFacts
    machines: tuple[Machine, ...]
    intent: Intent
    known: Knowledge
    asked: str
    """The command that plans for this machine."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the planner says of a model as it is seen: gains by signal; tokens per second of one replica by requests at once."""

    gains: dict[str, Gain] = field(default_factory=dict)
    curve: Callable[[int], float | None] | None = None


def expected(seen: Observed, spec: Spec, about: ModelSpec, facts: ModelFacts | None) -> Expected:
    """For a model whose machine the set-up names; nothing where the planner cannot say."""
    if facts is None or spec.elsewhere is None or facts.encoder or not seen.used:
        return Expected()
    try:
        machines = request.machine(spec.elsewhere, catalogue.gpus(), catalogue.every_sku())
        if any(one != machines[0] for one in machines):  # every size of a cloud: which one it runs on is not said
            return Expected()
        question = _Question(
            facts, machines, _intent(seen, about), knowledge(default_root()), planned(seen, f"--machine '{spec.elsewhere}'")
        )
        present = wanted(about)
        if present.quantization == "auto":  # what runs has not been quantized by the planner
            present = replace(present, quantization="none")
        now = _best(question, replace(present, replicas=max(1, seen.most or 1)), max(1, seen.most or 1))
        return Expected(dict(_gains(question, present, now)), _curve(question, now)) if now else Expected()
    except (HeadraceError, ValueError):
        return Expected()


def _curve(question: _Question, now: Offer) -> Callable[[int], float | None]:
    """Tokens per second of one replica as it is planned, whatever number of requests it lets in."""
    way, intent = now.way, question.intent
    split = way.gpus, way.tensor_parallel
    engine = Engine("vllm", step_tokens=now.memory.batching.max_num_batched_tokens)

    def rate(users: int) -> float | None:
        lengths = intent.prompt, intent.output, users
        speed = estimate(
            question.facts, now.gpu, *split, *lengths, question.known.speed, now.memory.cache_tokens, engine=engine,
            pp=way.pipeline_parallel,
        )  # fmt: skip
        return speed.tokens_per_second.expected

    return rate


def _intent(seen: Observed, about: ModelSpec) -> Intent:
    """The load as it was seen: requests at once in 9 of 10 looks, lengths in the middle."""
    lengths = [(float(one.tokens_in), float(one.tokens_out or 0), one.count) for one in seen.requests if one.tokens_in]
    said = replace(asked(about), users=max(1, ceil(peak(seen))))
    if not lengths:
        return said
    prompt = ranked([(first, count) for first, _, count in lengths], 0.5)
    answer = ranked([(second, count) for _, second, count in lengths], 0.5)
    return replace(said, prompt=max(_LEAST_TOKENS, ceil(prompt)), output=max(_LEAST_TOKENS, ceil(answer)))


def _gains(question: _Question, present: Wanted, now: Offer) -> Iterator[tuple[str, Gain]]:
    more = _best(question, replace(present, replicas="auto"), _MOST_MACHINES)
    if more is not None and more.replicas > now.replicas:
        what = f"{_rate(more)} with {more.replicas} replicas instead of {_rate(now)} with {now.replicas}, by the planner"
        yield "throughput insufficient", Gain(what, f"{question.asked} --for users={question.intent.users}")
    for variant in ("fp8", "awq"):
        fewer = _best(question, replace(present, quantization=variant, replicas=now.replicas), now.replicas)
        if fewer is not None and fewer.memory.cache_tokens > now.memory.cache_tokens:
            cache = f"a cache of {fewer.memory.cache_tokens:,} tokens instead of {now.memory.cache_tokens:,}"
            said = f"with {variant} {cache}, and {_rate(fewer)} instead of {_rate(now)}, by the planner"
            yield "memory binds", Gain(said, f"{question.asked} --explain")
            return


def _best(question: _Question, way: Wanted, machines: int) -> Offer | None:
    found = consider(question.facts, question.machines[0], question.intent, question.known, way, machines)
    return found.offers[0] if found.offers else None


def _rate(offer: Offer) -> str:
    rate = offer.speed.tokens_per_second
    return f"{rate.low:,.0f} to {rate.high:,.0f} tokens/s"
