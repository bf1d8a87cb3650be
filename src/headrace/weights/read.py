"""An entry of the cache → Weights: the headers of its files read and checked against their sizes."""

import json
import mmap
import os
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from headrace.errors import ModelError, WeightsError
from headrace.weights.headers import GgufHeader, Tensor, read_gguf, read_safetensors
from headrace.weights.model import Weights
from headrace.weights.onnx import outside
from headrace.weights.source import Source
from headrace.weights.store import Entry


def weights(entry: Entry, source: Source, root: str) -> Weights:
    """The Weights that `entry` describes. Raises ModelError for a header that makes no sense, WeightsError on reading."""
    folder = os.path.join(root, entry.folder)
    found = Weights(source, os.path.join(folder, entry.load) if entry.load else folder, entry.format, entry.revision, entry.files)
    try:
        if entry.format == "gguf":
            return replace(found, gguf=_gguf(folder, [file.name for file in entry.files]))
        if entry.format == "onnx":
            return _onnx(found)
        if entry.format == "skops":
            return _skops(found)
        return _safetensors(found, folder)
    except OSError as error:
        raise WeightsError(f"{error.filename} cannot be read: {error.strerror}.") from error


def beside(path: str) -> tuple[str, ...]:
    """The files beside an ONNX graph that hold weights of it. Raises ModelError, and OSError."""
    with open(path, "rb") as file:
        if not os.path.getsize(path):  # which cannot be mapped
            raise ModelError(f"{path} is empty.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            try:
                return outside(data)
            except ModelError as error:
                raise ModelError(f"{path}: {error.what}", error.fix) from None


def _onnx(found: Weights) -> Weights:
    """A graph whose files are all here."""
    there = {file.name for file in found.files}
    if missing := [name for name in beside(found.path) if name not in there]:
        raise ModelError(
            f"{found.source} is not complete: it keeps weights in {missing[0]} beside it.",
            "Name what has both: hf:org/name, or a file of your own.",
        )
    return found


def _skops(found: Weights) -> Weights:
    """A file as skops writes it: what is in it is looked at where it is loaded. A pickle by that name is none."""
    try:
        with zipfile.ZipFile(found.path) as archive:
            archive.getinfo("schema.json")
    except (zipfile.BadZipFile, KeyError):
        raise ModelError(f"{found.path} is no file that skops wrote.") from None
    return found


def _gguf(folder: str, names: Iterable[str]) -> GgufHeader:
    """The header of the first part, with the tensors of all parts."""
    headers = [_header(os.path.join(folder, name)) for name in names]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, header_bytes=sum(header.header_bytes for header in headers))


def _header(path: str) -> GgufHeader:
    with open(path, "rb") as file:
        try:
            return read_gguf(file)
        except ModelError as error:
            raise ModelError(f"{path}: {error.what}", error.fix) from error


def _safetensors(found: Weights, folder: str) -> Weights:
    tensors: list[Tensor] = []
    for file in found.files:
        if file.name.endswith(".safetensors"):
            tensors += _tensors(os.path.join(folder, file.name), file.size)
    names = {file.name for file in found.files}
    tokenizer = _json(folder, "tokenizer_config.json") if "tokenizer_config.json" in names else {}
    return replace(
        found,
        config=_json(folder, "config.json") if "config.json" in names else {},
        tensors=tuple(tensors),
        chat_template="chat_template.jinja" in names or bool(tokenizer.get("chat_template")),
    )


def _tensors(path: str, size: int) -> tuple[Tensor, ...]:
    with open(path, "rb") as file:
        try:
            tensors, start = read_safetensors(file)
        except ModelError as error:
            raise ModelError(f"{path}: {error.what}", error.fix) from error
    end = start + max((tensor.offset + tensor.bytes for tensor in tensors), default=0)
    if end != size:
        raise ModelError(f"{path} is damaged: its header describes {end} bytes, it has {size}.", "Fetch it again.")
    return tensors


def _json(folder: str, name: str) -> dict[str, Any]:
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        try:
            data = json.load(file)
        except ValueError as error:
            raise ModelError(f"{os.path.join(folder, name)} cannot be read: {error}.") from error
    return data if isinstance(data, dict) else {}
