"""A model on machines with GPUs: every way to run it with vLLM, what each gives, and why the others lose.

Ways differ in quantization, tensor and pipeline parallelism, and number of replicas. One that does not fit for sure is rejected
with its shortfall; of those that fit, the one that meets the intent with the least quality lost, then with the fewest GPUs is
offered. Pipelines are looked at where tensor parallelism alone does not meet the intent, or where GPUs have no direct link.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.plan import ways
from headrace.plan.base import Decision
from headrace.plan.batching import Closed, Limits, Outcome, Request, simulate
from headrace.plan.embedding import embedding_speed, embedding_times
from headrace.plan.intent import Intent, Wanted
from headrace.plan.offer import Considered, Knowledge, Offer, Pool, Rejected
from headrace.plan.speed import Engine, Speed, estimate, fill_seconds, step_times
from headrace.plan.vllm.memory import VllmMemory, vllm_memory
from headrace.plan.vllm.weights import refuse_parallel
from headrace.plan.ways import AS_THEY_ARE, VARIANTS, Variant, Way

_LEAST_SEQUENCES = 16
_SIMULATED = 6  # requests per user in the simulation: enough for the queue to settle
_MOST_SIMULATED = 3000


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, the same for all ways."""

    facts: ModelFacts
    pool: Pool
    intent: Intent
    knowledge: Knowledge
    wanted: Wanted
    version: str


_OPEN = Wanted()


def consider(
    facts: ModelFacts, machine: Machine, intent: Intent, knowledge: Knowledge, wanted: Wanted = _OPEN, machines: int = 1
) -> Considered:
    """Every way to run the model on up to `machines` of `machine` that `wanted` leaves open; for those that cannot be, why."""
    pool = Pool(machine, machines)
    if reason := _impossible(facts, machine, intent, wanted):
        return Considered(pool, (), (reason,))
    if not machine.gpus:
        return Considered(pool, (), ())
    question = _Question(facts, pool, intent, knowledge, wanted, knowledge.version_on(pool.gpu))
    made: list[Offer | Rejected] = []
    for variant in ways.variants(facts, machine, wanted):
        tried = [_on(question, way) for way in ways.plain(facts, variant, machine, wanted)]
        made += [*tried, *_pipelines(question, variant, tried)]
    offers = sorted((one for one in made if isinstance(one, Offer)), key=_rank)
    return Considered(pool, tuple(offers), tuple(one for one in made if isinstance(one, Rejected)))


def _impossible(facts: ModelFacts, machine: Machine, intent: Intent, wanted: Wanted) -> Rejected | None:
    """Why no way can be, whatever the split."""
    if reason := ways.impossible(facts, machine, wanted):
        return Rejected("as asked for", reason)
    asked = max(_context(facts, intent), intent.prompt if facts.encoder else 0)
    if machine.gpus and facts.context is not None and asked > facts.context:
        return Rejected("as asked for", f"the model was made for {facts.context:,} tokens, {asked:,} are asked for")
    return None


def _rank(offer: Offer) -> tuple[object, ...]:
    return (offer.miss, VARIANTS.index(offer.quantization), offer.gpus, offer.way.gpus, offer.speed.tpot_seconds.expected)


def _pipelines(question: _Question, variant: Variant, tried: Sequence[Offer | Rejected]) -> Iterator[Offer | Rejected]:
    """The pipelines that may do better than what was `tried`, which is tensor parallelism alone."""
    offers = sorted((one for one in tried if isinstance(one, Offer)), key=_rank)
    if offers and _suffices(question, offers):
        return
    why = _alone(question, offers[0] if offers else None, [one for one in tried if isinstance(one, Rejected)])
    for stages in ways.pipelines(question.facts, variant, question.pool.machine, question.wanted):
        yield from _staged(question, stages, why)


def _suffices(question: _Question, offers: Sequence[Offer]) -> bool:
    """Whether stages could not help: they add cache, and spare all-reduces where links are slow, and shorten no step."""
    if ways.direct(question.pool.gpu):
        return any(_held(question.intent, offer.replicas, offer.memory) >= question.intent.users for offer in offers)
    return any(offer.way.gpus == 1 and not offer.problems for offer in offers)


def _staged(question: _Question, stages: Sequence[Way], why: str) -> Iterator[Offer | Rejected]:
    """From few stages to many, until one meets the intent; if none fits, why the most do not."""
    fits, last = False, None
    for way in stages:
        last = _on(question, way)
        if isinstance(last, Offer):
            fits = True
            yield replace(last, decisions=(Decision("split", way.split, why), *last.decisions))
            if not last.problems:
                return
    if isinstance(last, Rejected) and not fits:
        yield last


