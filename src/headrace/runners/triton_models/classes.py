"""Which class of a user's file is meant where none is named: the same for Triton and for the engine `custom`."""

from collections.abc import Iterable
from types import ModuleType


def candidates(module: ModuleType, methods: Iterable[str]) -> list[type]:
    """Public classes of the file itself with one of the methods; not those that others of them are made from."""
    methods = tuple(methods)
    classes = [
        each
        for name, each in vars(module).items()
        if isinstance(each, type) and each.__module__ == module.__name__ and name == each.__name__ and not name.startswith("_")
    ]
    able = [each for each in classes if any(callable(getattr(each, method, None)) for method in methods)]
    return [each for each in able if not any(other is not each and issubclass(other, each) for other in able)]
