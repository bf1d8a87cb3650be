"""Which changes a page is sent now: within a budget of bytes, states before numbers, so that a page left open costs little."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from headrace.dashboard.rows import Row

BYTES_PER_SECOND = 1100.0
"""What a page may be sent in the long run: 4 MB an hour."""
BURST_BYTES = 48_000.0
"""What may be saved up meanwhile: a page that was quiet shows a burst of load at once."""
FIRST = ("phase", "reason", "replicas", "state", "wish", "failed")
"""Cells that are sent whatever the budget says: they change with replicas, not with requests."""

_GONE = {"phase": "gone", "replicas": "0"}
"""Of a model that is served no more: the page fetches anew what the server draws, without it."""

Cells = dict[str, str]
Shown = dict[str, Cells]
"""What a page shows: cells by row. A replica's row is called by the model's name, a tab and its own."""


@dataclass(slots=True)
class Budget:
    """Bytes that may be sent: a bucket that fills with time. `at` is monotonic seconds."""

    at: float
    left: float = BURST_BYTES

    def fill(self, now: float) -> None:
        """Time passed."""
        self.left = min(BURST_BYTES, self.left + BYTES_PER_SECOND * max(0.0, now - self.at))
        self.at = now


def shown(rows: Sequence[Row], all_models: Cells, model: str | None = None) -> Shown:
    """What a page should show: every model and, as the row without a name, all of them; or one model with its replicas."""
    if model is None:
        return {"": all_models} | {one.name: dict(one.cells) for one in rows}
    found: Shown = {}
    for one in rows:
        if one.name == model:
            found[one.name] = dict(one.cells)
            found |= {f"{one.name}\t{name}": dict(cells) for name, cells in one.replicas.items()}
    return found


def due(before: Shown, after: Shown, budget: Budget) -> Shown:
    """The changes to send now. `before` learns of them, so that what waits for want of budget is found again later.

    What changed in state is always due. Rows take turns: those that were sent go to the end of `before`.
    """
    found: Shown = {}
    for name in [name for name in before if name not in after]:
        del before[name]
        if "\t" not in name:
            found[name] = dict(_GONE)
    for name in [*(name for name in after if name not in before), *before]:
        had = before.get(name, {})
        new = {cell: text for cell, text in after[name].items() if had.get(cell) != text}
        chosen = new if budget.left > 0 else {cell: text for cell, text in new.items() if cell in FIRST}
        if chosen:
            found[name] = chosen
            budget.left -= size(name, chosen)
            before[name] = before.pop(name, {}) | chosen
    return found


def size(name: str, cells: Mapping[str, str]) -> int:
    """Bytes of one row in a message, about."""
    return len(msgspec.json.encode({name: cells})) + 2
