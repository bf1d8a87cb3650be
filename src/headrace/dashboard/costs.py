"""What the machine costs, and each model's part of it by the memory that it takes; nothing where no price is known."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.dashboard.bars import taken
from headrace.targets.base import Replica


@dataclass(frozen=True, slots=True)
class Cost:
    """Texts: per hour, what that is a part of (empty: the whole machine), and per million tokens of answers, as measured."""

    hour: str
    part: str
    million: str


def cost(usd_per_hour: float, replicas: Sequence[Replica], model: str | None, tokens: int, seconds: float) -> Cost:
    """Of the whole machine, or of one model; `tokens` are those of answers in the last `seconds`, idle ones among them."""
    by_model = taken(replicas)
    share = 1.0 if model is None else by_model.get(model, 0) / max(1, sum(by_model.values()))
    hour = usd_per_hour * share
    measured = "no tokens in the last hour"
    if tokens and hour:
        million = hour * seconds / 3600 / tokens * 1e6
        measured = f"${_digits(million)} per million tokens out in the last {max(1, round(seconds / 60))} min"
    part = f"{share:.0%} of what the machine costs, by memory" if share else "for it takes no memory now"
    return Cost(f"${_digits(hour)}", "" if model is None else part, measured)


def _digits(usd: float) -> str:
    if usd >= 100:
        return f"{usd:,.0f}"
    return f"{usd:,.2f}" if usd >= 0.1 or not usd else f"{usd:.4f}"
