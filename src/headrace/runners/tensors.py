"""The Open Inference Protocol (KServe V2) over HTTP: requests and responses, in JSON and in binary, to and from numpy.

After kserve/open-inference-protocol (inference_rest.md) and Triton's binary tensor data extension, which KServe took over:
binary tensors follow the JSON object in the body, whose length the header Inference-Header-Content-Length gives.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

HEADER = "Inference-Header-Content-Length"

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{
        f"{kind}{bits}": np.dtype(f"<{letter}{bits // 8}")
        for kind, letter in (("INT", "i"), ("UINT", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
"""Data types of the protocol that numpy has. Besides these: BYTES, arrays of `bytes` objects; and BF16, read as FP32."""

_MOST_DIMENSIONS = 32


class Malformed(ValueError):
    """A request that is none, or tensors that cannot be sent; the message says what of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """An inference request. `wanted` are the outputs asked for, with whether in binary; None: all, in binary if `binary`."""

    inputs: dict[str, Array]
    wanted: dict[str, bool] | None = None
    binary: bool = False
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def read(body: bytes, header: str | None) -> Request:
    """The request in `body`; `header` is the value of Inference-Header-Content-Length, if it was sent. Raises Malformed."""
    size = _header_length(header, len(body))
    binary = memoryview(body)[size:]
    try:
        given = json.loads(body[:size])
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the request is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Malformed("the request is not a JSON object")
    inputs: dict[str, Array] = {}
    for tensor in _objects(given, "inputs"):
        name = _name(tensor, "an input")
        if name in inputs:
            raise Malformed(f'input "{name}" is there twice')
        inputs[name], used = _input(tensor, name, binary)
        binary = binary[used:]
    if len(binary):
        raise Malformed(f"{len(binary)} bytes follow the last binary tensor")
    if not inputs:
        raise Malformed('"inputs" is missing or empty')
    parameters = _parameters(given, "the request")
    binary_wanted = parameters.get("binary_data_output") is True
    request_id = given.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise Malformed('"id" is not a string')
    return Request(inputs, _wanted(given, binary_wanted), binary_wanted, request_id, parameters)


def write(model: str, request: Request, outputs: Mapping[str, Array]) -> tuple[bytes, int | None]:
    """(the body of the response to `request`, the length of its JSON when binary tensors follow). Raises Malformed."""
    wanted = dict.fromkeys(outputs, request.binary) if request.wanted is None else request.wanted
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise Malformed(f'there is no output "{unknown[0]}"; there is {_listed(outputs)}')
    blobs: list[bytes] = []
    tensors: list[dict[str, Any]] = []
    for name, binary in wanted.items():
        array = outputs[name]
        head: dict[str, Any] = {"name": name, "datatype": datatype(array), "shape": list(array.shape)}
        if binary:
            blobs.append(_to_bytes(array))
            tensors.append(head | {"parameters": {"binary_data_size": len(blobs[-1])}})
        else:
            tensors.append(head | {"data": _to_json(array, name)})
    identity = {} if request.id is None else {"id": request.id}
    head_bytes = json.dumps({"model_name": model, "model_version": "1", **identity, "outputs": tensors}).encode()
    return b"".join([head_bytes, *blobs]), len(head_bytes) if any(wanted.values()) else None


def datatype(array: Array) -> str:
    """The protocol's name for what is in `array`. Raises Malformed where it has none."""
    if array.dtype.kind in "OSU":
        return "BYTES"
    names = [name for name, dtype in DTYPES.items() if dtype == array.dtype.newbyteorder("<")]
    if not names:
        raise Malformed(f"arrays of {array.dtype} have no data type in the protocol")
    return names[0]


# ---- reading


def _header_length(header: str | None, total: int) -> int:
    if header is None:
        return total
    if not header.isascii() or not header.isdigit() or len(header) > 18 or int(header) > total:
        raise Malformed(f"{HEADER} is {header!r}, and the body has {total} bytes")
    return int(header)


def _objects(given: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = given.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise Malformed(f'"{key}" is not a list of objects')
    return value


def _name(tensor: Mapping[str, Any], what: str) -> str:
    name = tensor.get("name")
    if not isinstance(name, str) or not name:
        raise Malformed(f"{what} has no name")
    return name


def _parameters(given: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    value = given.get("parameters", {})
    if not isinstance(value, dict):
        raise Malformed(f'"parameters" of {what} are not an object')
    return value


def _wanted(given: Mapping[str, Any], binary: bool) -> dict[str, bool] | None:
    wanted: dict[str, bool] = {}
    for tensor in _objects(given, "outputs"):
        name = _name(tensor, "an output")
        parameters = _parameters(tensor, f'output "{name}"')
        if "classification" in parameters:
            raise Malformed(f'output "{name}" is asked for as a classification, which is not supported')
        wanted[name] = bool(parameters.get("binary_data", binary))
    return wanted or None


def _input(tensor: Mapping[str, Any], name: str, binary: memoryview) -> tuple[Array, int]:
    """(the tensor, how many bytes of `binary` it took)."""
    what = f'input "{name}"'
    shape, kind = _shape(tensor.get("shape"), what), tensor.get("datatype")
    if kind not in DTYPES and kind not in ("BYTES", "BF16"):
        raise Malformed(f"{what} has the data type {kind!r}; there are {', '.join((*DTYPES, 'BF16', 'BYTES'))}")
    size = _parameters(tensor, what).get("binary_data_size")
    if size is None:
        return _from_json(tensor.get("data"), str(kind), shape, what), 0
    if type(size) is not int or not 0 <= size <= len(binary):
        raise Malformed(f"{what} says that it has {size!r} bytes, and {len(binary)} are there")
    return _from_bytes(binary[:size], str(kind), shape, what), size


def _shape(value: Any, what: str) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) > _MOST_DIMENSIONS
        or not all(type(each) is int and 0 <= each < 2**63 for each in value)
    ):
        raise Malformed(f"{what} has the shape {value!r}, which is not a list of sizes")
    return tuple(value)


