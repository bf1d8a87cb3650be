"""quantization_config → how each matrix is stored: what the method is called, and the bytes that it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import ModelError
from headrace.facts import storage
from headrace.facts.modules import Modules, normal
from headrace.facts.settings import Settings
from headrace.facts.shapes import Matrix
from headrace.facts.storage import Storage

_KEPT_KEYS = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "llm_int8_skip_modules", "exclude")
_MODELOPT = {
    **{"FP8": storage.FP8, "NVFP4": storage.NVFP4, "W4A16_NVFP4": storage.NVFP4, "NVFP4_AWQ": storage.NVFP4},
    **{"FP8_PER_CHANNEL_PER_TOKEN": storage.FP8_CHANNEL, "FP8_PB_WO": storage.fp8_blocks(128, 128)},
    **{"MXFP4": storage.MXFP4, "W4A8_MXFP4_FP8": storage.MXFP4, "MXFP8": storage.MXFP8, "INT8_SQ": storage.INT8},
    **{"W4A16_AWQ": storage.grouped("int4", 4, 128, zeros=False), "W4A8_AWQ": storage.grouped("int4", 4, 128, zeros=False)},
    **{"W4A8_NVFP4_FP8": storage.NVFP4, "W8A16": storage.INT8, "INT4_AWQ": storage.grouped("int4", 4, 128, zeros=False)},
}
"""By NVIDIA modelopt's names of algorithms."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model is stored. `name` is None when it is not quantized; `dtype` is how all the rest is stored.

    A module named in `stored` is stored so; else `everywhere`, unless `kept` names it.
    """

    name: str | None
    dtype: Storage
    everywhere: Storage | None = None
    stored: Mapping[str, Storage] | None = None
    kept: Modules | None = None
    only_experts: bool = False
    head: bool = False
    routed: Storage | None = None
    """Of the experts, where they are stored in another way."""
    doubts: tuple[str, ...] = ()

    def bytes(self, matrix: Matrix) -> int:
        return (self._storage(matrix) or self.dtype).bytes(matrix)

    def _storage(self, matrix: Matrix) -> Storage | None:
        if self.stored and (stated := _inside(self.stored, normal(matrix.name))):
            return stated
        if not matrix.linear or (matrix.name == "lm_head" and not self.head) or (self.only_experts and not matrix.routed):
            return None
        if self.kept and matrix.name in self.kept:
            return None
        return self.routed if matrix.routed and self.routed else self.everywhere


def _inside(stored: Mapping[str, Storage], name: str) -> Storage | None:
    """What is stated for a module, or for one that holds it."""
    while name:
        if name in stored:
            return stored[name]
        name = name.rpartition(".")[0]
    return None


def settings_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The quantization settings of a config.json, which may stand in its language part; empty when there are none."""
    text = config.get("text_config")
    for values in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            settings = values.get(key)
            if isinstance(settings, Mapping) and settings:
                return settings
    return {}


def quantization(config: Mapping[str, Any]) -> Quantization:
    """How the weights of a config.json are stored, by its words. Raises ModelError for numbers that make no sense."""
    dtype, doubts = _dtype(config)
    values = settings_of(config)
    if not values:
        return Quantization(None, dtype, doubts=doubts)
    settings = Settings(values)
    method = (settings.text("quant_method", "quant_algo") or "").lower()
    kept = Modules(entry for key in _KEPT_KEYS for entry in _texts(values.get(key)))
    if isinstance(values.get("quantized_layers"), Mapping):
        return _mixed(settings, dtype, kept, method)
    if settings.text("quant_algo") or method.startswith("modelopt"):
        return _modelopt(settings, dtype, kept)
    read = _METHODS.get(method)
    if read is None:
        bits = f", counted at {dtype.bits:.0f} bits per number, which is too many" if method else ""
        unknown = f'the quantization "{method[:40] or "without a name"}" is not known{bits}'
        return Quantization(method[:40] or "unknown", dtype, doubts=(unknown,))
    found = read(settings)
    name = found.name
    routed = storage.MXFP4 if Settings(config).text("expert_dtype") == "fp4" else None
    return Quantization(
        f"{name}+{routed.name}" if routed else name,
        dtype,
        found,
        kept=kept,
        only_experts=method == "mxfp4",
        head=method == "compressed-tensors" or bool(settings.flag("lm_head")),
        routed=routed,
        doubts=_several_doubts(settings),
    )


def _dtype(config: Mapping[str, Any]) -> tuple[Storage, tuple[str, ...]]:
    for settings in (Settings(config).part("text_config"), Settings(config)):
        if name := settings.text("dtype", "torch_dtype"):
            name = name.removeprefix("torch.")
            if name in storage.DTYPES:
                return storage.DTYPES[name], ()
            return storage.BF16, (f'the number format "{name[:40]}" is not known and counted as bfloat16',)
    return storage.BF16, ()


