"""PyTorch models that `torch.export.save` wrote: a file that says what it takes and gives, and holds no code to trust."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from .arrays import Array, Arrays, datatype
from .described import Asked, Model, Tensor, Unusable


def load(asked: Asked) -> Model:
    """The model in the file, its outputs named `output_0` and so on where the module has no names. Raises Unusable."""
    torch.set_num_threads(asked.threads)
    program = _read(asked.path)
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    takes = [(name, values[name]) for name in signature.user_inputs if isinstance(values.get(name), torch.Tensor)]
    gives = [values[name] for name in signature.user_outputs if isinstance(values.get(name), torch.Tensor)]
    if len(takes) != len(signature.user_inputs) or len(gives) != len(signature.user_outputs):
        raise Unusable("it takes or gives something that is no tensor")
    batched = _batched([value for _, value in takes] + gives)
    names = [f"output_{index}" for index in range(len(gives))]
    return Model(
        tuple(_tensor(name, value, batched) for name, value in takes),
        tuple(_tensor(name, value, batched) for name, value in zip(names, gives, strict=True)),
        batched,
        _predict(program.module(), {name: value.ndim for name, value in takes}, names, scalar=1 if batched else 0),
    )


def _read(path: str) -> Any:
    try:
        return torch.export.load(path)
    except Exception as error:
        cause = " ".join(str(error).split())
        raise Unusable(f"it is none that torch.export.save wrote (.pt2), which says types and sizes: {cause}") from error


def _batched(values: Sequence[Any]) -> bool:
    """Whether one and the same free size comes first everywhere. Fixed sizes are ints, free ones torch.SymInt."""
    firsts = {str(value.shape[0]) if value.ndim and not isinstance(value.shape[0], int) else "" for value in values}
    return len(firsts) == 1 and "" not in firsts


def _tensor(name: str, value: Any, batched: bool) -> Tensor:
    sizes = value.shape[1:] if batched else value.shape
    dims = tuple(size if isinstance(size, int) else -1 for size in sizes) or (1,)
    return Tensor(name, _datatype(name, value.dtype), dims)


def _datatype(name: str, dtype: Any) -> str:
    try:
        return datatype(torch.empty(0, dtype=dtype).numpy().dtype)
    except TypeError as error:  # bfloat16 and smaller
        raise Unusable(f'"{name}" is {dtype}, which numpy does not have') from error


def _predict(module: Any, ranks: Mapping[str, int], outputs: Sequence[str], scalar: int) -> Any:
    """`ranks` are those of the inputs by name; `scalar` is that of a value that has no dims: it is served as dims [1]."""

    def predict(given: Arrays) -> Arrays:
        arrays = [_flat(given[name]) if rank == scalar else given[name] for name, rank in ranks.items()]
        with torch.inference_mode():
            found = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))
        leaves: Sequence[Any] = pytree.tree_leaves(found)
        return {name: _array(each, scalar) for name, each in zip(outputs, leaves, strict=True)}

    return predict


def _flat(array: Array) -> Array:
    return array.reshape(array.shape[:-1])


def _array(value: Any, scalar: int) -> Array:
    array: Array = value.detach().numpy()
    return array[..., None] if array.ndim == scalar else array