def _from_bytes(data: memoryview, kind: str, shape: tuple[int, ...], what: str) -> Array:
    if kind == "BYTES":
        return _filled(_elements(data, what), shape, what)
    dtype = np.dtype("<u2") if kind == "BF16" else DTYPES[kind]
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise Malformed(f"{what} has {len(data)} bytes; {kind} of shape {list(shape)} has {math.prod(shape) * dtype.itemsize}")
    flat: Array = np.frombuffer(data, dtype)
    if kind == "BF16":  # the upper half of an FP32
        flat = (flat.astype("<u4") << 16).view("<f4")
    elif kind == "BOOL":
        flat = flat.view(np.uint8) != 0
    return _reshaped(flat, shape)


def _elements(data: memoryview, what: str) -> list[bytes]:
    """BYTES: each element's length in 4 bytes, then the element."""
    found, at = [], 0
    while at < len(data):
        if at + 4 > len(data):
            raise Malformed(f"{what} ends within the length of an element")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
        if at > len(data):
            raise Malformed(f"{what} ends within an element")
        found.append(bytes(data[at - length : at]))
    return found


def _from_json(data: Any, kind: str, shape: tuple[int, ...], what: str) -> Array:
    if not isinstance(data, list):
        raise Malformed(f'{what} has no "data"')
    flat = _flat(data, what)
    if kind == "BYTES":
        if not all(isinstance(each, str) for each in flat):
            raise Malformed(f"{what} is BYTES and not all of its data are strings")
        return _filled([each.encode("utf-8", "surrogatepass") for each in flat], shape, what)
    if len(flat) != math.prod(shape):
        raise Malformed(_count(what, len(flat), shape))
    return _reshaped(_numbers(flat, kind, what), shape)


def _flat(data: list[Any], what: str) -> list[Any]:
    """The elements of nested lists, all as deep as the first, in row-major order."""
    for _ in range(_MOST_DIMENSIONS):
        lists = sum(isinstance(each, list) for each in data)
        if not lists:
            return data
        if lists < len(data) or len({len(each) for each in data}) > 1:
            raise Malformed(f"the data of {what} are ragged")
        data = [element for each in data for element in each]
    raise Malformed(f"the data of {what} are nested too deeply")


def _numbers(flat: list[Any], kind: str, what: str) -> Array:
    """JSON's numbers, true and false, exactly: what does not fit the data type is refused, never cut. null is NaN."""
    wrong = Malformed(f"{what} is {kind} and not all of its data are")
    if kind == "BOOL":
        if not all(isinstance(each, bool) for each in flat):
            raise wrong
        return np.array(flat, np.bool_)
    if kind == "BF16":
        kind = "FP32"
    dtype = DTYPES[kind]
    if dtype.kind == "f":
        if not all(each is None or type(each) in (int, float) for each in flat):
            raise wrong
        return _floats([math.nan if each is None else each for each in flat], dtype, what)
    limits = np.iinfo(dtype)
    if not all(type(each) is int and limits.min <= each <= limits.max for each in flat):
        raise wrong
    return np.array(flat, dtype)


def _floats(values: list[float], dtype: np.dtype[Any], what: str) -> Array:
    try:
        with np.errstate(over="raise"):
            return np.array(values, np.float64).astype(dtype)
    except (OverflowError, FloatingPointError):
        raise Malformed(f"{what} has numbers that are out of the range of {dtype}") from None


def _filled(elements: Sequence[bytes], shape: tuple[int, ...], what: str) -> Array:
    """An array of objects. numpy's own types for text cut zeros at the end."""
    if len(elements) != math.prod(shape):
        raise Malformed(_count(what, len(elements), shape))
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return _reshaped(array, shape)


def _reshaped(flat: Array, shape: tuple[int, ...]) -> Array:
    try:
        return flat.reshape(shape)
    except (ValueError, OverflowError):
        raise Malformed(f"there are no arrays of shape {list(shape)}") from None


def _count(what: str, elements: int, shape: tuple[int, ...]) -> str:
    return f"{what} has {elements} elements; shape {list(shape)} has {math.prod(shape)}"


# ---- writing


def _to_bytes(array: Array) -> bytes:
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return b"".join(struct.pack("<I", len(each)) + each for each in _encoded(array))


def _encoded(array: Array) -> Iterable[bytes]:
    for each in array.ravel().tolist():
        if isinstance(each, str):
            yield each.encode("utf-8", "surrogatepass")
        elif isinstance(each, bytes):
            yield each
        else:
            raise Malformed(f"a tensor of objects holds {type(each).__name__}; only text and bytes can be sent")


def _to_json(array: Array, name: str) -> list[Any]:
    if array.dtype.kind in "OSU":
        try:
            return [each.decode() for each in _encoded(array)]
        except UnicodeDecodeError:
            raise Malformed(f'output "{name}" holds bytes that are no text; ask for it in binary') from None
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [value if math.isfinite(value) else None for value in values]
    return values


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
