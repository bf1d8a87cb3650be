"""Prices for the memory and the compute of each kind of device, at which demands pay as much as can be: the dual of packing.

Gradient ascent with Adam's steps (Kingma and Ba, 2015) on a smoothed value, in which a demand is spread over kinds that cost it
nearly the same: without, prices swing between them. Only +, -, *, / and square roots of floats in a fixed order, which every
machine computes alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDS = 160
_STEP = 0.06
_SPREAD = 0.3
"""How much dearer a kind may be, as a part of the cheapest, and still get some of a demand; shrinks to nothing."""

_EDGE = 0.04
"""The width around 1 in which a device's price counts as partly above it."""

Part = tuple[int, float, float]
"""(kind, part of its memory, part of its compute)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Demands that are alike: `count` devices in all, and for every kind they may go to what each takes of one."""

    count: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Prices:
    """By kind: what a whole device's memory costs, and its compute."""

    memory: tuple[float, ...]
    compute: tuple[float, ...]

    @classmethod
    def flat(cls, both: Sequence[float]) -> "Prices":
        """From memory's prices followed by compute's."""
        return cls(tuple(both[: len(both) // 2]), tuple(both[len(both) // 2 :]))


def best_prices(asked: Sequence[Asked], supply: Sequence[int], enough: float) -> Prices:
    """Prices near the best; `enough` is a number of devices known to suffice, at which there is nothing more to find."""
    size = 2 * len(supply)
    prices, mean, square = [0.5] * size, [0.0] * size, [0.0] * size
    best, found = 0.0, list(prices)
    for i in range(_ROUNDS):
        left = 1 - i / _ROUNDS
        value, slopes = _slopes(asked, supply, prices, _SPREAD * left + 1e-6)
        if value > best:
            best, found = value, list(prices)
        if best > enough - 1:
            break
        for j, slope in enumerate(slopes):
            mean[j] = 0.9 * mean[j] + 0.1 * slope
            square[j] = 0.99 * square[j] + 0.01 * slope * slope
            prices[j] = max(0.0, prices[j] + (_STEP * left + 1e-4) * mean[j] / math.sqrt(square[j] + 1e-9))
    return Prices.flat(found)


def _slopes(asked: Sequence[Asked], supply: Sequence[int], prices: Sequence[float], spread: float) -> tuple[float, list[float]]:
    """The value at `prices`, and how the smoothed value rises with each."""
    kinds = len(supply)
    value, slopes = 0.0, [0.0] * (2 * kinds)
    for k, count in enumerate(supply):
        over = prices[k] + prices[kinds + k] - 1
        value -= count * max(0.0, over)
        slopes[k] = slopes[kinds + k] = -count * min(1.0, max(0.0, over / _EDGE + 0.5))
    for each in asked:
        value += each.count * _spread(each, prices, spread, slopes)
    return value, slopes


def _spread(each: Asked, prices: Sequence[float], spread: float, slopes: list[float]) -> float:
    """What a demand pays at least; adds what it takes of each kind to `slopes`."""
    kinds = len(slopes) // 2
    costs = [prices[k] * m + prices[kinds + k] * c for k, m, c in each.parts]
    least = min(costs)
    width = spread * (least + 1e-3)
    weights = [max(0.0, 1 - (cost - least) / width) ** 2 for cost in costs]
    share = each.count / sum(weights)
    for (k, m, c), weight in zip(each.parts, weights, strict=True):
        if weight:
            slopes[k] += share * weight * m
            slopes[kinds + k] += share * weight * c
    return least
