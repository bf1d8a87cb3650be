"""Run by the environment's own interpreter: what the environment is, and what a model takes and gives, as one line of JSON.

`main()` with the arguments KIND, PATH, THREADS and SETTINGS (JSON). KIND is empty when only the environment is asked for.
A model that cannot be served gives `{"trouble": "the cause"}`.
"""

import importlib
import importlib.util
import json
import os
import sys
import sysconfig
from dataclasses import asdict
from typing import Any

from .described import Asked, Model, Unusable

MISSING = "it has no {name}: `headrace engines install triton` installs what Triton needs"


def load(kind: str, asked: Asked) -> Model:
    """The model of that kind. Raises Unusable, also when what computes it is not installed."""
    try:
        module: Any = importlib.import_module(f".{kind}", __package__)
    except ModuleNotFoundError as error:
        raise Unusable(f"this kind of model needs {error.name}, and the environment of {sys.executable} has none") from error
    loaded: Model = module.load(asked)
    return loaded


def main() -> None:
    """Print the answer."""
    kind, path, threads, settings = sys.argv[1:5]
    answer: dict[str, Any]
    try:
        answer = _environment()
        if kind:
            model = load(kind, Asked(path, int(threads), json.loads(settings)))
            tensors = {"inputs": model.inputs, "outputs": model.outputs}
            answer |= {name: [asdict(each) for each in found] for name, found in tensors.items()}
            answer |= {"batched": model.batched, "notes": model.notes}
    except Unusable as error:
        answer = {"trouble": str(error)}
    print(f"\n{json.dumps(answer)}", flush=True)
    os._exit(0)  # threads of libraries may not end


def _environment() -> dict[str, Any]:
    import numpy

    pytriton = importlib.util.find_spec("pytriton")
    if pytriton is None or not pytriton.origin:
        raise Unusable(MISSING.format(name="nvidia-pytriton"))
    return {
        "numpy": numpy.__version__,
        "packages": os.path.dirname(os.path.dirname(pytriton.origin)),
        "version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "library": sysconfig.get_config_var("LIBDIR") or "",
        "shared": bool(sysconfig.get_config_var("Py_ENABLE_SHARED")),
    }
