"""The numbers measured of engines, from their data files beside the planner."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def measured(engine: str) -> Mapping[str, Any]:
    """What `plan/constants/<engine>.yaml` says, as it stands there; `plan.vllm.constants.parse` makes values of it."""
    text = files("headrace").joinpath("plan", "constants", f"{engine}.yaml").read_text(encoding="utf-8")
    content: Mapping[str, Any] = yaml.safe_load(text)
    return content
