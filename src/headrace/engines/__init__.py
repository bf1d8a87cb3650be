"""The engines: one file each, found by looking."""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from headrace.engines.base import Engine


@cache
def engines() -> Mapping[str, Engine]:
    """Every engine by its name: the `ENGINE` of each module here that has one."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    values = (getattr(module, "ENGINE", None) for module in modules)
    return MappingProxyType({engine.name: engine for engine in values if isinstance(engine, Engine)})
