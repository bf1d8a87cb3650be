"""ONNX models, computed by onnxruntime on the CPU."""

from collections.abc import Sequence
from typing import Any

import onnxruntime

from .arrays import Array, Arrays, as_bytes, as_text, zeros
from .described import Asked, Model, Tensor, Unusable

_DATATYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
    **{f"tensor({sign.lower()}{bits})": f"{sign}{bits}" for sign in ("INT", "UINT") for bits in (8, 16, 32, 64)},
}


def load(asked: Asked) -> Model:
    """The model in the file. Raises Unusable."""
    session = _session(asked)
    named = [each for each in session.get_outputs() if each.type in _DATATYPES]
    left_out = [each for each in session.get_outputs() if each.type not in _DATATYPES]
    odd = [each for each in session.get_inputs() if each.type not in _DATATYPES]
    if odd:
        raise Unusable(f'input "{odd[0].name}" is a {odd[0].type}, which the protocol has no data type for')
    if not named:
        raise Unusable(f"no output is a tensor of the protocol's data types: {_told(left_out)}")
    inputs = session.get_inputs()
    batched = _batched(session, inputs, named)
    return Model(
        tuple(_tensor(each, batched) for each in inputs),
        tuple(_tensor(each, batched) for each in named),
        batched,
        _predict(session, inputs, named, batched),
        tuple(f'output "{each.name}" is left out: it is a {each.type}' for each in left_out),
    )


def _session(asked: Asked) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = asked.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with other replicas
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(asked.path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise Unusable(" ".join(str(error).split())) from error


def _told(outputs: Sequence[Any]) -> str:
    return ", ".join(f'"{each.name}" is a {each.type}' for each in outputs)


def _tensor(value: Any, batched: bool) -> Tensor:
    sizes = value.shape[1:] if batched else value.shape
    return Tensor(value.name, _DATATYPES[value.type], tuple(size if isinstance(size, int) else -1 for size in sizes) or (1,))


def _batched(session: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Whether the first dimension of everything is the batch: it may have any size, and three rows in give three rows out.

    Where the model refuses made-up input, the dimension's name decides, if all agree on one.
    """
    firsts = [each.shape[0] if each.shape else 0 for each in (*inputs, *outputs)]
    if any(isinstance(first, int) for first in firsts):
        return False
    try:
        found = session.run([each.name for each in outputs], {each.name: _made_up(each, 3) for each in inputs})
    except Exception:
        return len(set(firsts)) == 1 and firsts[0] is not None
    return all(array.ndim > 0 and len(array) == 3 for array in found)


def _made_up(value: Any, rows: int) -> Array:
    sizes = [rows, *(size if isinstance(size, int) else 1 for size in value.shape[1:])]
    return zeros(_DATATYPES[value.type], sizes)


def _predict(session: Any, inputs: Sequence[Any], outputs: Sequence[Any], batched: bool) -> Any:
    names = [each.name for each in outputs]
    scalar = 1 if batched else 0  # the rank of a value that has no dims: it is served as dims [1]
    flat_in = {each.name for each in inputs if len(each.shape) == scalar}
    text_in = {each.name for each in inputs if each.type == "tensor(string)"}

    def predict(given: Arrays) -> Arrays:
        feed = {name: as_text(array) if name in text_in else array for name, array in given.items()}
        feed |= {name: feed[name].reshape(feed[name].shape[:-1]) for name in flat_in if name in feed}
        found = dict(zip(names, session.run(names, feed), strict=True))
        return {name: as_bytes(array[..., None] if array.ndim == scalar else array) for name, array in found.items()}

    return predict