def _alone(question: _Question, best: Offer | None, rejected: Sequence[Rejected]) -> str:
    """Why tensor parallelism alone is not enough: what its best offer misses, or what the widest lacks and why none is wider."""
    gpu, count = question.pool.gpu, len(question.pool.machine.gpus)
    if best is None:
        widest = min(rejected, key=lambda one: one.shortfall_bytes or 2**63)
        lacks = f"{widest.shortfall_bytes / 2**30:.1f} GiB short" if widest.shortfall_bytes else widest.reason
        cut = refuse_parallel(question.facts, count, 1)
        return f"{widest.way} without a pipeline: {lacks}" + (f"; {cut}" if cut else "")
    token = f"{best.speed.tpot_seconds.expected * 1000:.1f} ms per token"
    if best.problems:
        return f"{best.way.on(gpu)} without a pipeline misses it: {best.problems[0]}"
    return f"{gpu.name} has no NVLink, over which all layers would be added up: {best.way.on(gpu)} takes {token}"


def _on(question: _Question, way: Way) -> Offer | Rejected:
    pool, facts = question.pool, question.facts
    name = way.on(pool.gpu)
    if facts.encoder and way.gpus > 1:
        return Rejected(name, "an encoder is small: more GPUs are for more replicas")
    if reason := ways.no_engine(pool.gpu, way) or refuse_parallel(facts, way.tensor_parallel, way.pipeline_parallel):
        return Rejected(name, reason)
    made, fallback = _with(facts, way.variant), None
    for replicas in _counts(question, way):
        memory = _memory(question, made, way, replicas)
        if not memory.fits:
            return fallback or Rejected(name, str(memory), memory.shortfall_bytes, memory)
        if replicas > pool.room(way):
            return Rejected(name, _too_many(pool, way, replicas))
        fallback = _offer(question, made, way, replicas, memory)
        if not fallback.problems:
            break
    assert fallback
    return fallback


