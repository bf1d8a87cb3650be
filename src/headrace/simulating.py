"""`headrace simulate`: a trace through policies, on replicas as planned, before anything is paid for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from typing import TypedDict

from headrace.errors import PlanError, UsageError
from headrace.facts import catalogue, request
from headrace.facts.constants import measured
from headrace.facts.hardware import Machine
from headrace.facts.model import ModelFacts
from headrace.facts.probe import machine
from headrace.learned import knowledge
from headrace.plan import intent as intents
from headrace.plan.consider import consider
from headrace.plan.local_speed import Rates as LocalRates
from headrace.plan.offer import Offer, cheapest
from headrace.planning import facts_of
from headrace.prepare import cache_of
from headrace.scaling.base import Policy
from headrace.scaling.names import names, scaler
from headrace.scaling.start import start_seconds
from headrace.simulate import picture, rates, report
from headrace.simulate.clairvoyant import clairvoyant, floor_hours
from headrace.simulate.outcome import Outcome
from headrace.simulate.replica import Rates
from headrace.simulate.run import Setting, first_replicas, run
from headrace.simulate.suggest import Suggestion, suggest
from headrace.simulate.traces import Trace, read, times
from headrace.spec.model import ModelSpec, Spec
from headrace.terminal import Terminal
from headrace.units import asked_duration, parse_range, show_duration

DEFAULT_POLICIES = ("headrace", "keda-rendered", "keda", "kpa", "clairvoyant")
_LIMIT_SECONDS = 2.0
"""Where the file has no `for.ttft`: the time to the first token that facts/planning.md's simulation asks for."""
_TPOT_SECONDS = 0.05
_CPU_SLOTS = 4
_MEETS = 0.99


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for."""

    trace: Path
    policies: tuple[str, ...] = ()
    machine: str | None = None
    cold_start: str | None = None
    replicas: str | None = None
    replica: str = ""
    limit: str | None = None
    times: int = 1
    model: str | None = None
    as_json: bool = False
    plot: Path | None = None
    suggest: bool = False
    offline: bool = False


class Options(TypedDict, total=False):
    """Of a Wish, what makes another answer: as text, as the options of `headrace simulate` with these names."""

    machine: str | None
    cold_start: str | None
    replicas: str | None
    replica: str
    limit: str | None
    times: int
    model: str | None


@dataclass(frozen=True, slots=True)
class _Case:
    """One model to simulate."""

    name: str
    known: rates.Known
    policy: Policy
    setting: Setting
    usd_per_gpu_hour: float | None


def simulate(spec: Spec | None, wish: Wish, terminal: Terminal) -> str:
    """The comparison as text or JSON; a picture beside it where one is asked for. `spec` is None with rates given by hand."""
    case, trace = _asked(spec, wish, terminal)
    if wish.suggest:
        found = suggest(trace, case.setting, case.policy, _MEETS)
        return _suggestion_json(case, found) if wish.as_json else _suggestion(case, trace, found)
    outcomes = [*_outcomes(case, trace, wish, terminal)]
    if wish.plot:
        _draw(wish.plot, case, trace, outcomes)
    return _json(case, trace, outcomes) if wish.as_json else _text(case, trace, outcomes)


def compared(spec: Spec | None, wish: Wish, terminal: Terminal) -> tuple[tuple[Outcome, ...], str]:
    """Each policy's outcome, and the comparison as text. Raises HeadraceError."""
    case, trace = _asked(spec, wish, terminal)
    outcomes = tuple(_outcomes(case, trace, wish, terminal))
    return outcomes, _text(case, trace, outcomes)


def suggested(spec: Spec | None, wish: Wish, terminal: Terminal) -> tuple[Suggestion, str]:
    """The settings that keep the limit at least cost, and that as text. Raises HeadraceError."""
    case, trace = _asked(spec, wish, terminal)
    found = suggest(trace, case.setting, case.policy, _MEETS)
    return found, _suggestion(case, trace, found)


def _asked(spec: Spec | None, wish: Wish, terminal: Terminal) -> tuple[_Case, Trace]:
    _check(wish)
    name, model = _one(spec, wish)
    trace = _trace(wish, name)
    return _case(spec, name, model, trace, wish, terminal), trace


def _check(wish: Wish) -> None:
    """What can be known to be wrong before a trace is read."""
    there = (*names(), "clairvoyant")
    for name in wish.policies:
        if name not in there and not (name.startswith("fixed:") and name[6:].isdigit()):
            raise UsageError(f'--policy: "{name}" is not a policy.', f"There are {', '.join(there)} and fixed:N.")
    if not 1 <= wish.times <= 1000:
        raise UsageError(f"--times: {wish.times} is not from 1 to 1000.")
    if wish.plot and wish.plot.suffix not in (".svg", ".html"):
        raise UsageError(f"--plot: {wish.plot} is neither .svg nor .html.")


