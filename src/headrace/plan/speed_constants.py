"""What was fitted to measurements: how an engine uses a family of GPUs, how well that is known, and what to use instead."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from headrace.errors import PlanError
from headrace.facts.hardware import Gpu
from headrace.plan.roofline import Rates

Confidence = Literal["high", "medium", "low"]

ENOUGH_ROWS = 100
"""Measurements of one card with one engine that earn high confidence."""

_UNMEASURED = 1.25
"""How much wider the range of a pipeline is than that of one stage: by judgement."""

_OTHER_BUILD = re.compile(r"NVL\b|PCIe|vGPU|MIG", re.IGNORECASE)
_FAMILIES = {7.5: "turing", 8.0: "ampere", 8.6: "ampere", 8.9: "ada", 9.0: "hopper", 10.0: "blackwell", 10.3: "blackwell"}
"""By compute capability. The consumer Blackwell (12.x) has other memory and no NVLink: it is a family of its own."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Rates of one engine (in one class of its versions) on one GPU family, from `rows` measurements on `cards` by name.

    `low` and `high` enclose measured/predicted TPOT of 80 % of the rows when their model was left out of the fit; `error_median`
    and `error_p90` are those of |predicted/measured - 1|. `model_count` models were measured.
    """

    engine: str
    versions: str
    family: str
    rows: int
    model_count: int
    cards: Mapping[str, int]
    error_median: float
    error_p90: float
    low: float
    high: float
    rates: Rates


@dataclass(frozen=True, slots=True)
class Choice:
    """The fit that is used for a card, how much to trust it and why. `low` and `high` multiply TPOT and hold 80 % of cases."""

    fit: Fit
    confidence: Confidence
    reason: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SpeedConstants:
    """All fits, the one over all of them (engine "any"), and where they come from."""

    fits: tuple[Fit, ...]
    any: Fit
    source: str

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> "SpeedConstants":
        """The content of plan/constants/speed.yaml. Raises PlanError that names what is wrong."""
        try:
            fits = tuple(_fit(entry) for entry in data["fits"])
            every = next(fit for fit in fits if fit.engine == "any")
            return cls(tuple(fit for fit in fits if fit is not every), every, str(data["source"]))
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as mistake:
            raise PlanError(f"The constants of speed (plan/constants/speed.yaml) are not complete: {mistake!r}.") from mistake

    def choose(self, engine: str, gpu: Gpu, versions: str = "current") -> Choice:
        """The fit for this engine and card, or the closest one with the reason to trust it less."""
        family = family_of(gpu)
        for fit in self.fits:
            if (fit.engine, fit.versions, fit.family) == (engine, versions, family):
                return _known(fit, gpu)
        return _guessed(self._closest(engine, family), engine, gpu)

    def _closest(self, engine: str, family: str) -> Fit:
        """Another engine on the same family wears the card out alike; the average of all is used before another family's."""
        if engine == "llamacpp":
            return self.any
        same = [fit for fit in self.fits if (fit.family, fit.versions) == (family, "current") and fit.engine != "llamacpp"]
        return max(same, key=lambda fit: fit.rows, default=self.any)


def pipelined(choice: Choice) -> Choice:
    """What is left of the confidence in a pipeline: none was measured, its time is computed from that of its stages."""
    reason = f"{choice.reason} No pipeline was measured: its time is added up from its stages, kept busy by micro-batches."
    return replace(choice, confidence="low", reason=reason, low=choice.low / _UNMEASURED, high=choice.high * _UNMEASURED)


def family_of(gpu: Gpu) -> str:
    """The family whose cards behave alike, for a GPU or for a host's CPU given as one."""
    if gpu.compute_capability is not None:
        return _FAMILIES.get(round(gpu.compute_capability, 1), f"compute capability {gpu.compute_capability}")
    name = gpu.name.lower()
    if re.match(r"(amd |instinct )*mi\d", name):
        return "cdna"
    if "910b" in name:
        return "ascend"
    return "cpu" if gpu.link_kind in ("", "none", "memory") or "cpu" in name else name


def _known(fit: Fit, gpu: Gpu) -> Choice:
    rows = next((count for card, count in fit.cards.items() if _is(gpu.name, card)), 0)
    backing = f"{fit.engine} on {gpu.name}: {rows} measurements, {fit.rows} of {fit.model_count} models on {fit.family}"
    enough = rows >= ENOUGH_ROWS and fit.model_count >= 3
    confidence: Confidence = "high" if enough else "medium" if fit.rows >= ENOUGH_ROWS / 2 and rows else "low"
    wider = {"high": 1.0, "medium": 1.2, "low": 1.5}[confidence]
    return Choice(
        fit, confidence, f"{backing}; models left out were off by {fit.error_median:.0%} (median).", *_widened(fit, wider)
    )


def _guessed(fit: Fit, engine: str, gpu: Gpu) -> Choice:
    backing = "the average of all engines and cards" if fit.engine == "any" else f"{fit.engine} on {fit.family}"
    return Choice(fit, "low", f"No measurements of {engine} on {gpu.name}: constants of {backing}.", *_widened(fit, 1.5))


def _widened(fit: Fit, by: float) -> tuple[float, float]:
    return min(1.0, fit.low) / by, max(1.0, fit.high) * by


def _is(name: str, card: str) -> bool:
    """Whether a catalogue's name ("A100-80GB", "NVIDIA H100 SXM") is of the card ("A100"). All measured ones are SXM cards."""
    return (
        not _OTHER_BUILD.search(name)
        and re.search(rf"(?<![A-Za-z0-9]){re.escape(card)}(?![A-Za-z0-9])", name, re.IGNORECASE) is not None
    )


def _fit(entry: Mapping[str, Any]) -> Fit:

    rates = Rates(**{field.name: float(entry["rates"][field.name]) for field in fields(Rates)})
    cards: Mapping[str, int] = {str(card): int(rows) for card, rows in entry["cards"].items()}
    return Fit(
        engine=str(entry["engine"]),
        versions=str(entry["versions"]),
        family=str(entry["family"]),
        rows=int(entry["rows"]),
        model_count=int(entry["models"]),
        cards=cards,
        error_median=float(entry["error_median"]),
        error_p90=float(entry["error_p90"]),
        low=float(entry["low"]),
        high=float(entry["high"]),
        rates=rates,
    )
