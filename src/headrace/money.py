"""Money: what a model's tokens cost, and amounts with their currency. Amounts are whole billionths, so that sums are exact."""

import re
from dataclasses import dataclass
from typing import NamedTuple

BILLION = 10**9
MILLION = 10**6
LARGEST = 10**6
"""Of a budget, in its currency: sums stay below what a double holds exactly."""
CURRENCY_PATTERN = r"[A-Z]{3}"
_MONEY = re.compile(rf"([0-9]{{1,7}}(?:\.[0-9]{{1,9}})?)\s*({CURRENCY_PATTERN})")


@dataclass(frozen=True, slots=True)
class Money:
    """An amount, in billionths of its currency."""

    billionths: int
    currency: str

    def __str__(self) -> str:
        return f"{shown(self.billionths)} {self.currency}"


class Price(NamedTuple):
    """What tokens of a model cost, per million of them: of prompts, of answers, of prompts that the engine had cached."""

    input: float
    output: float
    cached: float

    def of(self, tokens_in: int, tokens_out: int, cached: int = 0) -> int:
        """What so many cost, in billionths; `cached` are among `tokens_in`."""
        cached = min(cached, tokens_in)
        per_million = (tokens_in - cached) * self.input + cached * self.cached + tokens_out * self.output
        return round(per_million * (BILLION // MILLION))


def parse_money(text: str) -> Money:
    """`50 USD`, `0.5 EUR` → Money. Raises ValueError."""
    match = _MONEY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text[:40]}" is no amount of money; write 50 USD or 0.50 EUR')
    whole, _, part = match[1].partition(".")
    billionths = int(whole) * BILLION + int(part.ljust(9, "0"))
    if not 0 < billionths <= LARGEST * BILLION:
        raise ValueError(f'"{text[:40]}" must be above 0, and {LARGEST:,} at most')
    return Money(billionths, match[2])


def shown(billionths: int) -> str:
    """An amount for people: two decimals, more where they would say nothing (0.000123)."""
    amount = billionths / BILLION
    return f"{amount:,.2f}" if billionths == 0 or abs(amount) >= 0.1 else f"{amount:.3g}" if amount >= 1e-4 else f"{amount:.9f}"
