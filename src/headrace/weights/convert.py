"""Safetensors of a BERT embedding model → GGUF, the same bytes every time. Needs the extra `local`."""

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

from headrace.errors import WeightsError
from headrace.weights import bert
from headrace.weights.formats import FormatMissing
from headrace.weights.headers import Tensor, read_safetensors


def to_gguf(folder: str, target: str, name: str) -> None:
    """Write the BERT in `folder` (one safetensors file, config.json, vocab.txt) as the GGUF file `target`, F16.

    Raises FormatMissing when numpy or gguf are not installed, or the folder does not describe the model fully.
    """
    gguf = _gguf()
    config = _needed(folder, "config.json")
    if not bert.lowercases(_json(folder, "tokenizer_config.json") or {}):
        raise FormatMissing("The embedding model tells upper from lower case, which llama.cpp's tokenizer does not.")
    writer = gguf.GGUFWriter(target, "bert")
    try:
        _settings(gguf, writer, config, bert.pooling(_json(folder, bert.POOLING_FILE)), name)
        _vocabulary(gguf, writer, _words(folder), config)
        _tensors(writer, os.path.join(folder, _only_safetensors(folder)), config)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except KeyError as error:
        raise FormatMissing(f"config.json of the embedding model does not say {error}.") from error
    finally:
        writer.close()


def _gguf() -> Any:
    try:
        import gguf
        import numpy  # noqa: F401
    except ImportError as error:
        raise FormatMissing(
            f"This model comes as safetensors and must be converted to GGUF, and the package {error.name} is missing.",
            "pip install 'headrace[local]'",
        ) from error
    return gguf


def _settings(gguf: Any, writer: Any, config: Mapping[str, Any], pooling: str, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _vocabulary(gguf: Any, writer: Any, words: list[str], config: Mapping[str, Any]) -> None:
    if len(words) != config["vocab_size"]:
        raise FormatMissing(f"vocab.txt has {len(words)} words, config.json says {config['vocab_size']}.")
    tokens = [bert.token(word) for word in words]
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([gguf.TokenType[kind] for _, kind in tokens])
    for kind, number in bert.special_ids(words).items():
        getattr(writer, f"add_{kind}_token_id")(number)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _tensors(writer: Any, path: str, config: Mapping[str, Any]) -> None:
    with open(path, "rb") as file:
        tensors, start = read_safetensors(file)
        named = {name: tensor for tensor in tensors if (name := bert.tensor_name(tensor.name))}
        if missing := bert.expected_tensors(config["num_hidden_layers"]) - set(named):
            raise FormatMissing(f"The safetensors file does not hold a whole BERT: {min(missing)} is missing.")
        for name in sorted(named):  # a fixed order gives the same bytes every time
            half = bert.half(name, len(named[name].shape))
            writer.add_tensor(name, _numbers(file, start, named[name]).astype("float16" if half else "float32"))


def _numbers(file: BinaryIO, start: int, tensor: Tensor) -> Any:
    """The tensor as float32, or as float16 if it is stored so."""
    import numpy as np

    file.seek(start + tensor.offset)
    data = file.read(tensor.bytes)
    if tensor.type == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(tensor.shape)
    if tensor.type not in ("F32", "F16"):
        raise FormatMissing(f"The tensor {tensor.name} has the type {tensor.type}; F32, F16 and BF16 can be converted.")
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[tensor.type]).reshape(tensor.shape)


def _only_safetensors(folder: str) -> str:
    names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    if len(names) != 1:
        raise FormatMissing(f"One safetensors file can be converted to GGUF; {folder} has {len(names)}.")
    return names[0]


def _words(folder: str) -> list[str]:
    try:
        with open(os.path.join(folder, "vocab.txt"), encoding="utf-8") as file:
            return file.read().removesuffix("\n").split("\n")
    except FileNotFoundError as error:
        raise FormatMissing("The embedding model has no vocab.txt.", "Name a source with GGUF weights.") from error


def _needed(folder: str, name: str) -> dict[str, Any]:
    found = _json(folder, name)
    if found is None:
        raise FormatMissing(f"The embedding model has no {name}.", "Name a source with GGUF weights.")
    return found


def _json(folder: str, name: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise WeightsError(f"{name} of the embedding model cannot be read: {error}.") from error
    return data if isinstance(data, dict) else None
