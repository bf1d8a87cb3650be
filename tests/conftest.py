"""Timings gate no test: the machines that run them are shared."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_HERE = Path(__file__).parent

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever GPUs the machine has: tests that want some bring their own

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

_ORDER = {"e2e": 0, "contract": 1}
"""Of folders; those whose tests start real engines come first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take a file after the other (`make test` has two): those that take longest first, so that they end together."""
    items.sort(key=lambda item: _ORDER.get(item.path.relative_to(_HERE).parts[0], len(_ORDER)))
