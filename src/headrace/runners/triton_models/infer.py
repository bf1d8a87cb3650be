"""A model of tensors inside Triton's python backend: batches of requests in, responses out. Triton imports it as `model.py`."""

import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as backend

from .arrays import Arrays, in_turn, together, zeros
from .describe import load
from .described import Asked, Model


class TritonPythonModel:
    """Loads what the parameters `kind`, `weights`, `threads` and `settings` of the configuration say."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and compute once: the first request finds everything warm."""
        parameters = json.loads(args["model_config"])["parameters"]
        given = {key: str(value["string_value"]) for key, value in parameters.items()}
        asked = Asked(given["weights"], int(given["threads"]), json.loads(given["settings"]))
        self._model = load(given["kind"], asked)
        _warm(self._model)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order."""
        if not self._model.batched:
            return [_response(found) for found in in_turn(self._model.predict, [_inputs(request) for request in requests])]
        return [_response(found) for found in together(self._model.predict, [_inputs(request) for request in requests])]


def _inputs(request: Any) -> Arrays:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _response(found: Arrays | Exception) -> Any:
    """Clients are told the exception and its message; the traceback is for the log."""
    if isinstance(found, Exception):
        traceback.print_exception(type(found), found, found.__traceback__, file=sys.stderr)
        message = f"{type(found).__name__}: {' '.join(str(found).split())}"
        kind = backend.TritonError.INVALID_ARG if _asked_wrongly(found) else backend.TritonError.INTERNAL
        return backend.InferenceResponse(error=backend.TritonError(message, kind))
    return backend.InferenceResponse([backend.Tensor(name, array) for name, array in found.items()])


def _asked_wrongly(error: Exception) -> bool:
    """Whether the input is at fault (400) and not the model (500): onnxruntime says so, users' code by a `status`."""
    status = getattr(error, "status", None)
    return type(error).__name__ == "InvalidArgument" or (isinstance(status, int) and 400 <= status < 500)


def _warm(model: Model) -> None:
    """Made-up input may be none that the model takes: that is said and no reason not to serve."""
    rows = (1,) if model.batched else ()
    made_up = {each.name: zeros(each.datatype, (*rows, *(abs(size) for size in each.dims))) for each in model.inputs}
    try:
        model.predict(made_up)
    except Exception as error:
        print(f"it does not compute on zeros, and starts cold: {type(error).__name__}: {error}", flush=True)