def _counts(question: _Question, way: Way) -> Iterator[int]:
    """Numbers of replicas to look at: the one asked for, or all that have a user; above 16 in steps of an eighth."""
    if question.wanted.replicas != "auto":
        yield question.wanted.replicas
        return
    count, most = 1, max(1, min(question.pool.room(way), question.intent.users))
    while count < most:
        yield count
        count += max(1, count // 8)
    yield most


def _too_many(pool: Pool, way: Way, replicas: int) -> str:
    each = f"{way.gpus} {'GPU' if way.gpus == 1 else 'GPUs'}"
    here = "1 machine has" if pool.count == 1 else f"{pool.count} machines have"
    return f"{replicas} replicas of {each} each, and {here} room for {pool.room(way)}"


def _with(facts: ModelFacts, variant: Variant) -> ModelFacts:
    if variant is AS_THEY_ARE:
        return facts
    return replace(facts, weight_bytes=round(facts.weight_bytes * variant.share), quantization=variant.name)


def _context(facts: ModelFacts, intent: Intent) -> int:
    """Tokens per request: as asked, else what prompt and answer take, and as much again for longer ones, within the limit."""
    if intent.context is not None:
        return intent.context
    wanted = 1 << (2 * (intent.prompt + intent.output) - 1).bit_length()
    return min(wanted, facts.context or wanted)


def _memory(question: _Question, facts: ModelFacts, way: Way, replicas: int) -> VllmMemory:
    """With places for the users of one replica: places that nobody takes would cost memory (the sampler's dummy run)."""
    gpu, intent = question.pool.gpu, question.intent
    share = -(-intent.users // replicas)
    places = max(_LEAST_SEQUENCES, 1 << (share - 1).bit_length())
    context, tokens = _context(facts, intent), 8192 if gpu.memory_bytes >= 70 * 2**30 else 2048
    return vllm_memory(
        facts,
        gpu.memory_bytes,
        way.tensor_parallel,
        way.pipeline_parallel,
        context,
        version=question.version,
        constants=question.knowledge.memory,
        max_num_seqs=min(places, 1024),
        max_num_batched_tokens=max(tokens, context) if facts.encoder else tokens,  # an encoder reads no text in pieces
        card=gpu.name,
    )


def _offer(question: _Question, facts: ModelFacts, way: Way, replicas: int, memory: VllmMemory) -> Offer:
    if facts.encoder:
        return _embedding(question, facts, way, replicas, memory)
    intent = question.intent
    speed = estimate(
        facts,
        question.pool.gpu,
        way.gpus * replicas,
        way.tensor_parallel,
        intent.prompt,
        intent.output,
        intent.users,
        question.knowledge.speed,
        memory.cache_tokens,
        engine=Engine("vllm", requests=memory.batching.max_num_seqs, step_tokens=memory.batching.max_num_batched_tokens),
        pp=way.pipeline_parallel,
    )
    ttft = _simulated(question, facts, way, memory, max(1, -(-intent.users // replicas)))
    misses = dict(_misses(intent, speed, ttft, _held(intent, replicas, memory)))
    return _made(question, way, replicas, memory, speed, ttft, misses)


def _embedding(question: _Question, facts: ModelFacts, way: Way, replicas: int, memory: VllmMemory) -> Offer:
    """An encoder's: nothing decodes, and nothing is kept between steps. Its answer is there with the first step it is in."""
    intent, gpu, batching = question.intent, question.pool.gpu, memory.batching
    users, known = -(-intent.users // replicas), question.knowledge.speed
    speed = embedding_speed(facts, gpu, replicas, intent.prompt, intent.users, batching.max_num_batched_tokens, known)
    seconds = embedding_times(facts, gpu, intent.prompt, known.choose("vllm", gpu).fit.rates)
    requests = [Request(intent.prompt, 1)] * min(_MOST_SIMULATED, max(users * _SIMULATED, 50))
    limits = Limits(batching.max_num_seqs, batching.max_num_batched_tokens)
    answered = simulate(requests, Closed(users), limits, seconds, lambda: 0.5)
    misses = dict(_misses(replace(intent, tpot=None), speed, answered, intent.users, "embedding"))
    return replace(_made(question, way, replicas, memory, speed, answered, misses), embeds=True)


def _made(
    question: _Question,
    way: Way,
    replicas: int,
    memory: VllmMemory,
    speed: Speed,
    ttft: Outcome,
    misses: Mapping[str, float],
) -> Offer:
    miss, why = max(misses.values(), default=1.0), _replicas(question, replicas, bool(misses))
    return Offer(question.pool, way, replicas, memory, speed, ttft, tuple(misses), miss, question.version, why)


def _replicas(question: _Question, replicas: int, misses: bool) -> tuple[Decision, ...]:
    """A word on their number where it was asked for, or where there are several."""
    asked, users = question.wanted.replicas != "auto", question.intent.users
    if not asked and replicas == 1:
        return ()
    why = "as asked for" if asked else "the most that have room or users" if misses else "the fewest that meet it"
    return (Decision("replicas", str(replicas), f"{why}: {-(-users // replicas)} of {users} users each"),)


def _held(intent: Intent, replicas: int, memory: VllmMemory) -> int:
    """Requests of the intended lengths that all caches hold together."""
    return replicas * memory.cache_tokens // (intent.prompt + intent.output)


def _misses(intent: Intent, speed: Speed, ttft: Outcome, held: int, first: str = "first token") -> Iterator[tuple[str, float]]:
    """What of the intent is missed, with both numbers, and how far it is missed."""
    if intent.tpot is not None and speed.tpot_seconds.expected > intent.tpot:
        said = f"{_ms(speed.tpot_seconds.expected)} ms per token, {_ms(intent.tpot)} asked for"
        yield said, speed.tpot_seconds.expected / intent.tpot
    if intent.ttft is not None and ttft.ttft.p90 > intent.ttft:
        said = f"{_ms(ttft.ttft.p90)} ms to the {first} (p90), {_ms(intent.ttft)} asked for"
        yield said, ttft.ttft.p90 / intent.ttft
    if held < intent.users:
        yield f"the cache holds {held} of {intent.users} users at once, the others wait", intent.users / max(held, 0.5)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}" if seconds >= 0.1 else f"{seconds * 1000:.1f}".removesuffix(".0")


def _simulated(question: _Question, facts: ModelFacts, way: Way, memory: VllmMemory, users: int) -> Outcome:
    """One replica with its share of the users, each of whom asks again as soon as it is answered: the time to first token."""
    batching, intent, gpu = memory.batching, question.intent, question.pool.gpu
    tp, pp, bits = way.tensor_parallel, way.pipeline_parallel, facts.weight_bytes * 8 / facts.parameters
    rates = question.knowledge.speed.choose("vllm", gpu).fit.rates
    seconds = step_times(facts, gpu, tp, bits, 16, rates, pp)
    fill = fill_seconds(facts, gpu, tp, pp, min(intent.prompt, batching.max_num_batched_tokens), bits, rates)
    limits = Limits(batching.max_num_seqs, batching.max_num_batched_tokens, memory.cache_tokens)
    requests = [Request(intent.prompt, intent.output)] * min(_MOST_SIMULATED, max(users * _SIMULATED, 50))
    return simulate(requests, Closed(users), limits, seconds, lambda: 0.5, fill)