def _one(spec: Spec | None, wish: Wish) -> tuple[str, ModelSpec | None]:
    if spec is None:
        return wish.model or "model", None
    ours = {name: model for name, model in spec.models.items() if model.ours}
    if wish.model is not None:
        if wish.model not in spec.models:
            raise UsageError(f"--model: there is no {wish.model}.", f"There are {', '.join(spec.models)}.")
        return wish.model, spec.models[wish.model]
    if len(ours) != 1:
        raise UsageError(f"There are {len(ours)} models that could be simulated.", "Say which: --model NAME.")
    return next(iter(ours.items()))


def _trace(wish: Wish, name: str) -> Trace:
    try:
        with wish.trace.open(encoding="utf-8") as file:
            trace = read(file, str(wish.trace), name if wish.model else None)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--trace: {wish.trace} cannot be read: {why}.") from None
    return times(trace, wish.times) if wish.times > 1 else trace


def _case(spec: Spec | None, name: str, model: ModelSpec | None, trace: Trace, wish: Wish, terminal: Terminal) -> _Case:
    known, cold, usd = _known(spec, name, model, trace, wish, terminal)
    scale = model.scale if model else None
    least, most = _range(wish, model)
    cold = asked_duration("--cold-start", wish.cold_start) if wish.cold_start else cold
    policy = Policy(least, most, known.rates.slots, cold_start_seconds=cold)
    if scale is not None:
        policy = replace(policy, queue=scale.queue, idle_seconds=scale.idle)
    limit = asked_duration("--limit", wish.limit) if wish.limit else (model.for_.ttft if model else None) or _LIMIT_SECONDS
    setting = Setting(
        known.rates,
        cold,
        limit_seconds=limit,
        initial=first_replicas(trace, known.rates, least, most),
    )
    if spec is not None:
        queue = spec.gateway.queue
        setting = replace(setting, queue_limit=queue.limit, wait_seconds=queue.wait)
    return _Case(name, known, policy, setting, usd)


def _known(
    spec: Spec | None, name: str, model: ModelSpec | None, trace: Trace, wish: Wish, terminal: Terminal
) -> tuple[rates.Known, float, float | None]:
    """Rates, the seconds of a cold start, and US dollars for an hour of one GPU where a price is known."""
    if wish.replica:
        try:
            return rates.given(wish.replica), 120.0, None
        except ValueError as error:
            raise UsageError(f"--replica: {error}") from None
    if spec is None or model is None or model.source is None:
        raise UsageError("How fast a replica is must be known.", "Name a model, or say --replica slots=32,prefill=9000,step=9ms.")
    alone = spec.model_copy(update={"models": {name: model}})
    facts = facts_of(alone, ("safetensors", "gguf"), terminal, offline=wish.offline)[name]
    asked = wish.machine or spec.elsewhere
    if asked is None or asked == "auto":
        return *_here(model, facts), None
    return _on_gpus(spec, model, facts, _machines(asked), trace)


def _machines(asked: str) -> tuple[Machine, ...]:
    try:
        return request.machine(asked, catalogue.gpus(), catalogue.every_sku())
    except ValueError as error:
        raise UsageError(f"machine: {error}") from None


def _here(model: ModelSpec, facts: ModelFacts) -> tuple[rates.Known, float]:
    """On this machine, by what was measured of engines on CPUs."""
    table, slots = LocalRates.parse(measured("local")), _CPU_SLOTS if model.slots == "auto" else model.slots
    engine = model.engine_name if model.engine_name in table.engines else "llamacpp"
    known = rates.of_cpu(table.engines[engine], facts, slots, machine().cores)
    return known, start_seconds(facts.weight_bytes, on_gpu=False)


