"""config.json, read setting by setting: a number, a list, a part, or a ModelError that names the key."""

from collections.abc import Mapping
from typing import Any

from headrace.errors import ModelError

_MOST = 2**40
"""No size of a model comes near; greater ones are damage that would only overflow further on."""
_MOST_LISTED = 100_000


class Settings:
    """The settings of one level of a config.json. Names in a call are alternatives, the first that is there counts."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def find(self, *names: str) -> int | None:
        """A number above 0, or None when no name is there."""
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
                raise ModelError(f'config.json: "{name}" is {_shown(value)}, and a number above 0 is needed.')
            return value
        return None

    def need(self, *names: str) -> int:
        value = self.find(*names)
        if value is None:
            raise ModelError(f'config.json does not say "{names[0]}".')
        return value

    def count(self, *names: str) -> int:
        """A number, or 0 when no name is there or it says 0."""
        for name in names:
            value = self._values.get(name)
            if value is not None and value != 0:
                return self.find(name) or 0
        return 0

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """A list of whole numbers from 0, or None when it is not there or empty or not a list."""
        values = self._list(name)
        if values is None:
            return None
        if not all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST for value in values):
            raise ModelError(f'config.json: "{name}" is {_shown(values)}, and a list of numbers is needed.')
        return tuple(values)

    def words(self, name: str) -> tuple[str, ...] | None:
        """A list of texts, or None when it is not there or empty or not a list."""
        values = self._list(name)
        if values is None:
            return None
        if not all(isinstance(value, str) for value in values):
            raise ModelError(f'config.json: "{name}" is {_shown(values)}, and a list of names is needed.')
        return tuple(values)

    def parts(self, name: str) -> "tuple[Settings, ...] | None":
        """A list of parts, such as one for each layer."""
        values = self._list(name)
        if values is None:
            return None
        if not all(isinstance(value, Mapping) for value in values):
            raise ModelError(f'config.json: "{name}" is {_shown(values)}, and a list of objects is needed.')
        return tuple(Settings(value) for value in values)

    def text(self, *names: str) -> str | None:
        return next((value for name in names if isinstance(value := self._values.get(name), str)), None)

    def flag(self, name: str) -> bool | None:
        value = self._values.get(name)
        return value if isinstance(value, bool) else None

    def number(self, name: str) -> float | None:
        """A number that need not be whole, such as a factor."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _MOST:
            raise ModelError(f'config.json: "{name}" is {_shown(value)}, and a number above 0 is needed.')
        return value

    def part(self, name: str) -> "Settings":
        """The settings below `name`; none when it is not there."""
        value = self._values.get(name)
        return Settings(value if isinstance(value, Mapping) else {})

    def raw(self, name: str) -> Any:
        return self._values.get(name)

    def _list(self, name: str) -> list[Any] | None:
        value = self._values.get(name)
        if not isinstance(value, list | tuple) or not value:
            return None
        if len(value) > _MOST_LISTED:
            raise ModelError(f'config.json: "{name}" lists {len(value)} values, which no model has.')
        return list(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
