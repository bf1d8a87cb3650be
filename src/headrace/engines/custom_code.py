"""What a user's Python file can serve, read from its text: nothing of it is run."""

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.traffic import Task

METHODS: Mapping[str, Task] = {"chat": "generate", "embed": "embed", "rerank": "rerank", "predict": "infer"}
"""The task of each method. Where a class has several and none is asked for, the first is meant."""


class CodeError(ValueError):
    """Why the file cannot be served, in one sentence; `line` is where, if it is at one place."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class UserClass:
    """A class of the file with the methods, of those that can be served, that it has or takes over from others of the file.

    `open`: it is made from something that is not in the file, and may have more.
    """

    name: str
    methods: frozenset[str]
    open: bool

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it can do, the first is meant when nothing is said. All there is, where the text does not tell."""
        known = tuple(task for method, task in METHODS.items() if method in self.methods)
        return known or tuple(METHODS.values()) if self.open else known


def serving(text: str, wanted: str = "") -> UserClass:
    """The class of the file that serves: the one named `wanted`, or the only one that can.

    Public classes at the top of the file count, and of several the ones that no other is made from. Raises CodeError for a
    file that is no Python, or in which there is no such class or more than one.
    """
    module = _parsed(text)
    classes = _classes(module)
    return _named(wanted, classes, module) if wanted else _only(classes)


def _named(wanted: str, classes: Mapping[str, "_Class"], module: ast.Module) -> UserClass:
    found = classes.get(wanted)
    if found is None and wanted in _names(module):  # imported or made: it is there, and more is not known
        return UserClass(wanted, frozenset(), open=True)
    if found is None:
        raise CodeError(f"it has no class {wanted}; its classes are {', '.join(classes) or 'none'}")
    if not found.methods and not found.open:
        raise CodeError(f"its class {wanted} has none of the methods {', '.join(METHODS)}")
    return found.value


def _only(classes: Mapping[str, "_Class"]) -> UserClass:
    public = [each for each in classes.values() if not each.name.startswith("_")]
    able = [each for each in public if each.methods] or [each for each in public if each.open]
    taken_over = {name for each in able for name in each.above}
    able = [each for each in able if each.name not in taken_over]
    if not able:
        raise CodeError(f"no class in it has one of the methods {', '.join(METHODS)}")
    if len(able) > 1:
        names = ", ".join(each.name for each in able)
        raise CodeError(f"several classes can be served: {names}; name one, as in engine: {{custom: {{class: {able[0].name}}}}}")
    return able[0].value


def _parsed(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings: the user will see them when it runs
            return ast.parse(text)
    except SyntaxError as error:
        raise CodeError(f"it is no Python: {error.msg}", error.lineno) from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested too deeply
        raise CodeError(f"it is no Python: {error}") from None


@dataclass(frozen=True, slots=True)
class _Class:
    """A class of the file; `above` are those of the file that it is made from, and theirs."""

    name: str
    methods: frozenset[str]
    open: bool
    above: frozenset[str]

    @property
    def value(self) -> UserClass:
        return UserClass(self.name, self.methods, self.open)


def _classes(module: ast.Module) -> dict[str, _Class]:
    """By name, in the file's order."""
    found: dict[str, _Class] = {}
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            bases = [found[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in found]
            strangers = len(node.bases) - len(bases) - sum(_is_plain(base) for base in node.bases)
            methods = frozenset(_methods(node)).union(*(base.methods for base in bases))
            above = frozenset(base.name for base in bases).union(*(base.above for base in bases))
            is_open = strangers > 0 or any(base.open for base in bases)
            found[node.name] = _Class(node.name, methods, is_open, above)
    return found


def _is_plain(base: ast.expr) -> bool:
    """Something to be made from that has no methods of ours."""
    name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
    return name in ("object", "ABC", "Protocol", "Generic")


def _methods(node: ast.ClassDef) -> list[str]:
    functions = [each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    others = [
        target.id for each in node.body if isinstance(each, ast.Assign) for target in each.targets if isinstance(target, ast.Name)
    ]
    return [name for name in (*functions, *others) if name in METHODS]


def _names(module: ast.Module) -> set[str]:
    """What imports and assignments at the top of the file give names to."""
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(each.asname or each.name).partition(".")[0] for each in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names
