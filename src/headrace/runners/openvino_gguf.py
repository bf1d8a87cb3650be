"""A GGUF that OpenVINO would read wrongly, or not at all, → one that it reads as it is.

Its reader (2026.4.1) takes F16, Q8_0 and Q4_0 as they are: with made-up models it gives llama.cpp's tokens. It rounds the
minimums of Q4_1 and Q4_K to whole steps (perplexity of SmolLM2-135M in Q4_1, on 1,000 tokens of English: 24.9; its very
values in Q8_0: 18.8) and fails on Q5, Q3, Q2, BF16 and the like. So whatever else there is becomes Q8_0, or F16 where it was
16 or 32 bits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_KEPT = ("F16", "Q8_0", "Q4_0")
_WIDE = ("F32", "BF16", "F64")
_BLOCK = 32


class Unreadable(Exception):
    """OpenVINO would fail on the model or answer wrongly; the message is why, in one sentence."""


def readable(model: Path, into: Path) -> Path:
    """`model`, or a file in `into` with the same model in formats that OpenVINO takes as they are. Raises Unreadable."""
    import gguf

    try:
        reader = gguf.GGUFReader(model)
    except (ValueError, IndexError, OverflowError) as cause:
        raise Unreadable(f"it is not a whole GGUF file: {cause}") from cause
    if why := _trouble(reader):
        raise Unreadable(why)
    if all(_stays(tensor) for tensor in reader.tensors):
        return model
    rewritten = into / "model.gguf"
    _rewrite(reader, rewritten)
    return rewritten


def _trouble(reader: Any) -> str | None:
    """Why OpenVINO cannot serve the model; what it would ignore in silence counts as well."""
    architecture = _value(reader, "general.architecture")
    tokenizer = _value(reader, "tokenizer.ggml.model")
    names = {tensor.name for tensor in reader.tensors}
    scaling = _value(reader, f"{architecture}.rope.scaling.type") or "none"
    if architecture not in ARCHITECTURES:
        return f"OpenVINO reads {', '.join(ARCHITECTURES)} from GGUF files, not {architecture}"
    if tokenizer != "gpt2":
        return f"its tokenizer is {tokenizer}, and OpenVINO reads only byte-level BPE (gpt2) from a GGUF"
    if any("_exps." in name for name in names):
        return "it is a mixture of experts, which OpenVINO does not read from a GGUF"
    if "rope_freqs.weight" in names or scaling != "none":
        return "it scales its positions, which OpenVINO's reader of GGUF files ignores"
    if (_value(reader, "split.count") or 1) > 1:
        return "it is in several files, and OpenVINO reads one"
    return None


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _stays(tensor: Any) -> bool:
    return len(tensor.shape) == 1 or tensor.tensor_type.name in _KEPT


def _rewrite(reader: Any, path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, _value(reader, "general.architecture"), use_temp_file=True)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        data, kind = (tensor.data, tensor.tensor_type) if _stays(tensor) else _changed(tensor)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _changed(tensor: Any) -> tuple[Any, Any]:
    """(numbers, their format): Q8_0 has 8 bits and a scale for 32, which loses nothing that 6 bits could say."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    wide = tensor.tensor_type.name in _WIDE or _columns(tensor.shape) % _BLOCK
    kind = kinds.F16 if wide else kinds.Q8_0
    return gguf.quants.quantize(gguf.quants.dequantize(tensor.data, tensor.tensor_type), kind), kind


def _columns(shape: Sequence[int]) -> int:
    return int(shape[0])  # GGUF names the innermost dimension first
