"""An answer in a notebook: the value that the command works with, as a table, a data frame, a picture."""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headrace.errors import HeadraceError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

_INSTALL = 'pip install "headrace[notebook]"'
_MOST_ROWS = 50
_LONGEST_CELL = 200
T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Result(Generic[T]):
    """`value` is what the command of the same name works with, and `text` what it prints. `rows` are the same as a table:
    durations in seconds, sizes in bytes, None for what is unknown.
    """

    value: T
    text: str
    rows: tuple[dict[str, Any], ...]
    draw: "Callable[[Axes], None] | None" = field(default=None, compare=False)
    """Puts it on axes of matplotlib; None where there is nothing to draw."""

    def frame(self) -> "DataFrame":
        """The rows as a data frame; `at` is a time in UTC. Raises HeadraceError without pandas."""
        try:
            import pandas
        except ImportError:
            raise HeadraceError("A data frame needs pandas, which is not installed.", _INSTALL) from None
        frame = pandas.DataFrame(list(self.rows))
        if "at" in frame:
            frame["at"] = pandas.to_datetime(frame["at"], unit="s", utc=True)
        return frame

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw it, on `axes` or on new ones, which are returned. Raises HeadraceError without matplotlib or anything to draw."""
        if self.draw is None:
            raise HeadraceError("There is nothing to draw in this.", "Its rows are in .frame().")
        try:
            from matplotlib import pyplot
        except ImportError:
            raise HeadraceError("A plot needs matplotlib, which is not installed.", _INSTALL) from None
        on = pyplot.subplots()[1] if axes is None else axes
        self.draw(on)
        return on

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What Jupyter shows: the table, and what the command prints to be opened."""
        return f"{_table(self.rows)}<details><summary>As text</summary><pre>{escape(self.text)}</pre></details>"


def _table(rows: tuple[dict[str, Any], ...]) -> str:
    if not rows:
        return "<p>Nothing.</p>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(row.get(name)))}</td>' for name in rows[0])}</tr>" for row in rows[:_MOST_ROWS]
    )
    more = f"<p>and {len(rows) - _MOST_ROWS:,} more rows</p>" if len(rows) > _MOST_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    said = f"{value:,.4g}" if isinstance(value, float) else str(value)
    return said if len(said) <= _LONGEST_CELL else said[: _LONGEST_CELL - 1] + "…"
