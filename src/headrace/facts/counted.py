"""The tensors of safetensors files → parameters: what they hold, packed or not, without scales and buffers."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace.errors import ModelError
from headrace.facts.base import Experts
from headrace.facts.quantization import settings_of
from headrace.facts.settings import Settings
from headrace.weights.headers import Tensor

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "F6_E3M2")
_SCALES = re.compile(
    r"([._]scales?(_inv|_2)?|_scale_inv|_global_scale|\.qzeros|\.g_idx|_zero_point|\.scb|_scales|_blocks_scale"
    r"|\.absmax|\.nested_absmax|\.quant_map|\.nested_quant_map|\.quant_state\..*|_shape|\.(weight|input)_scale_\d)$",
    re.I,
)
_ROUTED = re.compile(r"\.experts\.|_exps\.|\.experts_|\.moe_experts|\.switch_mlp\.|\.routed_experts\.")
_PACKED_BITS = {"gptq": 4, "awq": 4, "gptq_marlin": 4, "awq_marlin": 4, "auto-round": 4, "intel/auto-round": 4}


def parameters(config: Mapping[str, Any], tensors: Sequence[Tensor]) -> tuple[int, int]:
    """(all parameters, those of routed experts) that the tensors hold. Raises ModelError."""
    packed = _packing(config, tensors)
    total = routed = 0
    for tensor in tensors:
        count = _held(tensor, packed)
        total += count
        routed += count if _ROUTED.search(tensor.name) else 0
    return total, routed


def experts(stated: Experts | None, routed: int) -> Experts | None:
    """The experts of the config, with the parameters that the tensors of routed experts hold."""
    if stated is None or not routed:
        return stated
    return Experts(stated.count, stated.per_token, routed)


def main_type(tensors: Iterable[Tensor]) -> str:
    """The number format of most bytes. Raises ModelError when there are none."""
    total: Counter[str] = Counter()
    for tensor in tensors:
        total[tensor.type] += tensor.bytes
    if not total:
        raise ModelError("The file has no tensors.")
    return max(total, key=lambda name: (total[name], name))


def told_by_names(tensors: Iterable[Tensor]) -> str | None:
    """The quantization that the names of scales give away, for repositories whose config.json does not mention it."""
    packed, second, types = False, False, set()
    for tensor in tensors:
        packed = packed or (tensor.name.endswith((".weight_packed", ".weight")) and tensor.type == "U8")
        second = second or tensor.name.endswith(".weight_scale_2")
        if tensor.name.endswith((".weight_scale", ".weight_scale_inv")):
            types.add("scaled")
        if tensor.type == "F8_E4M3" and tensor.name.endswith(".weight"):
            types.add("fp8")
    if packed and second:
        return "nvfp4"
    return "fp8" if types == {"scaled", "fp8"} else None


def _packing(config: Mapping[str, Any], tensors: Iterable[Tensor]) -> dict[str, int]:
    """How many numbers one element of a packed tensor holds, by the type of the tensor."""
    settings = Settings(settings_of(config))
    method = (settings.text("quant_method") or "").lower()
    bits = _bits(settings, method)
    # 4-bit numbers come in pairs of one byte in every format that uses bytes (NVFP4, MXFP4, bitsandbytes).
    half = {"U8": 2, "F4": 1}
    if Settings(config).text("expert_dtype") == "fp4":
        half["I8"] = 2
    return {"I32": 32 // bits, "U32": 32 // bits, **half} if bits else half


def _bits(settings: Settings, method: str) -> int:
    if method in _PACKED_BITS:
        return min(settings.need("bits", "w_bit"), 32)
    groups = settings.raw("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    return min(Settings(first if isinstance(first, Mapping) else {}).part("weights").find("num_bits") or 0, 32)


def _held(tensor: Tensor, packed: Mapping[str, int]) -> int:
    name = tensor.name
    if _SCALES.search(name):
        return 0
    if name.endswith((".qweight", ".weight_packed", "_blocks")):
        return tensor.elements * packed.get(tensor.type, 1)
    if tensor.type in _FLOATS:
        return tensor.elements
    if tensor.type in ("U8", "I8") and name.endswith((".weight", "_proj", ".w1", ".w2", ".w3")):
        return tensor.elements * packed.get(tensor.type, 1)
    return 0
