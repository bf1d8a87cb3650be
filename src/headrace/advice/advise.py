"""`headrace advise`: of a gateway here by its history, or of engines anywhere by Prometheus; put to the signals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.advice.base import Kaito, Observed, Signal, peak
from headrace.advice.commands import IMPORTED, importing
from headrace.advice.gains import expected
from headrace.advice.history import begun, observed
from headrace.advice.known import Known, Setup, argument
from headrace.advice.prometheus import Prometheus
from headrace.advice.series import Page, Told, told
from headrace.advice.signals import signals
from headrace.control.recording import in_cache
from headrace.errors import HeadraceError, ModelError, UsageError, WeightsError
from headrace.facts.model import ModelFacts
from headrace.planning import facts_of, without
from headrace.prepare import history_of
from headrace.spec.load import load
from headrace.spec.model import Spec
from headrace.terminal import Terminal
from headrace.weights.cache import default_root
from headrace.weights.source import parse

Advice = Mapping[str, Sequence[Signal]]
_IDLE = 0.25
LEAST_WINDOW_SECONDS, MOST_WINDOW_SECONDS = 600.0, 86_400.0
"""The window that nobody named: as long as there are looks, between these."""


@dataclass(frozen=True, slots=True)
class Here:
    """A gateway on this machine: its status, its recording where another than its own is meant, and its address as an option of
    a command ("" for the usual one).
    """

    status: Mapping[str, Any]
    recording: Path | None = None
    at: str = ""

    @property
    def history(self) -> Path:
        """What it records into, as its file says."""
        spec, _ = _served(self.status)
        return self.recording or (history_of(spec) if spec else in_cache(default_root()))


def window(gateway: Here, until: float) -> float:
    """When the window begins that nobody named, in seconds since 1970. Raises HeadraceError."""
    first = begun(gateway.status, gateway.history, until - MOST_WINDOW_SECONDS)
    return min(first, until - LEAST_WINDOW_SECONDS)


def here(gateway: Here, model: str | None, since: float, until: float) -> Advice:
    """The signals on each model of a gateway on this machine, or on one. Raises HeadraceError."""
    found = observed(gateway.status, gateway.history, model, since, until)
    spec, file = _served(gateway.status)
    said = {one.model: replace(one, file=file, at=gateway.at, **_decided(spec, one.model)) for one in found}
    return {model: signals(seen) for model, seen in said.items()}


def _served(status: Mapping[str, Any]) -> tuple[Spec | None, str]:
    """What the served file says, and how a command names it; None and "" for none, or one that cannot be read any more."""
    file = Path(str(status.get("served") or ""))
    if file.suffix not in (".yaml", ".yml") or not file.is_file():
        return None, ""
    try:
        return load(file, parse), argument(str(file))
    except HeadraceError:
        return None, argument(str(file))


def _decided(spec: Spec | None, model: str) -> dict[str, Any]:
    """What the file decides about a model, and does not leave to the lock."""
    about = spec.models.get(model) if spec else None
    if about is None:
        return {}
    decided = {"engine": about.engine_name, "context": about.context, "slots": about.slots}
    return {"fixed": frozenset(key for key, value in decided.items() if value != "auto"), "swaps": about.share == "swap"}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a Prometheus: one model or all, from `since` until `until` (seconds since 1970)."""

    model: str | None
    since: float
    until: float
    offline: bool = True
    """Models that are not in the cache or the catalogue are not looked up: the planner then expects nothing."""


def elsewhere(server: Prometheus, setup: Setup | None, question: Question, terminal: Terminal) -> Advice:
    """The signals on each model that a Prometheus tells of; `setup` is what is known of it besides. Raises HeadraceError."""
    page = server.page(question.since, question.until)
    found = [_seen(page, known, setup, question) for known in setup.models] if setup else []
    if not found:
        found = [_alone(page, name, question) for name in sorted(page.models())]
    if setup is None or setup.file is None:
        found = [_importing(one, server.namespace) for one in found]
    chosen = [one for one in found if question.model in (None, one.model)]
    if not chosen:
        raise _nothing(server, question, found)
    idle = _idle(found) if len(found) > 1 else None
    return {one.model: signals(_expecting(replace(one, idle=idle), setup, question, terminal)) for one in chosen}


def _importing(seen: Observed, namespace: str | None) -> Observed:
    """Of a set-up without a file: commands make one first."""
    return replace(seen, file=IMPORTED, importing=importing(namespace, kaito=seen.kaito is not None))


def _nothing(server: Prometheus, question: Question, found: Sequence[Observed]) -> HeadraceError:
    if found:
        return UsageError(f'There is no model "{question.model}".', f"There are: {', '.join(one.model for one in found)}.")
    where = f" of the namespace {server.namespace}" if server.namespace else ""
    return HeadraceError(
        f"{server.url} has no series of an engine or a gateway{where} in this window.",
        "Are they scraped (headrace render writes PodMonitors)? Engines without a label of their model need FILE or --cluster.",
    )


def _seen(page: Page, known: Known, setup: Setup | None, question: Question) -> Observed:
    said = told(page, known.model, known.workload, known.served)
    kaito = Kaito(known.about.source or known.model, known.preset, setup.kaito_version if setup else "") if known.kaito else None
    return replace(
        _observed(known.model, said, question, len(setup.models) if setup else 1),
        engine=said.engine or known.engine,
        slots=known.slots or said.slots,
        most=known.most,
        context=known.about.context_asked,
        sleeps=known.sleeps,
        swaps=known.about.share == "swap",
        addresses=1 if said.gateway or setup is None or setup.addresses is None else setup.addresses,
        kaito=kaito,
        file=(setup.file if setup else None) or "",
    )


def _alone(page: Page, model: str, question: Question) -> Observed:
    """A model of which only series tell."""
    said, names = told(page, model), page.models()
    behind = any(told(page, name).gateway for name in names)
    seen = _observed(model, said, question, len(names))
    sleeps = any(one.ready == 0 for one in said.samples)
    return replace(seen, sleeps=sleeps, addresses=1 if behind else len(names))


def _observed(model: str, said: Told, question: Question, models: int) -> Observed:
    return Observed(
        model=model,
        engine=said.engine,
        since=question.since,
        until=question.until,
        slots=said.slots,
        most=said.most,
        models=models,
        here=False,
        requests=said.requests,
        samples=said.samples,
        short_of_memory=said.short_of_memory,
        prefixes=said.prefixes,
    )


def _idle(found: Sequence[Observed]) -> int | None:
    """Models that leave three quarters of their slots free in 9 of 10 looks; None where slots are not known."""
    known = [one for one in found if one.slots is not None and one.samples]
    return sum(peak(one) <= _IDLE * (one.slots or 1) for one in known) if known else None


def _expecting(seen: Observed, setup: Setup | None, question: Question, terminal: Terminal) -> Observed:
    known = next((one for one in setup.models if one.model == seen.model), None) if setup else None
    if known is None:
        return seen
    planned = expected(seen, known.spec, known.about, _facts(known, question, terminal))
    return replace(seen, gains=planned.gains, rates={seen.engine: planned.curve} if planned.curve else {})


def _facts(known: Known, question: Question, terminal: Terminal) -> ModelFacts | None:
    only = without(known.spec, set(known.spec.models) - {known.model})
    try:
        return facts_of(only, ("safetensors", "gguf"), terminal, offline=question.offline).get(known.model)
    except (WeightsError, ModelError):
        return None
