"""What the settings are compared with: llama.cpp's server with its own defaults, started as every other engine is."""

import json
from dataclasses import replace

from headrace.engines.base import Engine, Launch, Placement


def own_defaults(llamacpp: Engine) -> Engine:
    """The engine under the same name, which obeys nothing of a placement but the model and its name."""
    return replace(llamacpp, launch=_launch)


def _launch(placement: Placement, address: str) -> Launch:
    spec = {"name": placement.model, "model": placement.weights, "address": address}
    argv = ("python", "-P", "-m", "headrace.runners.llamacpp_own", json.dumps(spec, sort_keys=True))
    return Launch(argv, key_variable="ENGINE_KEY")