def _on_gpus(
    spec: Spec, model: ModelSpec, facts: ModelFacts, machines: Sequence[Machine], trace: Trace
) -> tuple[rates.Known, float, float | None]:
    """On machines with GPUs: the best offer for the lengths of the trace."""
    asked = intents.asked(model)
    prompt, output = _mean(trace.prompt), _mean(trace.output)
    if model.for_.prompt is None and model.for_.output is None:
        asked = replace(asked, prompt=min(prompt, (asked.context or 2**17) - output), output=output)
    known = knowledge(cache_of(spec).root)
    different = [one for place, one in enumerate(machines) if one not in machines[:place]]
    considered = [consider(facts, one, asked, known, intents.wanted(model), machines.count(one)) for one in different if one.gpus]
    best = cheapest(considered)
    if not best:
        raise PlanError("It fits on none of these machines.", "headrace plan --machine … says by how much.")
    offer = best[0]
    held = min(offer.memory.batching.max_num_seqs, max(1, offer.memory.cache_tokens // (prompt + output)))
    made = rates.of_offer(offer, facts, known.speed, held, prompt + output / 2)
    made = replace(made, rates=replace(made.rates, slots=_carried(made.rates, offer, model, asked)))
    usd, cold = offer.usd_per_hour, start_seconds(facts.weight_bytes, on_gpu=True)
    return made, cold, None if usd is None else usd / (offer.machines * len(offer.machine.gpus))


def _carried(most: Rates, offer: Offer, model: ModelSpec, asked: intents.Intent) -> int:
    """Requests that a replica carries: by `slots`, by `for.users`, or as many as its cache holds within the time per token."""
    if model.slots != "auto":
        return model.slots
    if model.for_.users:
        return max(1, -(-model.for_.users // offer.replicas))
    spare = (asked.tpot or _TPOT_SECONDS) - most.step_seconds
    return max(1, min(most.slots, floor(1 + spare / most.each_seconds) if most.each_seconds else most.slots))


def _mean(values: Sequence[int]) -> int:
    return max(1, round(sum(values) / max(1, len(values))))


def _range(wish: Wish, model: ModelSpec | None) -> tuple[int, int]:
    if wish.replicas:
        try:
            return parse_range(wish.replicas)
        except ValueError as error:
            raise UsageError(f"--replicas: {error}") from None
    if model is None or (model.scale.replicas is None and "replicas" not in model.model_fields_set):
        return 0, 8
    return model.scale.replicas or (model.replicas, model.replicas)


def _outcomes(case: _Case, trace: Trace, wish: Wish, terminal: Terminal) -> list[Outcome]:
    """Each policy's; the clairvoyant one is the cheapest that waits no longer than the first of them."""
    named = wish.policies or DEFAULT_POLICIES
    outcomes: list[Outcome] = []
    for name in named:
        if len(trace) > 200_000:
            terminal.say(f"Simulating {name} …")
        if name == "clairvoyant":
            wait = outcomes[0].wait.p99 if outcomes else 0.0
            outcomes.append(clairvoyant(trace, case.setting, case.policy, wait))
        else:
            outcomes.append(run(trace, case.setting, scaler(name, case.policy)))
    return outcomes


def _suggestion_json(case: _Case, found: Suggestion) -> str:
    asked = {"replicas": f"{found.policy.least}..{found.policy.most}", "queue": found.policy.queue}
    said = {"suggested": asked, "meets": found.meets}
    return json.dumps(said | report.data(found.outcome, case.usd_per_gpu_hour), indent=2)


def _suggestion(case: _Case, trace: Trace, found: Suggestion) -> str:
    limit = show_duration(case.setting.limit_seconds or 0)
    said = f"{found.outcome.met:.2%} of the requests have their first token within {limit}"
    verdict = (
        f"The cheapest of {found.of} settings that keeps 99% within {limit}: {said}."
        if found.meets
        else (f"None of the settings keeps 99% within {limit}: with the best {said}. More replicas or a shorter start would.")
    )
    policy = found.policy
    return "\n".join(
        [
            _head(case, trace),
            "",
            report.table([found.outcome], case.usd_per_gpu_hour),
            "",
            verdict,
            "",
            f"  replicas: {policy.least}..{policy.most}",
            f"  scale: {{queue: {policy.queue}, idle: {show_duration(policy.idle_seconds)}}}",
        ]
    )


def _text(case: _Case, trace: Trace, outcomes: Sequence[Outcome]) -> str:
    parts = [_head(case, trace), "", report.table(outcomes, case.usd_per_gpu_hour), ""]
    if case.known.rates.gpus:
        parts += [f"All replicas always full would take {floor_hours(trace, case.known.rates):.2f} GPU-hours.", ""]
    return "\n".join([*parts, report.over_time(outcomes)])


def _head(case: _Case, trace: Trace) -> str:
    policy, setting = case.policy, case.setting
    rate = len(trace) / max(trace.seconds, 1.0)
    waits = f", for at most {show_duration(setting.wait_seconds)}" if setting.wait_seconds < 1e8 else ""
    return "\n".join(
        [
            f"{case.name}: {case.known}",
            f"{len(trace):,} requests in {show_duration(trace.seconds)}, {rate:.3g} a second, "
            f"{_mean(trace.prompt):,} tokens in and {_mean(trace.output):,} out on average",
            f"{policy.least}..{policy.most} replicas, {setting.initial} at the beginning, a cold start of "
            f"{show_duration(setting.cold_start_seconds)}; {setting.queue_limit:,} requests may wait{waits}",
        ]
    )


def _json(case: _Case, trace: Trace, outcomes: Sequence[Outcome]) -> str:
    return json.dumps(
        {
            "model": case.name,
            "replica": str(case.known),
            "requests": len(trace),
            "floor_gpu_hours": floor_hours(trace, case.known.rates),
            "outcomes": [report.data(outcome, case.usd_per_gpu_hour) for outcome in outcomes],
        },
        indent=2,
    )


def _draw(file: Path, case: _Case, trace: Trace, outcomes: Sequence[Outcome]) -> None:
    title = f"{case.name}: {len(trace):,} requests, cold start {show_duration(case.setting.cold_start_seconds)}"
    text = picture.svg(title, outcomes) if file.suffix == ".svg" else picture.html(title, outcomes, _text(case, trace, outcomes))
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"--plot: {file} cannot be written: {error.strerror}.") from None
