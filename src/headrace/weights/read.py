"""An entry of the cache → Weights: the headers of its files read and checked against their sizes."""

import json
import mmap
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from headrace.errors import ModelError, WeightsError
from headrace.weights.formats import SENTENCE_FILES, TEMPLATES
from headrace.weights.headers import GgufHeader, Tensor, read_gguf, read_safetensors
from headrace.weights.model import File, Weights
from headrace.weights.onnx import outside
from headrace.weights.source import Source
from headrace.weights.store import Entry


def weights(entry: Entry, source: Source, root: str) -> Weights:
    """The Weights that `entry` describes. Raises ModelError for a header that makes no sense, WeightsError on reading."""
    folder = os.path.join(root, entry.folder)
    found = Weights(source, os.path.join(folder, entry.load) if entry.load else folder, entry.format, entry.revision, entry.files)
    try:
        if entry.format == "gguf":
            return replace(found, gguf=_gguf(folder, entry.files))
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


def settings(read: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """config.json, with what other files say of the same and vLLM (0.32) goes by. `read(name)` is a JSON file beside the weights,
    empty where there is none.
    """
    config = dict(read("config.json"))
    # NVIDIA's modelopt states the quantization in a file of its own until 0.29.
    stated = read("hf_quant_config.json").get("quantization")
    if isinstance(stated, Mapping) and not config.get("quantization_config"):
        config["quantization_config"] = stated
    for limit in _longest_inputs(config, read):
        longest = config.get("max_position_embeddings")
        if isinstance(limit, int) and isinstance(longest, int) and 0 < limit < longest:
            config["max_position_embeddings"] = limit
    return config


def whole(header: GgufHeader, size: int, where: str) -> GgufHeader:
    """`header` of one file of `size` bytes. Raises ModelError for a file that is cut off."""
    end = max((header.header_bytes + tensor.offset + tensor.bytes for tensor in header.tensors), default=0)
    if end > size:
        raise ModelError(f"{where} is cut off: its header describes {end} bytes, it has {size}.", "Fetch it again.")
    return header


def _longest_inputs(config: Mapping[str, Any], read: Callable[[str], Mapping[str, Any]]) -> Iterable[Any]:
    """What an embedding model says of the longest input beside config.json; asked for a longer one, vLLM does not start."""
    yield next((limit for name in SENTENCE_FILES if (limit := read(name).get("max_seq_length"))), None)
    # RoBERTa has two positions more than it can use.
    if config.get("position_embedding_type") == "absolute":
        yield read("tokenizer_config.json").get("model_max_length")


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


def _gguf(folder: str, files: Iterable[File]) -> GgufHeader:
    """The header of the first part, with the tensors of all parts."""
    headers = [_header(os.path.join(folder, file.name), file.size) for file in files]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, header_bytes=sum(header.header_bytes for header in headers))


def _header(path: str, size: int) -> GgufHeader:
    with open(path, "rb") as file:
        try:
            header = read_gguf(file)
        except ModelError as error:
            raise ModelError(f"{path}: {error.what}", error.fix) from error
    return whole(header, size, path)


def _safetensors(found: Weights, folder: str) -> Weights:
    tensors: list[Tensor] = []
    for file in found.files:
        # In a folder of its own is a module of sentence-transformers, which is no part of the model.
        if file.name.endswith(".safetensors") and "/" not in file.name:
            tensors += _tensors(os.path.join(folder, file.name), file.size)
    names = {file.name for file in found.files}

    def read(name: str) -> dict[str, Any]:
        return _json(folder, name) if name in names else {}

    template = not names.isdisjoint(TEMPLATES) or bool(read("tokenizer_config.json").get("chat_template"))
    return replace(found, config=settings(read), tensors=tuple(tensors), chat_template=template)


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
