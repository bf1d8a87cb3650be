"""Metrics pages with labels (Prometheus text), read for one model over all the engines and ranks that serve it."""

from collections.abc import Iterator, Mapping
from typing import Any


class Page:
    """The samples of one model. Asked for a name that the page has not, every question answers None: unknown is not zero.

    `names` are those that will be asked for. Only their lines are read: vLLM's page has 700, and parsing them all holds the
    event loop up for 80 ms. Samples whose `label` names another model are left out; those without that label count.
    Raises ValueError where a line is no sample.
    """

    def __init__(self, text: str, model: str, names: tuple[str, ...], label: str = "model_name") -> None:
        lines = (line for line in text.splitlines() if line.startswith(names))
        self._samples = [each for each in _samples("\n".join(lines)) if each.labels.get(label, model) == model]

    def total(self, *names: str) -> int | None:
        """The sum over engines of a count, under the first of its `names` that is there."""
        values = self._values(names)
        return int(sum(values)) if values else None

    def highest(self, *names: str) -> float | None:
        """The largest of a ratio: a sum of ratios says nothing, and the fullest engine is the one that makes others wait."""
        return max(self._values(names), default=None)

    def labels(self, name: str) -> list[Mapping[str, str]]:
        """The labels of a metric that says what it has to say in them, one for each engine."""
        return [each.labels for each in self._samples if each.name == name]

    def _values(self, names: tuple[str, ...]) -> list[float]:
        found = ([each.value for each in self._samples if each.name == name] for name in names)
        return next((values for values in found if values), [])


def _samples(text: str) -> Iterator[Any]:
    # Imported here: it takes longer than the rest of `headrace --help`.
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text + "\n"):
        yield from family.samples