def _texts(value: object) -> list[str]:
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list | tuple) else []


def _mixed(settings: Settings, dtype: Storage, kept: Modules, method: str) -> Quantization:
    """Each module's algorithm is listed (modelopt's MIXED_PRECISION); what is not listed follows `method`."""
    stored, unknown = {}, set()
    for module, stated in settings.raw("quantized_layers").items():
        algorithm = stated.get("quant_algo") if isinstance(stated, Mapping) else None
        if algorithm in _MODELOPT:
            stored[normal(str(module))] = _MODELOPT[algorithm]
        else:
            unknown.add(str(algorithm)[:40])
    names = [*dict.fromkeys(found.name for found in stored.values())]
    rest = _METHODS["fp8"](settings) if method == "fp8" else None
    if rest and rest.name not in names:
        names.append(rest.name)
    doubts = (f"the algorithms {', '.join(sorted(unknown)[:8])} are not known and counted unquantized",) if unknown else ()
    return Quantization("+".join(sorted(names)) or "unknown", dtype, rest, stored, kept, doubts=doubts)


def _modelopt(settings: Settings, dtype: Storage, kept: Modules) -> Quantization:
    algorithm = settings.text("quant_algo") or ""
    found = _MODELOPT.get(algorithm.upper())
    if found is None:
        doubt = f'modelopt\'s "{algorithm[:40]}" is not known, counted at {dtype.bits:.0f} bits per number, which is too many'
        return Quantization("modelopt", dtype, doubts=(doubt,))
    return Quantization(found.name, dtype, found, kept=kept)


def _fp8(settings: Settings) -> Storage:
    blocks = settings.numbers("weight_block_size")
    return storage.fp8_blocks(*blocks) if blocks and len(blocks) == 2 else storage.FP8


def _integers(settings: Settings) -> Storage:
    """AWQ, GPTQ and their kin; a group size of -1 is a whole row."""
    method = settings.text("quant_method") or ""
    name = {"auto-round": "gptq", "intel/auto-round": "gptq", "auto_round": "gptq"}.get(method.lower(), method.lower())
    bits = settings.need("bits", "w_bit")
    group = settings.raw("group_size") if "group_size" in settings else settings.raw("q_group_size")
    if bits > 16:
        raise ModelError(f'config.json: "bits" of the quantization is {bits}, and 1 to 16 make sense.')
    group = None if group == -1 else settings.find("group_size", "q_group_size") or 128
    return storage.grouped(name if bits == 4 else f"{name}-{bits}bit", bits, group, zeros=True)


def _bitsandbytes(settings: Settings) -> Storage:
    if settings.flag("load_in_8bit"):
        return storage.BNB_8BIT
    return storage.BNB_4BIT_DOUBLE if settings.flag("bnb_4bit_use_double_quant") else storage.BNB_4BIT


def _compressed(settings: Settings) -> Storage:
    """compressed-tensors: the first group's weights tell."""
    groups = settings.raw("config_groups")
    stated = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    first = Settings(stated if isinstance(stated, Mapping) else {})
    weights = first.part("weights")
    bits, kind = weights.find("num_bits") or 8, weights.text("type") or "float"
    form = (first.text("format") or settings.text("format") or "").lower()
    if kind == "float" and bits == 4:
        return storage.MXFP4 if form.startswith("mxfp4") or weights.find("group_size") == 32 else storage.NVFP4
    if kind == "float":
        blocks = weights.numbers("block_structure")
        by_channel = storage.FP8_CHANNEL if weights.text("strategy") == "channel" else storage.FP8
        return storage.fp8_blocks(*blocks) if blocks and len(blocks) == 2 else by_channel
    group = weights.raw("group_size")
    group = weights.find("group_size") if group != -1 else None
    return storage.grouped(f"int{bits}", bits, group, zeros=weights.flag("symmetric") is False)


def _several_doubts(settings: Settings) -> tuple[str, ...]:
    groups = settings.raw("config_groups")
    if isinstance(groups, Mapping) and len(groups) > 1:
        return ("it is quantized in several ways, of which only the first is counted",)
    return ()


_METHODS: Mapping[str, Callable[[Settings], Storage]] = {
    **dict.fromkeys(("fp8", "finegrained_fp8"), _fp8),
    **dict.fromkeys(("fbgemm_fp8", "ptpc_fp8"), lambda settings: storage.FP8_CHANNEL),
    **dict.fromkeys(("awq", "gptq", "gptq_marlin", "awq_marlin", "auto-round", "auto_round", "intel/auto-round"), _integers),
    **dict.fromkeys(("bitsandbytes",), _bitsandbytes),
    **dict.fromkeys(("compressed-tensors", "compressed_tensors"), _compressed),
    "mxfp4": lambda settings: storage.MXFP4,
    "eetq": lambda settings: storage.INT8,
}
