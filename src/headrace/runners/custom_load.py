"""A user's file becomes an object: imported, its class found and made. Whatever is wrong is said in one line."""

import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from headrace.runners.custom_failure import log, said
from headrace.runners.triton_models.classes import candidates

METHODS: Mapping[str, str] = {"infer": "predict", "generate": "chat", "embed": "embed", "rerank": "rerank"}
"""What a class must have for each task."""


class CannotLoad(Exception):
    """The cause, in one line. The traceback, where there is one, is in the log already."""


def user_class(file: str, wanted: str, task: str, folder: str) -> type:
    """The class in `file` that serves `task`: the one named `wanted`, or the only one. Raises CannotLoad.

    As if the file were run in `folder`, by default its own: that is the working directory, and its own is the first for
    imports.
    """
    path = Path(file)
    if not path.is_file():
        raise CannotLoad(f"cannot load {file}: there is no such file")
    try:
        os.chdir(folder or path.parent)
    except OSError as error:
        raise CannotLoad(f"cannot load {path.name}: it shall run in {folder}: {error.strerror}") from None
    sys.path.insert(0, str(path.parent))
    module = _imported(path)
    found = _named(module, wanted, path) if wanted else _only(module, path)
    if not callable(getattr(found, METHODS[task], None)):
        has = ", ".join(method for method in METHODS.values() if callable(getattr(found, method, None))) or "none of them"
        raise CannotLoad(
            f"cannot load {path.name}: `task: {task}` needs the method {METHODS[task]}, and {found.__name__} has {has}"
        )
    return found


def cannot(what: str, error: BaseException, file: str) -> NoReturn:
    """Raise CannotLoad from the user's exception, whose traceback goes to the log."""
    log(error)
    raise CannotLoad(f"cannot load {Path(file).name}: {what}{_cause(error, file)}") from error


def _imported(path: Path) -> ModuleType:
    taken = path.stem in sys.modules or path.stem in sys.stdlib_module_names or not path.stem.isidentifier()
    name = "custom_code" if taken else path.stem  # its own name where it can be: pickles of its classes say it
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CannotLoad(f"cannot load {path}: it is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        cannot("", error, str(path))
    return module


def _named(module: ModuleType, wanted: str, path: Path) -> type:
    found = getattr(module, wanted, None)
    if not isinstance(found, type):
        there = ", ".join(sorted(each.__name__ for each in candidates(module, METHODS.values()))) or "none"
        raise CannotLoad(f"cannot load {path.name}: it has no class {wanted}; those that can be served: {there}")
    return found


def _only(module: ModuleType, path: Path) -> type:
    found = candidates(module, METHODS.values())
    if not found:
        raise CannotLoad(f"cannot load {path.name}: no class in it has a method {', '.join(METHODS.values())}")
    if len(found) > 1:
        names = ", ".join(each.__name__ for each in found)
        raise CannotLoad(f"cannot load {path.name}: several classes can be served: {names}; name one as `class` of the engine")
    return found[0]


def _cause(error: BaseException, file: str) -> str:
    if isinstance(error, SyntaxError):
        return f"{Path(error.filename or file).name}:{error.lineno}: {error.msg}"
    line = _line(error, file)
    hint = f" (looked for by {sys.executable})" if isinstance(error, ModuleNotFoundError) else ""
    return f"{line}{said(error)}{hint}"


def _line(error: BaseException, file: str) -> str:
    """The line of the user's file that it came through last."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{Path(file).name}:{lines[-1]}: " if lines else ""


def method(instance: Any, name: str) -> Any:
    """The bound method, or None."""
    found = getattr(instance, name, None)
    return found if callable(found) else None
